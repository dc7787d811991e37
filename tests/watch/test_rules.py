# SPDX-License-Identifier: Apache-2.0
"""The shipped rules, evaluated by Prometheus' own promtool: each alert fires when it should and only then."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.page import SERIES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import rules

from tests.programs import program
from trainyard.paths import ROOT

PROMTOOL = program("promtool", "prometheus")
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed, and its package cannot be had")
CASES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "cases.yml").read_text(encoding="utf-8"))
ALERTS = {alert["alert"]: alert for alert in rules.alerts()}
#: Fire whatever is watched: one that says so, and one that finds no host among a case's few series.
ALWAYS = {"Watching", "NothingIsWatched"}
SIDES = ("fires", "silent")
GROUPS = [group["name"] for group in rules.rule_groups({})["groups"]]


def expanded(series: str) -> str:
    """A series of a case with the labels that its R stands for."""
    return re.sub(
        r"\bR(\d?)(?=[,}])",
        lambda found: f'host="h1",deployment="d",replica="d-{found[1] or 0}"',
        series,
    )


def promtool_test(name: str, side: str) -> dict[str, Any]:
    """A case as promtool takes it: which alerts fire is compared whole, so another one would show."""
    case = CASES[name][side]
    firing = {*case.get("others", ()), *([name] if side == "fires" else [])}
    quiet = "|".join(sorted(ALWAYS - {name}))
    expression = f'count by (alertname) (ALERTS{{alertstate="firing",alertname!~"{quiet}"}})'
    found = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(firing)]
    return {
        "name": f"{name} {side}",
        "interval": "1m",
        "input_series": [{"series": expanded(key), "values": str(value)} for key, value in case["series"].items()],
        "promql_expr_test": [{"expr": expression, "eval_time": case["at"], "exp_samples": found}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the rules as Prometheus gets them."""
    made = tmp_path_factory.mktemp("rules")
    groups = rules.rule_groups({})
    # Evaluated once a minute, as the cases have samples: a quarter of the time.
    for group in groups["groups"]:
        assert group.pop("interval") == "15s"
    (made / "trainyard.json").write_text(json.dumps(groups), encoding="utf-8")
    return made


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_takes_the_rules(folder: Path) -> None:
    done = promtool("check", "rules", "--lint-fatal", folder / "trainyard.json")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("side", SIDES)
def test_each_alert_fires_when_it_should_and_only_then(folder: Path, side: str) -> None:
    for takes_hours, interval in ((False, "1m"), (True, "10m")):
        # What lasts hours is evaluated less often: else half a minute of processor time.
        cases = [name for name in CASES if side in CASES[name] and ("h" in CASES[name][side]["at"]) == takes_hours]
        # Alerts read what was recorded just before, and promtool has no order of its own.
        told = {"rule_files": ["trainyard.json"], "evaluation_interval": interval, "group_eval_order": GROUPS}
        path = folder / f"{side}-{interval}.yml"
        tests = [promtool_test(name, side) for name in cases]
        path.write_text(yaml.safe_dump({**told, "tests": tests}), encoding="utf-8")
        done = promtool("test", "rules", path)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_case_that_does_not_hold_is_found(folder: Path) -> None:
    """The test itself notices: a case whose alert does not fire fails."""
    wrong = {
        **promtool_test("KVFull", "silent"),
        "promql_expr_test": promtool_test("KVFull", "fires")["promql_expr_test"],
    }
    path = folder / "wrong.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["trainyard.json"], "tests": [wrong]}), encoding="utf-8")
    assert promtool("test", "rules", path).returncode == 1


@needs_promtool
def test_a_replica_without_prefix_caching_has_no_share_of_hits_and_not_less_than_none(folder: Path) -> None:
    labels = '{host="h1",deployment="d",replica="d-%d"}'
    shares = (-1, 0, 0.25)
    told = {
        "input_series": [
            {"series": "vllm:gpu_prefix_cache_hit_rate" + labels % index, "values": f"{share}x5"}
            for index, share in enumerate(shares)
        ],
        "promql_expr_test": [
            {
                "expr": "trainyard:prefix_hit_ratio",
                "eval_time": "5m",
                "exp_samples": [
                    {"labels": "trainyard:prefix_hit_ratio" + labels % index, "value": share}
                    for index, share in enumerate(shares)
                    if share >= 0
                ],
            }
        ],
    }
    path = folder / "prefix.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["trainyard.json"], "tests": [{"interval": "1m", **told}]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_of_each_side() -> None:
    """But one, which says that alerting works and never stops."""
    assert set(CASES) == set(ALERTS)
    assert [name for name in CASES if set(CASES[name]) != set(SIDES)] == ["Watching"]


def test_every_alert_says_what_to_do_and_names_a_playbook_that_there_is() -> None:
    for name, alert in ALERTS.items():
        named = rules.playbooks_of(alert)
        assert named or "`trainyard " in alert["do"], f"{name} names nothing to run"
        assert [path for path in named if not (ROOT / path).is_file()] == [], name
        assert alert["severity"] in ("page", "warn", "info", "none"), name


def test_every_threshold_is_used_and_none_is_missing() -> None:
    text = "".join(row["expr"] for row in [*rules.source()["records"], *rules.source()["alerts"]])
    assert set(re.findall(r"<([a-z_]+)>", text)) - {"window"} == set(rules.source()["thresholds"])


def test_thresholds_of_an_inventory_replace_the_defaults() -> None:
    groups = rules.rule_groups({"queue_time_s": 12, "ttft_slo_s": 2.5})["groups"]
    by_name = {rule.get("alert", rule.get("record")): rule for group in groups for rule in group["rules"]}
    assert by_name["QueueTimeHigh"]["expr"] == "trainyard:queue_time_s:mean10m > 12"
    assert 'le=~"2.5(' in by_name["trainyard:ttft_late:ratio_rate5m"]["expr"]
    assert {f"trainyard:itl_late:ratio_rate{window}" for window in ("5m", "30m", "1h", "6h")} <= set(by_name)


def test_all_that_is_wrong_with_thresholds_is_said_at_once() -> None:
    with pytest.raises(rules.ThresholdError) as caught:
        rules.rule_groups({"queue_times_s": 1, "kv_usage_ratio": True, "ttft_slo_s": 3, "disk_used_ratio": 1.5})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "did you mean 'queue_time_s'" in lines[0]
    assert "monitoring_thresholds.kv_usage_ratio: True must be a number above 0, in ratio" in lines[1]
    assert "take one of" in lines[2] and "2.5, 5" in lines[2]
    assert "never reached" in lines[3]


#: What vLLM has in one line or another; sources: engine/metrics.py of 0.9, v1/metrics/loggers.py of 0.11 and of 0.32.
VLLM = {
    *("num_requests_running", "num_requests_waiting", "num_preemptions_total", "generation_tokens_total"),
    "request_success_total",
    *("kv_cache_usage_perc", "gpu_cache_usage_perc", "gpu_prefix_cache_hit_rate"),
    *("prefix_cache_hits_total", "gpu_prefix_cache_hits_total", "prefix_cache_queries_total"),
    *("gpu_prefix_cache_queries_total", "request_queue_time_seconds_sum", "request_queue_time_seconds_count"),
    *("time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    "time_per_output_token_seconds_bucket",
}
#: Of the exporter that AWS ships, of the watch over blocks, of HAProxy and of Prometheus itself.
OTHERS = {
    *("hardware_ecc_events_total", "execution_status_total", "neuroncore_utilization_ratio"),
    "trainyard_instance_event_timestamp_seconds",
    *("haproxy_frontend_http_responses_total", "haproxy_backend_current_queue", "up"),
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = {
    *(
        "sum",
        "max",
        "avg",
        "count",
        "by",
        "on",
        "unless",
        "and",
        "or",
        "offset",
        "rate",
        "increase",
        "absent",
        "vector",
    ),
    *("time", "quantile", "histogram_quantile", "label_replace", "max_over_time", "group_left"),
}


def series_of(expression: str) -> set[str]:
    """The names of series in an expression, without labels, windows and PromQL's own words."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|on|group_left) *\([^)]*\)|\boffset \w+', " ", expression)
    return {name for name in _NAME.findall(bare) if name not in _WORDS and not name.isdigit()}


def test_every_series_of_a_rule_is_one_that_somebody_says() -> None:
    found = [rule for group in rules.rule_groups({})["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in found if "record" in rule}
    known = {*recorded, *SERIES, *OTHERS, *(f"vllm:{name}" for name in VLLM)}
    asked = set().union(*(series_of(rule["expr"]) for rule in found))
    assert asked - known == set()
    assert {"vllm:kv_cache_usage_perc", "trainyard_drift", "trainyard:itl_s:p50", "up"} <= asked, "they are read at all"


#: A queue of 60 of which 6 a minute are answered is gone in ten minutes; and two hosts' price, of one shared.
_SCALE = {
    "vllm:num_requests_waiting{R}": "60x30",
    'vllm:request_success_total{R,finished_reason="stop"}': "0+6x30",
    "trainyard_replica_start_seconds{R}": "300x30",
}
_COST = {
    'trainyard_price_per_host_hour_usd{host="h1"}': "30x30",
    'trainyard_price_per_host_hour_usd{host="h2"}': "36x30",
    'trainyard_replica_info{host="h1",deployment="d",replica="d-0"}': "1x30",
    'trainyard_replica_info{host="h2",deployment="d",replica="d-0"}': "1x30",
    'trainyard_replica_info{host="h2",deployment="e",replica="e-0"}': "1x30",
    'trainyard_replica_info{host="h2",deployment="e",replica="e-1"}': "1x30",
    'vllm:generation_tokens_total{host="h1",deployment="d",replica="d-0"}': "0+6000x30",
    'vllm:generation_tokens_total{host="h2",deployment="e",replica="e-0"}': "0x30",
}


@needs_promtool
@pytest.mark.parametrize(
    ("series", "expression", "value"),
    [
        (_SCALE, 'trainyard:queue_gone_s{deployment="d"}', 600),
        (_SCALE, 'trainyard:would_scale{deployment="d"}', 1),
        # It starts for longer than the queue lasts.
        ({**_SCALE, "trainyard_replica_start_seconds{R}": "900x30"}, 'trainyard:would_scale{deployment="d"}', 0),
        ({**_SCALE, "vllm:num_requests_waiting{R}": "0x30"}, 'trainyard:would_scale{deployment="d"}', 0),
        # A queue of which nothing is answered does not end.
        ({**_SCALE, 'vllm:request_success_total{R,finished_reason="stop"}': "9x30"}, "trainyard:would_scale", 1),
        (_COST, 'trainyard:usd_per_hour{deployment="d"}', 42),
        (_COST, 'trainyard:usd_per_hour{deployment="e"}', 24),
        # 100 tokens a second are 360,000 an hour.
        (_COST, 'trainyard:usd_per_million_tokens{deployment="d"}', 1e6 * 42 / 360000),
        (_COST, 'count(trainyard:usd_per_million_tokens{deployment="e"}) or vector(0)', 0),
    ],
)
def test_what_is_recorded_of_queues_and_costs(
    folder: Path, series: dict[str, str], expression: str, value: float
) -> None:
    asked = f"round(sum({expression}), 0.001)"
    test = {
        "interval": "1m",
        "input_series": [{"series": expanded(key), "values": text} for key, text in series.items()],
        "promql_expr_test": [
            {"expr": asked, "eval_time": "25m", "exp_samples": [{"labels": "{}", "value": round(value, 3)}]}
        ],
    }
    path = folder / "recorded.yml"
    told = {"rule_files": ["trainyard.json"], "evaluation_interval": "1m", "group_eval_order": GROUPS}
    path.write_text(yaml.safe_dump({**told, "tests": [test]}), encoding="utf-8")
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
