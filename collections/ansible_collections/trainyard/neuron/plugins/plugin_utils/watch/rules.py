# SPDX-License-Identifier: Apache-2.0
"""The rules that Prometheus evaluates, made from `rules.yml` with an inventory's thresholds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List

import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean

SOURCE = Path(__file__).with_name("rules.yml")
RUNBOOKS = "https://github.com/trainyard/trainyard/blob/main/docs/alerts.md"
#: How often recording rules and alerts are evaluated, seconds.
INTERVAL_S = 15
#: Bounds of vLLM's histograms, seconds: what is promised has to be one of them, since nothing lies between two.
TTFT_BOUNDS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
ITL_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_BOUNDS_S = {"ttft_slo_s": TTFT_BOUNDS_S, "itl_slo_s": ITL_BOUNDS_S}
_WORD = re.compile(r"<([a-z_]+)>")
_PLAYBOOK = re.compile(r"playbooks/[a-z_]+\.yml")


class ThresholdError(ValueError):
    """Thresholds of an inventory that cannot be: all of them, a line each."""


@lru_cache(maxsize=1)
def source() -> Dict[str, Any]:
    """Return what `rules.yml` says."""
    found: Dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return found


def thresholds_of(given: Mapping[str, Any]) -> Dict[str, float]:
    """Return every threshold, the given ones in the place of their defaults.

    Args:
        given: an inventory's own, by name.

    Raises:
        ThresholdError: an unknown name, no number, or a promise that no bucket of vLLM tells.
    """
    known = source()["thresholds"]
    problems = []
    for name, value in given.items():
        where = f"monitoring_thresholds.{name}: {value!r}"
        if name not in known:
            problems.append(
                f"{where} is no threshold: {did_you_mean(str(name), known) or 'known are ' + ', '.join(known)}"
            )
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            problems.append(f"{where} must be a number above 0, in {known[name]['unit']}; leave it out for the default")
        elif name in _BOUNDS_S and float(value) not in _BOUNDS_S[name]:
            bounds = ", ".join(f"{bound:g}" for bound in _BOUNDS_S[name])
            problems.append(f"{where} is no bound of vLLM's histogram, so nobody counts it: take one of {bounds}")
        elif known[name]["unit"] == "ratio" and name.endswith(("slo_miss_ratio", "used_ratio")) and value >= 1:
            problems.append(f"{where} is a share, and never reached: give it below 1")
    if problems:
        raise ThresholdError("\n".join(problems))
    return {name: float(given.get(name, row["default"])) for name, row in known.items()}


def rule_groups(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the file of rules, as Prometheus reads it.

    Args:
        given: thresholds of an inventory, by name; the others have their defaults.

    Raises:
        ThresholdError: as of `thresholds_of`.
    """
    words = {name: f"{value:g}" for name, value in thresholds_of(given).items()}
    records = [_record(row, {**words, "window": window}) for row in source()["records"] for window in _windows(row)]
    alerts = [_alert(row, words) for row in source()["alerts"]]
    return {
        "groups": [
            {"name": "trainyard-series", "interval": f"{INTERVAL_S}s", "rules": records},
            {"name": "trainyard-alerts", "interval": f"{INTERVAL_S}s", "rules": alerts},
        ]
    }


def _windows(row: Mapping[str, Any]) -> List[str]:
    return list(source()["windows"]) if "<window>" in row["record"] else [""]


def _filled(text: str, words: Mapping[str, str]) -> str:
    return _WORD.sub(lambda found: words[found[1]], text)


def _record(row: Mapping[str, Any], words: Mapping[str, str]) -> Dict[str, Any]:
    return {"record": _filled(row["record"], words), "expr": _filled(row["expr"], words)}


def _alert(row: Mapping[str, Any], words: Mapping[str, str]) -> Dict[str, Any]:
    labels = {"severity": row["severity"], **({"finding": row["finding"]} if "finding" in row else {})}
    annotations = {"summary": row["summary"], "do": row["do"], "runbook_url": f"{RUNBOOKS}#{row['alert'].lower()}"}
    timing = {"for": row["for"]} if "for" in row else {}
    return {
        "alert": row["alert"],
        "expr": _filled(row["expr"], words),
        **timing,
        "labels": labels,
        "annotations": annotations,
    }


def alerts() -> Iterator[Mapping[str, Any]]:
    """Return each alert as `rules.yml` has it."""
    return iter(source()["alerts"])


def playbooks_of(alert: Mapping[str, Any]) -> List[str]:
    """Return the playbooks that an alert's next step names."""
    return sorted(set(_PLAYBOOK.findall(alert["do"])))
