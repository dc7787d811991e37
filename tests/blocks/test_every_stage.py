# SPDX-License-Identifier: Apache-2.0
"""Every stage knows when its hosts' capacity block ends: what would not be over before they leave is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible_collections.trainyard.neuron.plugins.action import roll_plan, roll_step
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import runner
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, ec2_blocks
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import inventory
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import NextWave
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Settings
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.roll.fleets import planned

from trainyard.paths import ROOT

from .conftest import Account

END = datetime(2026, 12, 2, 11, 30, tzinfo=UTC)


def hosts(end: datetime | None = END, **more: Any) -> dict[str, dict[str, Any]]:
    """Two hosts of one block, and one that is in none."""
    mine = {"trainyard_capacity_block_end": end.isoformat() if end else None, **more}
    return {"a": dict(mine), "b": dict(mine), "c": {}}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        ("", None),
        ("2026-12-02T11:30:00Z", END),
        ("2026-12-02T20:30:00+09:00", END),
        (END, END),
    ],
)
def test_an_end_is_read_in_utc(value: Any, found: datetime | None) -> None:
    assert block_end.end_of(value) == found


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("tomorrow", "must be an ISO time"),
        ("2026-12-02T11:30:00", "must name its time zone"),
        (END.replace(tzinfo=None), "must name its time zone"),
        (END.date(), "must name its time zone"),
        ([1], "must be an ISO time"),
        ("0001-01-01T00:00:00+14:00", "must be a time of a block"),
        ("9999-12-31T23:00:00-14:00", "must be a time of a block"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_host_and_the_value(value: Any, why: str) -> None:
    with pytest.raises(block_times.EndError, match=f"^a: trainyard_capacity_block_end: .*{why}"):
        block_times.blocks_of({"a": {"trainyard_capacity_block_end": value}}, ["a"])


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (timedelta(hours=4), "replicas leave in 3 h 15 min, it can be extended for 3 h 00 min more"),
        (timedelta(minutes=60), "replicas leave in 15 min, it can be extended no more"),
        (timedelta(minutes=45), "replicas drain"),
        (timedelta(minutes=30), "EC2 terminates its instances"),
        (timedelta(), "is over"),
    ],
)
def test_a_block_counts_down(before: timedelta, says: str) -> None:
    (block,) = block_times.blocks_of(hosts(), ["a", "b", "c"])
    line = block.line(END - before)
    assert line.startswith("Capacity block of a, b, until 2026-12-02 11:30 UTC: ") and says in line
    assert block.to_dict(END - before)["time_for_work_s"] == max(0.0, before.total_seconds() - 2700)


def test_a_block_has_cost_what_its_hosts_did_since_it_began_and_no_more_than_all_of_it() -> None:
    start = (END - timedelta(hours=24)).isoformat()
    priced = hosts(trainyard_capacity_block_start=start, trainyard_price_per_host_hour_usd=35.0)
    (block,) = block_times.blocks_of(priced, ["a", "b"])
    assert block.cost_usd(END - timedelta(hours=14)) == 700.0
    assert block.cost_usd(END + timedelta(hours=5)) == block.cost_usd(END) == 1680.0
    assert block.line(END - timedelta(hours=14)).endswith("; 700.00 USD so far")
    assert block.cost_usd(END - timedelta(days=3)) == 0.0
    priced["b"]["trainyard_price_per_host_hour_usd"] = None
    assert block_times.blocks_of(priced, ["a", "b"])[0].cost_usd(END) is None


def test_only_hosts_that_a_run_works_on_are_refused_and_only_by_runs_that_do_not_take_them_away() -> None:
    blocks = block_times.blocks_of(hosts(), ["a", "b", "c"])
    leaving = END - timedelta(minutes=45)
    assert [one.host for one in block_times.too_late(blocks, "site", ["a", "c"], leaving)] == ["a"]
    assert block_times.too_late(blocks, "site", ["a", "c"], leaving - timedelta(seconds=1)) == []
    assert [block_times.too_late(blocks, verb, ["a"], leaving) for verb in ("", "evacuate", "teardown")] == [[], [], []]


class Plan:
    """A roll of one wave for each host."""

    def __init__(self, seconds: float, names: list[str]) -> None:
        self.seconds = seconds
        target = lambda host: type("Target", (), {"host": host})()  # noqa: E731
        move = lambda host: type("Move", (), {"target": target(host)})()  # noqa: E731
        self.waves = [type("Wave", (), {"moves": [move(name)]})() for name in names]


def test_a_roll_that_would_not_end_before_its_own_hosts_leave_is_refused() -> None:
    now = END - timedelta(hours=2)
    roll_plan.refuse_late(Plan(4499, ["a"]), hosts(), now)  # type: ignore[arg-type]
    roll_plan.refuse_late(Plan(99999, ["c"]), hosts(), now)  # type: ignore[arg-type]
    with pytest.raises(RollError, match=r"the roll of 2 hosts takes up to .*begin to leave at 2026-12-02 10:45 UTC"):
        roll_plan.refuse_late(Plan(4501, ["c", "a"]), hosts(), now)  # type: ignore[arg-type]


def test_the_next_wave_is_looked_at_with_the_end_of_now() -> None:
    order, _ = planned({"x": 1, "a": 1}, Settings(), ("r1",))
    assert [wave.next and wave.next.hosts for wave in order.waves] == [("a",), None]
    wave = replace(order.waves[0], next=NextWave(2, 600.0, ("a",)))
    soon = datetime.now(UTC) + timedelta(minutes=50)
    assert roll_step.too_late(wave, hosts(soon)).startswith("wave 2 takes up to 10 min")
    assert roll_step.too_late(wave, hosts(soon + timedelta(minutes=10))) == ""
    assert roll_step.too_late(order.waves[-1], hosts(soon)) == ""
    assert "must be an ISO time" in roll_step.too_late(wave, {"a": {"trainyard_capacity_block_end": "soon"}})


def test_status_tells_the_countdown_and_says_nothing_where_there_is_no_block() -> None:
    told = {"msg": ["x"], "out": {}}
    assert roll_plan.with_blocks(told, [], END) == told
    shown = roll_plan.with_blocks(told, block_times.blocks_of(hosts(), ["a"]), END - timedelta(hours=1))
    assert shown["msg"][1].startswith("Capacity block of a") and shown["blocks"][0]["left_s"] == 3600.0


LOAD = {"repeats": 1, "warmup_requests": 4, "run_timeout_s": 21600.0}


def test_a_load_is_shortened_to_what_is_left_and_says_so() -> None:
    assert runner.within(LOAD, 0, 60) == LOAD
    short = runner.within(LOAD, 3600, 60)
    assert short["run_timeout_s"] == 1680.0
    assert runner.told_of_time(21600, short["run_timeout_s"])[0].startswith("ended after 1680 s in place of 21600 s")
    assert runner.within(LOAD, 10**6, 60) == LOAD and runner.told_of_time(21600, 21600) == []
    with pytest.raises(runner.RunError, match=r"299 s are left .* need 360 s at least"):
        runner.within(LOAD, 299, 60)


def owned(account: Account, monkeypatch: pytest.MonkeyPatch, tmp: Path) -> tuple[dict[str, Any], str]:
    """A block that was bought, and the variables of its host as `aws_ec2.yml` and the inventory give them."""
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp))
    offer = account.client.describe_capacity_block_offerings(
        InstanceType="trn2.48xlarge", InstanceCount=1, CapacityDurationHours=24
    )["CapacityBlockOfferings"][-1]
    row = account.client.purchase_capacity_block(
        CapacityBlockOfferingId=offer["CapacityBlockOfferingId"], InstancePlatform="Linux/UNIX"
    )["CapacityReservation"]
    reservation = row["CapacityReservationId"]
    host = {"capacity_reservation_id": reservation, "placement": {"region": "us-east-1"}}
    return {**host, "trainyard_capacity_block_end": "ec2", "trainyard_capacity_block_start": "ec2"}, reservation


def test_the_end_is_ec2s_own_and_an_extension_moves_it_within_a_minute(
    account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host, reservation = owned(account, monkeypatch, tmp_path)
    sold = account.market.sold[reservation]
    end = sold.end
    (block,) = block_times.blocks_of({"a": host}, ["a"])
    assert (block.end, block.start) == (end, sold.row["StartDate"])
    sold.end = end + timedelta(days=1)
    assert block_times.first_end({"a": host}, ["a"]) == end
    asked = next(tmp_path.glob("trainyard-block-*.json"))
    row = json.loads(asked.read_text())
    asked.write_text(json.dumps({**row, "asked_at": row["asked_at"] - 61}))
    assert block_times.first_end({"a": host}, ["a"]) == end + timedelta(days=1)
    given = inventory.collect({"a": {**host, "trainyard_verb": "x"}}, ["a"], [])
    assert given["hosts"]["a"]["trainyard_capacity_block_end"] == (end + timedelta(days=1)).isoformat()


def test_of_a_host_in_no_block_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec2_blocks, "ask", lambda *_: pytest.fail("it asked"))
    assert block_times.blocks_of({"a": {"trainyard_capacity_block_end": "ec2"}}, ["a"]) == []


def test_what_ec2_refuses_is_said_with_what_helps(
    account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host, reservation = owned(account, monkeypatch, tmp_path)
    account.market.set({"refuse": {"DescribeCapacityReservations": ["UnauthorizedOperation", "no"]}})
    with pytest.raises(block_times.EndError, match=f"asking when {reservation} ends: these credentials may not"):
        block_times.first_end({"a": host}, ["a"])
    with pytest.raises(PlanError, match="these credentials may not"):
        inventory.collect({"a": host}, ["a"], [])


def played(inventory: Path, playbook: Path, *words: str) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook), "-i", str(inventory), *words]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_run_is_refused_before_a_host_is_touched_and_told_the_time_where_there_is_some(tmp_path: Path) -> None:
    deployment = yaml.safe_load((ROOT / "inventory/trn2/group_vars/qwen3_32b/deployment.yml").read_text())
    host = {"ansible_host": "192.0.2.1", "ansible_connection": "local", "trainyard_instance_type": "trn2.48xlarge"}
    soon = (datetime.now(UTC) + timedelta(minutes=40)).isoformat()
    source = tmp_path / "hosts.yml"

    def written(end: str) -> Path:
        variables = {**host, **deployment, "trainyard_capacity_block_end": end}
        source.write_text(yaml.safe_dump({"all": {"children": {"neuron": {"hosts": {"a": variables}}}}}))
        return source

    code, said = played(written(soon), ROOT / "playbooks/preflight.yml", "-e", "trainyard_verb=redeploy")
    assert code != 0 and "leaves no time for redeploy: replicas leave 45 minutes before it" in said, said
    assert "Read what the hosts are" not in said
    code, said = played(written("soon"), ROOT / "playbooks/preflight.yml")
    assert code != 0 and 'trainyard_capacity_block_end = "soon": must be an ISO time' in said, said

    book = tmp_path / "book.yml"
    tasks = [
        {"name": "Fits", "trainyard.neuron.block_time": {"what": "the compile", "takes_s": 60}},
        {"name": "Is late", "trainyard.neuron.block_time": {"what": "the compile", "takes_s": 3600}},
    ]
    book.write_text(yaml.safe_dump([{"hosts": "neuron", "gather_facts": False, "tasks": tasks}]))
    later = (datetime.now(UTC) + timedelta(minutes=75)).isoformat()
    code, said = played(written(later), book)
    assert code != 0 and "the compile takes up to 1 h 00 min, and the capacity block leaves" in said, said
    assert "ok=1" in said
