# SPDX-License-Identifier: Apache-2.0
"""The life of capacity blocks, in the order of the tests, by the playbooks alone: nothing of trainyard's is mocked.

EC2 is the lab's stand-in, whose clock these tests drive; its hosts, their router and every request are real.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from tests.blocks.whole.account import MODEL, Account
from tests.blocks.whole.conftest import PARTS, Part
from tests.roll.conftest import RotationWatch

pytestmark = pytest.mark.lab

ROLES = ["tiny-llama"]
LEAST = 3000
#: Two hours before the end of a block, by EC2's clock.
BEGINS = "2026-12-01T09:28:00+00:00"


def launch(account: Account, name: str, offer: dict[str, Any] | None, *words: str) -> str:
    """Run launch.yml for one host in a block of its own; with an offer, on a person's word."""
    given: dict[str, Any] = {
        "trainium_launch_intent": name,
        "trainium_launch_hosts": [{"name": f"trn2-{name}", "roles": ROLES}],
    }
    if offer:
        given["trainium_launch_offering"] = offer["CapacityBlockOfferingId"]
        given["trainium_launch_fee"] = offer["UpfrontFee"]
    return account.run("launch", *words, **given)


def block_of(account: Account, name: str) -> str:
    """The id of the block that a host is in."""
    rows = account.ec2.describe_instances(InstanceIds=[account.hosts()[f"trn2-{name}"]])["Reservations"]
    return str(rows[0]["Instances"][0]["CapacityReservationId"])


def changes(said: str) -> set[int]:
    return {int(count) for count in re.findall(r"\bchanged=(\d+)", said)}


def ask(account: Account) -> httpx.Response:
    """One request through the router."""
    body = {"model": MODEL, "prompt": "Say", "max_tokens": 2}
    return httpx.post(f"{account.url}/v1/completions", json=body, timeout=60)


def refusals(statuses: Iterable[int]) -> int:
    """How many answers were none of a replica."""
    return sum(status != 200 for status in statuses)


def test_from_an_empty_account_to_a_served_fleet_and_a_second_run_changes_nothing(account: Account) -> None:
    began = time.monotonic()
    account.market(now=BEGINS, clock="machine", capacity={"us-east-1a": 16})
    assert account.hosts() == {}
    offer = min(account.offers(), key=lambda row: row["EndDate"])
    launch(account, "a", offer)
    assert set(account.hosts()) == {"trn2-a"}
    account.run("site", "--skip-tags=benchmark")
    took_s = time.monotonic() - began
    answers = [ask(account).status_code for _ in range(10)]
    a = account.hosts()["trn2-a"]
    PARTS.append(Part("account to fleet", len(answers), refusals(answers), account.compiles(a), took_s))
    assert refusals(answers) == 0
    assert account.compiles(a) > 0
    assert changes(launch(account, "a", offer)) == {0}
    assert changes(account.run("site", "--skip-tags=benchmark")) == {0}
    assert len(account.market()["blocks"]) == 1


def test_the_service_moves_to_a_block_that_begins_before_the_first_one_ends(account: Account) -> None:
    a = account.hosts()["trn2-a"]
    offers = [row for row in account.offers() if row["StartDate"].timestamp() < time.time() + 60]
    launch(account, "b", max(offers, key=lambda row: row["EndDate"]))
    b = account.hosts()["trn2-b"]
    assert "take over with 2 new replicas" in account.run("hand_over", "--check")
    watch = RotationWatch(account.url.replace(":8080", ":8405/metrics"), 2)
    watch.start()
    began = time.monotonic()
    with account.load(least=LEAST) as load:
        said = account.run("hand_over")
        took_s = time.monotonic() - began
    watch.over.set()
    watch.join()
    assert f"{a} leave, {b} take over with 2 new replicas" in said
    PARTS.append(Part("hand-over from a to b", load["sent"], load["sent"] - load["ok"], account.compiles(b), took_s))
    assert load["sent"] >= LEAST
    assert load["sent"] == load["ok"], load
    assert account.compiles(b) == 0
    assert watch.fewest >= 2 and watch.looks > 10
    assert changes(account.run("hand_over")) == {0}


def test_hosts_of_the_old_block_go_half_an_hour_before_its_end_and_nobody_misses_them(account: Account) -> None:
    block = block_of(account, "a")
    with account.load(closed=2) as load:
        account.forward_to(block, 29)
        end = time.monotonic() + 60
        while len(account.lab["launched"]) > 1:
            assert time.monotonic() < end, "the machine of the old block is still there"
            time.sleep(0.5)
        time.sleep(3)
    assert set(account.hosts()) == {"trn2-b"}
    assert load["sent"] == load["ok"] and load["sent"] > 20, load
    account.run("site", "--skip-tags=benchmark")
    assert ask(account).status_code == 200


class Gap(threading.Thread):
    """Asks twice a second, and keeps each answer's status and Retry-After."""

    def __init__(self, account: Account) -> None:
        super().__init__(daemon=True)
        self.account = account
        self.answers: list[tuple[float, int, str]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            found = ask(self.account)
            self.answers.append((time.monotonic(), found.status_code, found.headers.get("Retry-After", "")))


def test_an_unpaid_extension_ends_in_an_evacuation_and_the_gap_in_the_next_block(account: Account) -> None:
    block = block_of(account, "b")
    # The next block begins when this one ends: half an hour and more after its hosts have left.
    end = account.end_of(block)
    following = min(account.offers(), key=lambda row: abs((row["StartDate"] - end).total_seconds()))
    launch(account, "c", following)
    assert set(account.hosts()) == {"trn2-b"}
    account.forward_to(block, 62)
    account.market(pays=False, payment_s=60)
    words = {"extension_reservation": block, "extension_hours": 24, "trainium_launch_region": "us-east-1"}
    said = account.run("extend", **words)
    offering, fee = re.search(r"cbe-\w+", said), re.search(r"fee[\"']?: [\"']?([\d.]+)", said)
    assert offering and fee, said
    code, said = account.attempt("extend", **words, extension_offering=offering[0], extension_fee=fee[1])
    assert code != 0 and "failed: the old end stands" in said, said
    account.forward_to(block, 44.5)
    tried = account.ec2.describe_capacity_block_extension_history(CapacityReservationIds=[block])
    states = [row["CapacityBlockExtensionStatus"] for row in tried["CapacityBlockExtensions"]]
    assert set(states) == {"payment-failed"}
    account.market(pays=True, payment_s=0)

    compiled = account.compiles(account.hosts()["trn2-b"])
    began = time.monotonic()
    gap = Gap(account)
    gap.start()
    said = account.watch()
    assert ": evacuated" in said, said
    took_s = time.monotonic() - began
    answers = [status for _, status, _ in list(gap.answers)]
    PARTS.append(Part("evacuation of b", len(answers), refusals(answers), compiled, took_s))
    assert ask(account).status_code == 503

    account.forward_to(block, -1)
    launch(account, "c", None)
    c = account.hosts()["trn2-c"]
    account.run("site", "--skip-tags=benchmark")
    assert ask(account).status_code == 200
    gap.over.set()
    gap.join()
    refused = [row for row in gap.answers if row[1] != 200]
    PARTS.append(
        Part("gap until c serves", len(gap.answers), len(refused), account.compiles(c), refused[-1][0] - refused[0][0])
    )
    assert {status for _, status, _ in refused} == {503} and all(retry.isdigit() for *_, retry in refused)
    # Once it began, and once it ended: no request in between was answered, and none outside of it refused.
    served = [row[1] == 200 for row in gap.answers]
    assert sum(one != other for one, other in itertools.pairwise(served)) == 2
    assert account.compiles(c) == 0
