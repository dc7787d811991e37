# SPDX-License-Identifier: Apache-2.0
"""Launching hosts at the EC2 stand-in: each once, in the block's zone, with nothing that EC2 would refuse."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import given as for_all
from hypothesis import strategies as st

from tests.blocks.conftest import Account

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import blocks, instances, offers  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import trainium_instances  # isort: skip

ERRORS = (BotoCoreError, ClientError)
IMAGE = "ami-12c6146b"
HOSTS = [{"name": "trn2-1", "roles": ["llama-3-3-70b", "router"]}, {"name": "trn2-2", "roles": ["llama-3-3-70b"]}]


@pytest.fixture
def block(account: Account) -> blocks.Block:
    """An active block of two hosts."""
    found, _ = blocks.offers(account.client, offers.Wish("trn2.48xlarge", 2, 48))
    first = min(found, key=lambda offer: offer.start)
    word = blocks.Purchase("december", first.id, first.fee, "USD", "Linux/UNIX", offers.Wish("trn2.48xlarge", 2, 48))
    bought = account.buyer().buy(word)
    assert bought.state == "active"
    return bought


def words(account: Account, block: blocks.Block | None, **changes: Any) -> dict[str, Any]:
    zone = block.zone if block else "us-east-1a"
    defaults = {name: row.get("default") for name, row in trainium_instances.ARGUMENT_SPEC.items()}
    (group, *_) = account.client.describe_security_groups()["SecurityGroups"]
    given = {
        "fleet": "llama",
        "hosts": HOSTS,
        "reservation": block.id if block else None,
        "image_id": IMAGE,
        "subnet_id": account.subnet(zone),
        "security_group_ids": [group["GroupId"]],
        "wait_s": 60,
    }
    return {**defaults, **given, **changes}


def ensure(account: Account, given: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
    def sleep(seconds: float) -> None:
        account.market.set({"forward_s": seconds})

    fleet = trainium_instances.Fleet(
        account.client, given["fleet"], ERRORS, check_mode, sleep=sleep, clock=lambda: account.market.now.timestamp()
    )
    return trainium_instances.ensure(fleet, given)


def test_hosts_are_launched_once_into_their_block(account: Account, block: blocks.Block) -> None:
    given = words(account, block)
    first = ensure(account, given)
    assert first["changed"] and first["launched"] == ["trn2-1", "trn2-2"]
    assert [(row["host"], row["reservation"], row["state"]) for row in first["instances"]] == [
        ("trn2-1", block.id, "running"),
        ("trn2-2", block.id, "running"),
    ]
    again = ensure(account, given)
    assert not again["changed"] and again["instances"] == first["instances"]


def test_check_mode_launches_nothing(account: Account, block: blocks.Block) -> None:
    result = ensure(account, words(account, block), check_mode=True)
    assert result["changed"] and result["launched"] == ["trn2-1", "trn2-2"] and result["instances"] == []


def test_a_killed_run_goes_on_with_the_host_that_ec2_does_not_show_yet(
    account: Account, block: blocks.Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = words(account, block)
    launch, (first, _second) = trainium_instances.launch_of(given, block), trainium_instances.hosts_of(HOSTS)
    killed = account.client.run_instances(**instances.request(launch, first, ()))["Instances"][0]["InstanceId"]
    real, asked = account.client.describe_instances, []

    def late(**wanted: Any) -> Any:
        asked.append(wanted)
        return real(**wanted) if len(asked) > 1 else {"Reservations": []}

    monkeypatch.setattr(account.client, "describe_instances", late)
    result = ensure(account, given)
    assert {row["host"]: row["id"] for row in result["instances"]}["trn2-1"] == killed
    assert len(result["instances"]) == 2


def test_a_host_whose_instance_has_ended_gets_a_new_one(account: Account, block: blocks.Block) -> None:
    given = words(account, block)
    before = {row["host"]: row["id"] for row in ensure(account, given)["instances"]}
    ended = ensure(account, {**given, "state": "absent", "instance_ids": [before["trn2-1"]]})
    assert ended["ended"] == [before["trn2-1"]]
    after = {row["host"]: row["id"] for row in ensure(account, given)["instances"]}
    assert after["trn2-2"] == before["trn2-2"] and after["trn2-1"] != before["trn2-1"]


def test_a_token_of_the_past_gives_way_to_the_next(
    account: Account, block: blocks.Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC2 forgets an instance an hour after its end, and its token later."""
    given = words(account, block)
    before = ensure(account, given)["instances"]
    began = account.market.now
    account.client.terminate_instances(InstanceIds=[row["id"] for row in before])
    forgotten = {row["id"] for row in before}
    real = account.client.describe_instances

    def forgetful(**wanted: Any) -> Any:
        answer = real(**wanted)
        for row in answer["Reservations"]:
            row["Instances"] = [one for one in row["Instances"] if one["InstanceId"] not in forgotten]
        return answer

    monkeypatch.setattr(account.client, "describe_instances", forgetful)
    after = ensure(account, given)["instances"]
    assert len(after) == 2 and not forgotten & {row["id"] for row in after}
    assert (account.market.now - began).total_seconds() >= 2 * blocks.SHOWN_AFTER_S


def test_a_host_that_ends_each_time_it_starts_is_given_up(
    account: Account, block: blocks.Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, real, launched = words(account, block, hosts=HOSTS[:1]), account.client.run_instances, []

    def broken(**asked: Any) -> Any:
        answer = real(**asked)
        launched.append(answer["Instances"][0]["InstanceId"])
        account.client.terminate_instances(InstanceIds=launched[-1:])
        return answer

    monkeypatch.setattr(account.client, "run_instances", broken)
    with pytest.raises(instances.LaunchError, match="host trn2-1 was launched 3 times and ended each time"):
        ensure(account, given)
    assert len(set(launched)) == 3


def test_roles_that_changed_are_written_and_nothing_is_launched(account: Account, block: blocks.Block) -> None:
    given = words(account, block)
    ensure(account, given)
    hosts = [HOSTS[0], {"name": "trn2-2", "roles": ["qwen3-32b"]}]
    result = ensure(account, {**given, "hosts": hosts})
    assert result["changed"] and result["launched"] == []
    assert [row["roles"] for row in result["instances"]] == [["llama-3-3-70b", "router"], ["qwen3-32b"]]


def test_a_host_that_is_not_wanted_is_named_and_stays(account: Account, block: blocks.Block) -> None:
    given = words(account, block)
    ensure(account, given)
    result = ensure(account, {**given, "hosts": HOSTS[:1]})
    assert not result["changed"] and [row["host"] for row in result["unwanted"]] == ["trn2-2"]
    assert len(result["instances"]) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subnet_id": "us-east-1b"}, "subnet subnet-.* is in us-east-1b, and block cr-.* in us-east-1a"),
        ({"hosts": [*HOSTS, {"name": "trn2-3", "roles": []}]}, "2 free slots and 3 hosts are to be launched"),
        ({"hosts": [HOSTS[0], HOSTS[0]]}, "trn2-1 is there 2 times"),
        ({"image_id": "resolve:ssm:/aws/service"}, "is no image's id"),
        ({"image_id": None, "subnet_id": None}, "image_id is missing; subnet_id is missing"),
        ({"instance_type": "trn1.32xlarge"}, "has trn2.48xlarge, not trn1.32xlarge"),
        ({"root_gib": 100}, "root_gib: 100 is too small"),
        ({"efa": True, "public_address": True}, "EC2 gives none to a host with several interfaces"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_launch(
    account: Account, block: blocks.Block, changes: dict[str, Any], said: str
) -> None:
    if str(changes.get("subnet_id", "")).startswith("us-"):
        changes = {**changes, "subnet_id": account.subnet(changes["subnet_id"])}
    with pytest.raises(instances.LaunchError, match=said):
        ensure(account, words(account, block, **changes))
    assert account.client.describe_instances()["Reservations"] == []


def test_a_block_that_has_not_begun_says_from_when_it_can_be_used(account: Account) -> None:
    found, _ = blocks.offers(account.client, offers.Wish("trn2.48xlarge", 2, 48))
    later = max(found, key=lambda offer: offer.start)
    word = blocks.Purchase("later", later.id, later.fee, "USD", "Linux/UNIX", offers.Wish("trn2.48xlarge", 2, 48))
    scheduled = account.buyer().buy(word)
    with pytest.raises(
        instances.LaunchError, match=r"is scheduled; it can be launched into from 2026-12-0\d 11:30 UTC"
    ):
        ensure(account, words(account, scheduled))


def test_instances_of_somebody_else_are_not_ended(account: Account, block: blocks.Block) -> None:
    given = words(account, block)
    mine = ensure(account, given)["instances"][0]["id"]
    with pytest.raises(instances.LaunchError, match=f"{mine} carry no tag trainyard:fleet=other: none was ended"):
        ensure(account, {**given, "fleet": "other", "state": "absent", "instance_ids": [mine]})


def test_two_instances_of_one_host_are_named(account: Account, block: blocks.Block) -> None:
    given = words(account, block, hosts=HOSTS[:1])
    ensure(account, given)
    launch, (host,) = trainium_instances.launch_of(given, block), trainium_instances.hosts_of(HOSTS[:1])
    account.client.run_instances(**instances.request(launch, host, ("i-by-hand",)))
    with pytest.raises(instances.LaunchError, match=r"host trn2-1 has 2 instances: i-.*, i-.*End all but one"):
        ensure(account, given)


def test_efa_gives_each_card_one_interface_where_ec2_wants_it(account: Account, block: blocks.Block) -> None:
    launch = trainium_instances.launch_of(words(account, block, efa=True), block)
    rows = instances.interfaces(launch)
    assert len(rows) == 17 and [row["InterfaceType"] for row in rows].count("efa-only") == 16
    assert [(row["NetworkCardIndex"], row["DeviceIndex"]) for row in rows[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert all("AssociatePublicIpAddress" not in row for row in rows)
    assert ensure(account, words(account, block, efa=True))["changed"]


def test_a_host_has_an_encrypted_root_and_metadata_that_needs_a_token(account: Account, block: blocks.Block) -> None:
    launch = trainium_instances.launch_of(words(account, block), block)
    asked = instances.request(launch, instances.Host("a", ("router",)), ())
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    assert all(row["Ebs"]["Encrypted"] and row["Ebs"]["VolumeSize"] >= 512 for row in asked["BlockDeviceMappings"])
    assert asked["InstanceMarketOptions"] == {"MarketType": "capacity-block"}
    assert len(asked["ClientToken"]) <= 64 and asked["ClientToken"].isascii()


@for_all(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.lists(st.text("ab", min_size=1), max_size=3))
def test_a_token_differs_exactly_when_host_words_or_predecessors_do(one: list[str], other: list[str]) -> None:
    launch = instances.Launch("f", "ami-1", "trn2.48xlarge", "cr-1", "subnet-1", ("sg-1",))
    host = instances.Host("a", ())
    same = sorted(one) == sorted(other)
    assert (instances.token(launch, host, one) == instances.token(launch, host, other)) is same
