# SPDX-License-Identifier: Apache-2.0
"""The IAM policies: every call of the modules is allowed by one of them, and money is spent by one alone."""

from __future__ import annotations

import json
import re

import pytest

from trainyard.paths import ROOT

POLICIES = ROOT / "docs" / "iam"
PLUGINS = ROOT / "collections/ansible_collections/trainyard/neuron/plugins"
SOURCES = [*PLUGINS.glob("modules/capacity_block*.py"), PLUGINS / "modules" / "trainium_instances.py"]
SOURCES += [*PLUGINS.glob("module_utils/capacity/*.py")]
#: Calls of boto3's client in our own code: `client.purchase_capacity_block`.
CALL = re.compile(r"client\.([a-z]+(?:_[a-z]+)+)\b")


def actions(name: str) -> set[str]:
    policy = json.loads((POLICIES / f"{name}.json").read_text())
    rows = [row["Action"] for row in policy["Statement"]]
    return {action for row in rows for action in ([row] if isinstance(row, str) else row)}


def called() -> set[str]:
    names = {name for path in SOURCES for name in CALL.findall(path.read_text())}
    return {"ec2:" + "".join(part.capitalize() for part in name.split("_")) for name in names}


def test_each_call_of_the_modules_is_allowed_by_a_policy() -> None:
    assert {"ec2:PurchaseCapacityBlock", "ec2:RunInstances", "ec2:DescribeCapacityReservations"} <= called()
    assert called() - actions("read") - actions("launch") - actions("end") - actions("buy") == set()


def test_only_the_policy_that_buys_can_spend_money() -> None:
    spending = {"ec2:PurchaseCapacityBlock", "ec2:PurchaseCapacityBlockExtension"}
    assert spending <= actions("buy")
    for name in ("read", "launch", "end", "host"):
        assert actions(name) & spending == set()
        assert not any("*" in action for action in actions(name)), f"{name} allows more than it names"


@pytest.mark.parametrize("name", ["read"])
def test_what_only_looks_can_change_nothing(name: str) -> None:
    assert all(re.match(r"[a-z0-9]+:(Describe|Get|List)", action) for action in actions(name))


def test_hosts_are_ended_by_the_tag_of_a_fleet_only() -> None:
    (statement,) = json.loads((POLICIES / "end.json").read_text())["Statement"]
    assert statement["Condition"] == {"Null": {"aws:ResourceTag/trainyard:fleet": "false"}}
