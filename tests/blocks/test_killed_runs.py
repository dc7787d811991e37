# SPDX-License-Identifier: Apache-2.0
"""A run from an account to hosts that is killed at any of its steps: the next one goes on, and nothing is there twice.

First in this process, at each call that the modules make, before EC2 hears of it and after; then `launch.yml` itself,
killed whole by SIGKILL when EC2 has done what it was asked for and has not answered yet.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.blocks.conftest import Account, empty
from tests.blocks.test_instances import ERRORS, HOSTS, words
from tests.blocks.test_launch_playbook import WORDS, Site
from tests.blocks.test_launch_playbook import site as site
from trainyard.paths import ROOT

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import blocks, offers  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import (  # isort: skip
    capacity_block,
    capacity_block_info,
    trainium_instances,
)

WISH = offers.Wish("trn2.48xlarge", 2, 48)
#: Calls of EC2 that a run makes which nobody kills.
CALLS = 16


class KilledError(BaseException):
    """The process is gone; no handler of errors sees it."""


@dataclass
class Mortal:
    """boto3's client of a process that is killed at one call, before EC2 hears of it or after; -1 for never."""

    client: Any
    at: int = -1
    heard: bool = True
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(**asked: Any) -> Any:
            self.calls.append(name)
            killed = len(self.calls) - 1 == self.at
            if killed and not self.heard:
                raise KilledError(name)
            answer = real(**asked)
            if killed:
                raise KilledError(name)
            return answer

        return call


def word(account: Account) -> blocks.Purchase:
    """A person's word on the block that begins first."""
    found, _ = blocks.offers(account.client, WISH)
    first = min(found, key=lambda offer: (offer.start, offer.id))
    return blocks.Purchase("december", first.id, first.fee, first.currency, "Linux/UNIX", WISH)


def run(account: Account, client: Any, given: blocks.Purchase) -> dict[str, Any]:
    """Search, purchase, launch, and a look at what is there."""

    def sleep(seconds: float) -> None:
        account.market.set({"forward_s": seconds})

    wish = {"instance_type": "trn2.48xlarge", "instance_count": 2, "hours": 48}
    capacity_block_info.look(client, wish)
    buyer = blocks.Buyer(client, blocks.Journal(account.journal), sleep=sleep, now=lambda: account.market.now)
    bought = capacity_block.ensure(buyer, given, False, 600.0, ERRORS)
    block = blocks.block_of(client, bought["block"]["id"])
    clock: Callable[[], float] = lambda: account.market.now.timestamp()  # noqa: E731
    fleet = trainium_instances.Fleet(client, "llama", ERRORS, sleep=sleep, clock=clock)
    launched = trainium_instances.ensure(fleet, words(account, block))
    return {"changed": bought["changed"] or launched["changed"], "instances": launched["instances"]}


def launched_in_all(account: Account) -> list[str]:
    """Names of all hosts that were ever launched, once for each instance."""
    rows = account.client.describe_instances()["Reservations"]
    tags = [tag for row in rows for instance in row["Instances"] for tag in instance["Tags"]]
    return sorted(tag["Value"] for tag in tags if tag["Key"] == "trainyard:host")


def test_the_calls_are_those_of_the_table(account: Account) -> None:
    client = Mortal(account.client)
    assert run(account, client, word(account))["changed"]
    assert len(client.calls) == CALLS, client.calls
    assert client.calls.count("purchase_capacity_block") == 1 and client.calls.count("run_instances") == 2


@pytest.mark.parametrize("heard", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(CALLS))
def test_a_run_that_is_killed_goes_on_and_nothing_is_there_twice(
    credentials: None, tmp_path: Path, at: int, heard: bool
) -> None:
    with empty(tmp_path) as account:
        given, killed = word(account), Mortal(account.client, at, heard)
        with pytest.raises(KilledError):
            run(account, killed, given)
        found = run(account, account.client, given)
        assert [row["host"] for row in found["instances"]] == [host["name"] for host in HOSTS]
        assert len(account.market.sold) == 1
        assert launched_in_all(account) == ["trn2-1", "trn2-2"]
        assert not run(account, account.client, given)["changed"]


def test_a_run_that_follows_waits_for_the_module_of_a_killed_one(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible's own processes outlive it: the module of a killed run may be about to buy when the next run looks."""
    given, about, may_buy = word(account), threading.Event(), threading.Event()
    # Between its look at what is owned and the line in its journal, from which on others know of it.
    real = account.client.describe_capacity_block_offerings

    def slow(**asked: Any) -> Any:
        about.set()
        assert may_buy.wait(30)
        return real(**asked)

    def buy() -> None:
        with account.buyer().journal.alone():
            done.append(capacity_block.ensure(account.buyer(), given, False, 600.0, ERRORS)["changed"])

    done: list[bool] = []
    monkeypatch.setattr(account.client, "describe_capacity_block_offerings", slow)
    orphan, following = threading.Thread(target=buy), threading.Thread(target=buy)
    orphan.start()
    assert about.wait(30)
    following.start()
    following.join(1)
    assert following.is_alive() and done == []
    may_buy.set()
    orphan.join(30)
    following.join(30)
    assert done == [True, False] and len(account.market.sold) == 1


#: What EC2 and SSM have done, and for which time in that run, when `launch.yml` is killed; then the inventory.
KILLS = [
    ("DescribeCapacityBlockOfferings", 1),
    ("PurchaseCapacityBlock", 1),
    ("GetParameter", 1),
    ("RunInstances", 1),
    ("RunInstances", 1),
    ("DescribeInstances", 3),
]


def action_of(environ: dict[str, Any], body: bytes) -> str:
    """The operation of a request, as EC2 and SSM name theirs."""
    target = str(environ.get("HTTP_X_AMZ_TARGET") or "")
    return target.rpartition(".")[2] or urllib.parse.parse_qs(body.decode()).get("Action", [""])[0]


@dataclass
class Killer:
    """A server's application that kills who asked, when it has done what was asked for."""

    application: Any
    action: str = ""
    time: int = 1
    victim: int = 0
    seen: list[str] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        answer = list(self.application(environ, start))
        self.seen.append(action_of(environ, body))
        if self.action and self.seen.count(self.action) == self.time and self.victim:
            victim, self.victim = self.victim, 0
            for process in [victim, *descendants(victim)]:
                os.kill(process, signal.SIGKILL)
        return answer


def descendants(process: int) -> list[int]:
    """All that a process began, and those did; Ansible's own have sessions of their own."""
    begun: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(") ")[2].split()[1])
            begun.setdefault(parent, []).append(int(path.parent.name))
    found, left = [], [process]
    while left:
        children = begun.get(left.pop(), [])
        found += children
        left += children
    return found


def killed(site: Site, killer: Killer, argv: list[str], action: str, time: int) -> int:
    """Run a command that is killed; its exit code."""
    killer.action, killer.time = action, time
    killer.seen.clear()
    process = subprocess.Popen(
        argv,
        env=site.environment,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killer.victim = process.pid
    code = process.wait(300)
    killer.action, killer.victim = "", 0
    return code


def there(site: Site) -> dict[str, Any]:
    """What is in the account: how many blocks, and names of hosts, once for each instance."""
    rows = site.client().describe_instances()["Reservations"]
    tags = [tag for row in rows for instance in row["Instances"] for tag in instance["Tags"]]
    names = sorted(tag["Value"] for tag in tags if tag["Key"] == "trainyard:host")
    return {"blocks": len(site.market()["blocks"]), "hosts": names}


def test_launch_yml_that_is_killed_at_each_step_goes_on(site: Site) -> None:
    killer = Killer(site.server.app)
    site.server.app = killer
    site.market(capacity={"us-east-1a": 16})
    code, said = site.run("launch.yml")
    offer = re.search(r"(cbo-\w+): ([\d.]+) USD", said)
    assert code != 0 and offer, said
    here = Path(sys.executable)
    client = site.client()
    zone = [{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    own = {
        "trainium_launch_subnet_id": client.describe_subnets(Filters=zone)["Subnets"][0]["SubnetId"],
        "trainium_launch_security_group_ids": [client.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
        "trainium_launch_offering": offer[1],
        "trainium_launch_fee": offer[2],
    }
    word = ["-e", json.dumps(own)]
    argv = [str(here.with_name("ansible-playbook")), str(ROOT / "playbooks/launch.yml"), "-i", str(site.inventory)]
    seen = []
    for action, time in KILLS:
        assert killed(site, killer, [*argv, *word], action, time) == -signal.SIGKILL, (action, killer.seen)
        seen.append(there(site))
        assert seen[-1]["blocks"] <= 1 and len(set(seen[-1]["hosts"])) == len(seen[-1]["hosts"]), (action, seen[-1])
    assert [row["blocks"] for row in seen[:2]] == [0, 1]
    assert seen[-1] == {"blocks": 1, "hosts": ["trn2-1", "trn2-2"]}

    listing = [str(here.with_name("ansible-inventory")), "-i", str(site.cloud()), "--list"]
    assert killed(site, killer, listing, "DescribeInstances", 1) == -signal.SIGKILL
    code, said = site.run("launch.yml", *word)
    assert code == 0 and re.search(r"changed=[0-2]\b", said), said
    code, said = site.run("launch.yml", *word)
    assert code == 0 and re.search(r"changed=0\b", said), said
    assert there(site) == seen[-1]
    names = [host["name"] for host in WORDS["trainium_launch_hosts"]]  # type: ignore[index,attr-defined]
    assert sorted(host["tags"]["trainyard:host"] for host in site.run_inventory().values()) == names
    assert yaml.safe_load((site.inventory / "image_pin.yml").read_text())["image_id"].startswith("ami-")
