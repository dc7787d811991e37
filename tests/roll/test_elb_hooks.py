# SPDX-License-Identifier: Apache-2.0
"""The hooks for ELB target groups, as Ansible runs them, against moto's server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import files, identity, ordered
from ansible_collections.trainyard.neuron.plugins.modules.elb_targets import Group, steer
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import RollPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, Settings
from moto.server import ThreadedMotoServer

from tests.accounts import empty_account
from tests.roll.given_plan import keep
from trainyard.paths import ROOT

REGION = "us-east-1"
REPLICAS = [
    {"id": f"h{number}:m-0", "name": "m-0", "host": f"h{number}", "address": f"10.0.1.{number}", "port": 8000}
    for number in (1, 2)
]
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Moto's server; everything here speaks with it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)
    yield url
    empty_account()
    server.stop()


@pytest.fixture
def client(aws: str) -> Any:
    del aws
    return boto3.client("elbv2", region_name=REGION)


@pytest.fixture
def group(client: Any) -> str:
    """A target group with both replicas behind a listener."""
    ec2 = boto3.client("ec2", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")
        for number, zone in ((1, "a"), (2, "b"))
    ]
    arn: str = client.create_target_group(Name="llama", Protocol="HTTP", Port=8000, VpcId=vpc, TargetType="ip")[
        "TargetGroups"
    ][0]["TargetGroupArn"]
    balancer = client.create_load_balancer(Name="lb", Subnets=[subnet["Subnet"]["SubnetId"] for subnet in subnets])
    client.create_listener(
        LoadBalancerArn=balancer["LoadBalancers"][0]["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
    )
    client.register_targets(TargetGroupArn=arn, Targets=[{"Id": row["address"], "Port": 8000} for row in REPLICAS])
    return arn


def play(tmp_path: Path, arn: str, drain_deadline_s: int = 300) -> subprocess.CompletedProcess[str]:
    """Run the hooks through the roll's own task files: drain the first replica, ask, readmit it, ask again."""
    rows = [{**row, "url": f"http://{row['address']}:8000", "served_name": "llama"} for row in REPLICAS]

    def role(tasks: str, **variables: Any) -> dict[str, Any]:
        return {"ansible.builtin.include_role": {"name": "rolling_redeploy", "tasks_from": tasks}, "vars": variables}

    def hook(kind: str) -> dict[str, Any]:
        return role("hook.yml", roll_hook=kind, roll_hook_replicas=rows[:1])

    hooks = {kind: [str(ROOT / f"playbooks/hooks/elb/{kind}.yml")] for kind in ("drain", "undrain", "is_drained")}
    ask = role("elsewhere.yml", rolling_redeploy_hooks=hooks)
    out = "trainyard_drained_elsewhere.results | map(attribute='out') | flatten | join(',')"
    tell = {"ansible.builtin.debug": {"msg": f"OUT={{{{ {out} }}}}."}}
    settings = Settings(drain_deadline_s=float(drain_deadline_s))
    arguments = {"hosts": ["localhost"], "lead": "localhost", "thresholds": {}, "golden": [], "hooks": files(hooks)}
    nothing = RollPlan(waves=(), unchanged=(), out={}, planned={}, floor={})
    fleet = Fleet(targets=(), observed={}, seats={})
    order = ordered(nothing, fleet, settings, arguments, identity("redeploy"))
    variables = {
        "trainyard_elb_target_groups": {"llama": arn},
        "__rolling_redeploy_planned": {"roll": order.to_dict()},
    }
    book, inventory = tmp_path / "hooks.yml", tmp_path / "hosts"
    planned = [{key: row[key] for key in row if key != "host"} for row in rows]
    plan = keep(tmp_path, {"hosts": {"localhost": {"replicas": planned}}})
    tasks = [plan, hook("drain"), ask, tell, hook("undrain"), ask, tell]
    book.write_text(json.dumps([{"hosts": "neuron", "gather_facts": False, "vars": variables, "tasks": tasks}]))
    inventory.write_text("[neuron]\nlocalhost ansible_connection=local\n")
    return subprocess.run(
        ["ansible-playbook", str(book), "-i", str(inventory)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hooks_drain_ask_and_readmit(tmp_path: Path, client: Any, group: str) -> None:
    done = play(tmp_path, group)
    assert done.returncode == 0, done.stdout
    said = re.findall(r"OUT=(.*)\.", done.stdout)
    assert said == ["h1:m-0", ""]
    wanted = [{"Id": row["address"], "Port": 8000} for row in REPLICAS]
    rows = client.describe_target_health(TargetGroupArn=group, Targets=wanted)["TargetHealthDescriptions"]
    assert {row["Target"]["Id"]: row["TargetHealth"]["State"] for row in rows} == {
        "10.0.1.1": "healthy",
        "10.0.1.2": "healthy",
    }


def test_a_group_that_would_cut_requests_off_is_not_drained(tmp_path: Path, client: Any, group: str) -> None:
    done = play(tmp_path, group, drain_deadline_s=900)
    assert done.returncode != 0
    assert "cuts off requests 300 s after a target is deregistered, and 900 s are wanted" in " ".join(
        done.stdout.split()
    )
    wanted = [{"Id": REPLICAS[0]["address"], "Port": 8000}]
    rows = client.describe_target_health(TargetGroupArn=group, Targets=wanted)["TargetHealthDescriptions"]
    assert rows[0]["TargetHealth"]["State"] == "healthy"


class Slow:
    """A target group in which a target takes some looks to get healthy, once it is registered."""

    def __init__(self, looks: int) -> None:
        self.state = {"10.0.1.1": "draining"}
        self.looks = looks
        self.now = 0.0

    def describe_target_health(self, **words: Any) -> dict[str, Any]:
        rows = [
            {
                "Target": {"Id": target["Id"], "Port": target["Port"]},
                "TargetHealth": {"State": self.state[target["Id"]]},
            }
            for target in words["Targets"]
        ]
        for address, state in self.state.items():
            if state == "initial":
                self.looks -= 1
                self.state[address] = "initial" if self.looks > 0 else "healthy"
        return {"TargetHealthDescriptions": rows}

    def register_targets(self, **words: Any) -> None:
        self.state.update({target["Id"]: "initial" for target in words["Targets"]})

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def group(self) -> Group:
        return Group(self, "arn", self.sleep, lambda: self.now)


def asked(state: str) -> dict[str, Any]:
    return {"targets": [{"id": "10.0.1.1", "port": 8000}], "state": state, "timeout_s": 60}


def test_a_drain_that_is_taken_back_registers_the_target_at_once_and_waits_until_it_is_healthy() -> None:
    slow = Slow(looks=5)
    assert steer(slow.group(), asked("seen"), check_mode=False)["out"] == ["10.0.1.1:8000"]
    back = steer(slow.group(), asked("ready"), check_mode=False)
    assert (back["changed"], back["arrived"], back["out"]) == (True, True, [])
    assert slow.now > 0
    assert not steer(slow.group(), asked("ready"), check_mode=False)["changed"]


def test_a_target_that_does_not_get_healthy_in_time_is_named() -> None:
    late = steer(Slow(looks=10_000).group(), asked("ready"), check_mode=False)
    assert (late["failed"], late["msg"]) == (True, "after 60 s: 10.0.1.1:8000 is initial; wanted healthy")


def test_a_dry_run_tells_the_group_nothing() -> None:
    slow = Slow(looks=1)
    told = steer(slow.group(), asked("ready"), check_mode=True)
    assert (told["changed"], told["diff"][0]["before"]) == (True, "draining\n")
    assert slow.state == {"10.0.1.1": "draining"}
