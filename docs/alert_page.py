# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/alerts.md from the rules that the collection ships.

python docs/alert_page.py            writes
python docs/alert_page.py --check    fails, with a diff, where the page is not current
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import rules  # noqa: E402

PAGE = ROOT / "docs/alerts.md"
BEGIN, END = "<!-- Alerts: written by docs/alert_page.py from the rules -->", "<!-- End of alerts -->"
SEVERITIES = {"page": "wakes a person", "warn": "for the day", "info": "for plans", "none": "always there"}


def _section(alert: Mapping[str, Any]) -> list[str]:
    """One alert: its heading is the anchor that a notification links to."""
    summary = alert["summary"].replace("{{ $labels.", "*").replace("{{ $value | humanizeDuration }}", "*a time*")
    summary = summary.replace("{{ $value | humanizePercentage }}", "*a share*").replace(" }}", "*")
    after = f" after {alert['for']}" if "for" in alert else " at once"
    finding = f" Finding: `{alert['finding']}`." if "finding" in alert else ""
    return [
        f"### {alert['alert']}",
        "",
        f"{summary}. **{alert['severity']}**{after}.{finding}",
        "",
        f"Next: {alert['do']}.",
        "",
        "```promql",
        " ".join(alert["expr"].split()),
        "```",
        "",
    ]


def tables() -> str:
    """Thresholds, then a section for each alert."""
    lines = ["| threshold | default | unit | what |", "| --- | --- | --- | --- |"]
    for name, row in rules.source()["thresholds"].items():
        lines.append(f"| `{name}` | {row['default']:g} | {row['unit']} | {row['what']} |")
    lines += ["", "| alert | severity | after | what |", "| --- | --- | --- | --- |"]
    for alert in rules.alerts():
        name, severity = alert["alert"], alert["severity"]
        means = SEVERITIES[severity]
        lines.append(f"| [{name}](#{name.lower()}) | {severity} | {alert.get('for', 'at once')} | {means} |")
    lines.append("")
    for alert in rules.alerts():
        lines += _section(alert)
    return "\n".join(lines).rstrip()


def wanted() -> str:
    """What the page is to be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found that the page is not current."""
    parser = argparse.ArgumentParser(description="Write the alerts into docs/alerts.md.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(argv).check
    found, current = PAGE.read_text(encoding="utf-8"), wanted()
    if found == current:
        return 0
    if not check:
        PAGE.write_text(current, encoding="utf-8")
        return 0
    lines = (text.splitlines(keepends=True) for text in (found, current))
    sys.stdout.writelines(difflib.unified_diff(*lines, str(PAGE), "current"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
