# SPDX-License-Identifier: Apache-2.0
"""What is wrong is seen, told, and healed within a budget; what is not wrong calls nobody (simulated)."""

from __future__ import annotations

import time

import pytest

from tests.watch_life.conftest import REPLICAS, Watched

pytestmark = pytest.mark.lab

#: How long the fleet is left alone to see that nobody is called, seconds.
STEADY_S = 60.0
#: Five looks of Prometheus and the longest `for` of the alerts that are waited for.
SOON_S = 240.0


def test_nobody_is_called_under_steady_load(watched: Watched) -> None:
    with watched.row("none, steady load") as row:
        end = time.monotonic() + STEADY_S
        while time.monotonic() < end:
            assert watched.pages() == []
            time.sleep(5)
        watched.restored(row, "nobody")
    assert [alert["labels"]["alertname"] for alert in watched.alerts("warn")] == []


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


def test_an_engine_that_crashes_comes_back_by_itself_and_is_told(watched: Watched) -> None:
    with watched.row("engine-crash") as row:
        watched.fault("engine-crash", "--replica", "tiny-llama-3")
        watched.until(lambda: watched.up() < REPLICAS, 30, "the replica leaves rotation")
        watched.restored(row, "the standing probe")
        watched.alerted(row, SOON_S, alertname="ReplicaRestarted", replica="tiny-llama-3")
    assert watched.pages() == []


def test_an_engine_that_hangs_is_ended_by_the_probe(watched: Watched) -> None:
    with watched.row("hang") as row:
        watched.fault("hang", "--replica", "tiny-llama-2")
        watched.until(lambda: watched.up() < REPLICAS, SOON_S, "the replica leaves rotation")
        watched.restored(row, "the standing probe")
        watched.alerted(row, SOON_S, alertname="ReplicaRestarted", replica="tiny-llama-2")
    watched.fault("clear")


def test_a_broken_device_is_left_and_taken_back_when_it_is_replaced(watched: Watched) -> None:
    before = watched.placed()
    with watched.row("hbm-error") as row:
        watched.fault("hbm-error", "--device", "0")
        alert = watched.alerted(row, SOON_S, alertname="UncorrectableECC")
        assert (alert["labels"]["device"], alert["labels"]["finding"]) == ("0", "quarantine_device")
        watched.until(lambda: watched.told(alertname="UncorrectableECC"), 60, "Alertmanager has it")
        run = watched.heal()
        assert run.code == 0, run.text[-4000:]
        watched.restored(row, "heal.yml: quarantine_device")
    artifact = before["tiny-llama-0"][1]
    watched.until(lambda: watched.placed() != before, 60, "the host tells where its replicas are")
    # The others stay where they are, and nothing is compiled.
    assert watched.placed() == {**before, "tiny-llama-0": ("32-39", artifact)}
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
        more = watched.fleet.run("heal", {"trainyard_finding": finding, "trainyard_heal": {"actions_per_hour": 3}})
        assert more.code == 0, more.text[-4000:]
        watched.fleet.on(watched.host, "systemctl start trainyard-probe")
        watched.restored(row, "heal.yml: restart_replica")
    watched.fault("clear")
