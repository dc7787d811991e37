# SPDX-License-Identifier: Apache-2.0
"""What is wrong is seen, told, and healed within a budget; what is not wrong calls nobody (simulated)."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import consoles, dashboards, rules

from tests.stand_in import powered
from tests.watch.test_rules import GROUPS, PROMTOOL, series_of
from tests.watch_life.conftest import REPLICAS, STEP_S, Row, Watched

pytestmark = pytest.mark.lab

OTHER = "lab-2"
#: Panels of what these hosts do not have, and what the panel says then.
NOT_TOLD = {
    "Prefix cache hits": "No prefix caching",
    "Unhealthy components": "None; drivers before 2.30 tell of none",
}
#: More than these tests do in an hour: what healing may do is tried by its own.
MANY = 20

#: How long the fleet is left alone to see that nobody is called, seconds.
STEADY_S = 60.0
#: Five looks of Prometheus and the longest `for` of the alerts that are waited for.
SOON_S = 240.0
SLOW = "SlowReplica"
CALLS = 'ALERTS{alertstate="firing",severity=~"page|warn"}'
SERVES = "count(trainyard:generation_tokens:rate3m > 0) > bool 0"
BOOTED = "systemctl show --property=UserspaceTimestamp --value"


def test_nobody_is_called_under_steady_load(watched: Watched) -> None:
    with watched.row("none, steady load") as row:
        end = time.monotonic() + STEADY_S
        while time.monotonic() < end:
            assert watched.pages() == []
            time.sleep(5)
        watched.restored(row, "nobody")
    assert [alert["labels"]["alertname"] for alert in watched.alerts("warn")] == []


def hour_of(samples: list[float], at_s: float, counts: bool) -> str:
    """An hour as promtool writes it, of what a series said within a minute: a counter goes on as it went."""
    if counts:
        grown = max(samples[-1] - samples[0], 0.0) / (len(samples) - 1)
        return f"{samples[-1]}+{grown}x{3600 // STEP_S}"
    # promtool's clock begins at 0, the lab's did long before.
    shifted = [value - at_s if value > at_s / 2 else value for value in samples]
    return " ".join(str(shifted[place % len(shifted)]) for place in range(3600 // STEP_S + 1))


def test_an_hour_of_such_a_load_would_call_nobody(watched: Watched, tmp_path: Path) -> None:
    """The minute that was seen, made an hour long, as Prometheus' own promtool evaluates the fleet's rules on it."""
    began_s = watched.rows[0].began_s
    groups = rules.rule_groups(watched.thresholds)
    recorded = {rule.get("record") for group in groups["groups"] for rule in group["rules"]}
    asked = set().union(*(series_of(rule["expr"]) for group in groups["groups"] for rule in group["rules"]))
    told = []
    for name in sorted(asked - recorded):
        for row in watched.within(f'{{__name__="{name}"}}', began_s, began_s + STEADY_S):
            samples = [float(value) for _at, value in row["values"]]
            if len(samples) < 2 or any(value != value for value in samples):
                continue
            labels = ",".join(f"{key}={json.dumps(value)}" for key, value in row["metric"].items() if key != "__name__")
            counts = name.endswith(("_total", "_bucket", "_sum", "_count"))
            text = hour_of(samples, began_s, counts and not name.startswith("trainyard_neuron"))
            if name == "trainyard_exporter_look_timestamp_seconds":
                text = f"0+{STEP_S}x{3600 // STEP_S}"
            told.append({"series": f"{name}{{{labels}}}", "values": text})
    assert len(told) > 500, "too little was recorded to be the whole fleet"
    for group in groups["groups"]:
        group.pop("interval")
    (tmp_path / "rules.json").write_text(json.dumps(groups), encoding="utf-8")
    hour: dict[str, Any] = {
        "rule_files": ["rules.json"],
        "evaluation_interval": f"{STEP_S}s",
        "group_eval_order": GROUPS,
        "tests": [
            {
                "interval": f"{STEP_S}s",
                "input_series": told,
                "promql_expr_test": [
                    {
                        "expr": f"count by (alertname) (count_over_time({CALLS}[1h]))",
                        "eval_time": "1h",
                        "exp_samples": [],
                    },
                    # It is a load indeed, and the rules see it.
                    {"expr": SERVES, "eval_time": "1h", "exp_samples": [{"labels": "{}", "value": 1}]},
                ],
            }
        ],
    }
    path = tmp_path / "hour.yml"
    path.write_text(yaml.safe_dump(hour), encoding="utf-8")
    done = subprocess.run([PROMTOOL, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_nobody_is_called_in_a_roll(watched: Watched) -> None:
    seen: set[str] = set()
    with watched.row("none, a roll of every replica") as row:
        process, log = watched.fleet.start("redeploy", watched.fleet.renewed(), "--skip-tags=provision,compile")
        while process.poll() is None:
            seen |= set(watched.pages())
            time.sleep(2)
        assert process.wait() == 0, log.read_text()[-3000:]
        watched.restored(row, "the roll")
    assert seen == set()


def test_a_replica_becomes_slow(watched: Watched) -> None:
    """Only a quarter of an hour of it is told, in the last test but a few: others go on meanwhile."""
    with watched.row("slow-tokens"):
        watched.fault("slow-tokens", "--replica", "tiny-llama-2", "--factor", "3", host=OTHER)


def test_an_engine_that_crashes_comes_back_by_itself_and_is_told(watched: Watched) -> None:
    with watched.row("engine-crash") as row:
        watched.fault("engine-crash", "--replica", "tiny-llama-3")
        watched.until(lambda: watched.up() < REPLICAS, 30, "the replica leaves rotation")
        watched.restored(row, "the standing probe")
        watched.alerted(row, SOON_S, alertname="ReplicaRestarted", replica="tiny-llama-3")
    assert watched.pages() == []


def test_an_engine_that_hangs_is_ended_by_the_probe(watched: Watched) -> None:
    watched.whole()
    with watched.row("hang") as row:
        watched.fault("hang", "--replica", "tiny-llama-2")
        watched.until(lambda: watched.up() < REPLICAS, SOON_S, "the replica leaves rotation")
        watched.restored(row, "the standing probe")
        watched.alerted(row, SOON_S, alertname="ReplicaRestarted", replica="tiny-llama-2", host=watched.host)
    watched.fault("clear")


def test_a_server_that_is_killed_comes_back_by_itself_and_is_told(watched: Watched) -> None:
    watched.whole()
    with watched.row("server-sigkill") as row:
        watched.fault("server-sigkill", "--replica", "tiny-llama-3", host=OTHER)
        watched.until(lambda: watched.up() < REPLICAS, 30, "the replica leaves rotation")
        watched.restored(row, "systemd")
        watched.alerted(row, SOON_S, alertname="ReplicaRestarted", replica="tiny-llama-3", host=OTHER)
    assert watched.pages() == []


@pytest.mark.parametrize(
    ("what", "line"),
    [("the router restarts", "systemctl restart haproxy"), ("the fence is flushed", "nft flush ruleset")],
)
def test_what_mends_itself_within_seconds_calls_nobody(watched: Watched, what: str, line: str) -> None:
    watched.whole()
    with watched.row(what) as row:
        watched.fleet.on(watched.host, line)
        watched.restored(row, "systemd" if "router" in what else "the fence's watch")
        time.sleep(3 * STEP_S)
        watched.seen(row, host=watched.host)
    assert watched.pages() == []


def test_a_broken_device_is_left_and_taken_back_when_it_is_replaced(watched: Watched) -> None:
    watched.whole()
    before = watched.placed()
    moved = f"{watched.host}:tiny-llama-0"
    with watched.row("hbm-error") as row:
        watched.fault("hbm-error", "--device", "0")
        alert = watched.alerted(row, SOON_S, alertname="UncorrectableECC")
        assert (alert["labels"]["device"], alert["labels"]["finding"]) == ("0", "quarantine_device")
        watched.until(lambda: watched.told(alertname="UncorrectableECC"), 60, "Alertmanager has it")
        run = watched.heal()
        assert run.code == 0, run.text[-4000:]
        watched.restored(row, "heal.yml: quarantine_device")
    artifact = before[moved][1]
    watched.until(lambda: watched.placed() != before, 60, "the host tells where its replicas are")
    # The others stay where they are, and nothing is compiled.
    assert watched.placed() == {**before, moved: ("32-39", artifact)}
    watched.until(lambda: not watched.alerts(alertname="UncorrectableECC"), 60, "what is healed calls nobody")
    again = watched.heal({"finding": "quarantine_device", "host": watched.host, "device": 0})
    assert again.code == 0 and "it is out of the plan already" in again.text

    with watched.row("the device is replaced") as row:
        watched.fault("clear")
        watched.alerted(row, SOON_S, alertname="DeviceReplaced")
        watched.until(lambda: watched.told(alertname="DeviceReplaced"), 60, "Alertmanager has it")
        run = watched.heal()
        assert run.code == 0, run.text[-4000:]
        watched.restored(row, "heal.yml: lift_quarantine")
    watched.until(lambda: watched.placed() == before, 60, "it is home again")


def test_beyond_the_budget_nothing_is_done_and_a_person_is_called(watched: Watched) -> None:
    """Two actions of this hour are spent; a replica whose probe is away hangs."""
    finding = {"finding": "restart_replica", "host": watched.host, "replica": "tiny-llama-1", "alert": "TokensStopped"}
    well = watched.heal(finding)
    assert well.code == 0 and "a false alarm: it generates" in well.text, well.text[-3000:]
    with watched.row("hang, and the probe is away") as row:
        watched.fleet.on(watched.host, "systemctl stop trainyard-probe")
        watched.fault("hang", "--replica", "tiny-llama-1")
        refused = watched.heal(finding)
        assert refused.code == 0 and "its budget is 2" in refused.text, refused.text[-3000:]
        told = watched.until(lambda: watched.told(alertname="HealingNeedsYou"), 60, "a person is called")
        row.alert, row.alert_s = "HealingNeedsYou", time.time() - row.began_s
        row.told = told[0]["annotations"]["summary"]
        # A person lets it.
        more = watched.heal(finding, actions=3)
        assert more.code == 0, more.text[-4000:]
        watched.restored(row, "heal.yml: restart_replica")
    with watched.row("the probe is stopped") as away:
        # It has been since then; what was lost is the hang's.
        away.began_s = row.began_s - 0.001
        watched.alerted(away, SOON_S, alertname="ProbeDown", host=watched.host)
        watched.seen(away, alertname="ProbeDown", host=watched.host)
        watched.fleet.on(watched.host, "systemctl start trainyard-probe")
        watched.until(lambda: not watched.alerts(alertname="ProbeDown"), 60, "it looks again")
        away.restored_s, away.by = time.time() - away.began_s, "a person: systemctl start"
    watched.fault("clear")


def test_a_replica_that_is_slow_for_a_quarter_of_an_hour_is_told_and_drained_on_a_persons_word(
    watched: Watched,
) -> None:
    (row,) = (one for one in watched.rows if one.fault == "slow-tokens")
    slow = {"replica": "tiny-llama-2", "host": OTHER}
    watched.alerted(row, 1200, alertname=SLOW, **slow)
    watched.seen(row, alertname=SLOW, **slow)
    assert watched.pages() == []
    drained = watched.heal({"finding": "drain_replica", "alert": SLOW, **slow}, MANY)
    assert drained.code == 0 and "drain replica" in drained.text, drained.text[-4000:]
    watched.until(lambda: watched.up() == REPLICAS - 1, 30, "it is sent nothing more")
    row.restored_s, row.by = time.time() - row.began_s, "heal.yml, on a person's word: drain_replica"
    watched.fault("clear", host=OTHER)
    again = watched.heal({"finding": "drain_replica", "alert": SLOW, "over": True, **slow}, MANY)
    assert again.code == 0 and "readmit replica" in again.text, again.text[-4000:]
    watched.whole()


def healed(watched: Watched, row: Row, action: str, device: int, alert: str) -> None:
    """Wait for a device's alert, and heal what it finds."""
    found = watched.alerted(row, SOON_S, alertname=alert, host=OTHER, device=str(device))
    finding = {"finding": found["labels"]["finding"], "host": OTHER, "device": device, "alert": alert}
    run = watched.heal(finding, MANY)
    assert run.code == 0 and f"{action.replace('_', ' ')}: " in run.text, run.text[-4000:]
    watched.restored(row, f"heal.yml: {action}")


def test_memory_that_a_reboot_repairs_costs_one_boot_of_a_drained_host(watched: Watched) -> None:
    watched.whole()
    before, booted = watched.placed(), watched.fleet.on(OTHER, BOOTED)
    with watched.row("repairable-hbm-error") as row, powered(watched.lab, OTHER) as power:
        watched.fault("repairable-hbm-error", "--device", "0", host=OTHER)
        healed(watched, row, "reboot_host", 0, "RepairableECC")
    assert power == [f"{OTHER} rebooted"]
    assert watched.fleet.on(OTHER, BOOTED) != booted
    assert watched.placed() == before
    # The host that routes would cut every stream.
    watched.fault("repairable-hbm-error", "--device", "9")
    try:
        watched.until(lambda: watched.alerts(alertname="RepairableECC", host=watched.host), SOON_S, "it is told")
        refused = watched.heal({"finding": "reboot_host", "host": watched.host, "device": 9}, MANY)
    finally:
        watched.fault("clear")
    assert "lab-1 routes, and a reboot cuts every stream that it carries" in refused.text, refused.text[-4000:]


def test_a_host_that_boots_by_itself_serves_again_by_itself(watched: Watched) -> None:
    watched.whole()
    with watched.row("reboot") as row:
        watched.fault("reboot", host=OTHER)
        watched.restored(row, "systemd")
        time.sleep(3 * STEP_S)
        watched.seen(row, host=OTHER)


def test_a_device_with_sram_errors_is_left_by_its_replicas(watched: Watched) -> None:
    watched.whole()
    with watched.row("sram-error") as row:
        watched.fault("sram-error", "--device", "0", host=OTHER)
        healed(watched, row, "quarantine_device", 0, "UncorrectableECC")
    moved = f"{OTHER}:tiny-llama-0"
    watched.until(lambda: watched.placed()[moved][0] == "32-39", 60, "the host tells where it is")


def shown(query: str) -> str:
    """What a query picks from: the same without the comparison that leaves some of it out."""
    return re.sub(r" (==|>|>=) \d+$", "", query)


def has_data(watched: Watched, query: str, may_be_over: bool) -> bool:
    """Whether a query gives something; or did, or what it picks from is there."""
    if watched.query(query):
        return True
    return may_be_over and bool(watched.query(shown(query)) or watched.within(query, watched.began_s))


def test_no_panel_of_a_dashboard_is_without_data(watched: Watched) -> None:
    """Each has data now; a table of what is wrong or under way has had rows, or what it picks from is there."""
    empty = {
        panel.title
        for dashboard in dashboards.DASHBOARDS.values()
        for panel in dashboard.panels
        if not has_data(watched, dashboards.of_all(panel.query), panel.kind == dashboards.ROWS)
    }
    assert empty == set(NOT_TOLD)
    for board in dashboards.DASHBOARDS.values():
        for panel in board.panels:
            assert panel.empty == NOT_TOLD.get(panel.title, "None")
    said = {panel.query: panel.title for board in dashboards.DASHBOARDS.values() for panel in board.panels}
    not_told = {dashboards.of_all(query) for query, title in said.items() if title in NOT_TOLD}
    assert {cell for cell in consoles.queries() if not has_data(watched, cell, True)} == not_told


def test_the_pages_show_the_fleet_as_it_is_after_all_that(watched: Watched) -> None:
    for name, (title, _tables) in consoles.PAGES.items():
        page = watched.page(name)
        assert f"<h1>{title}</h1>" in page
        if watched.pages_to:
            watched.pages_to.mkdir(parents=True, exist_ok=True)
            (watched.pages_to / f"{name}.html").write_text(page, encoding="utf-8")
