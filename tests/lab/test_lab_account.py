# SPDX-License-Identifier: Apache-2.0
"""Instances that somebody launches at the lab's EC2: which machines they want, and when they are up."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from lab.services import aws, machines, metadata
from tests.accounts import empty_account
from trainyard.lab import inventory
from trainyard.lab import machines as machines_here
from trainyard.lab.errors import LabError
from trainyard.lab.fleet import FIRST_RUN, first_run, host_command, host_settings, write_files
from trainyard.lab.machines import Change, compare, free_address
from trainyard.lab.state import Lab, Paths

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8fCwVtCkMSTHE+u9LQQz2fEbQkcJbAjEIx1QBMXqHh operator"


class Account:
    """An empty account at a stand-in whose instances get machines."""

    def __init__(self, url: str, made: machines.Machines) -> None:
        self.url, self.made = url, made
        session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
        self.ec2 = session.client("ec2", region_name="us-east-1", endpoint_url=url)

    def ask(self, path: str, method: str, given: Any = None) -> Any:
        data = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)  # noqa: S310 - this very process
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    def block(self) -> dict[str, Any]:
        """A block of one host that has begun: the one that ends first."""
        offers = self.ec2.describe_capacity_block_offerings(
            InstanceType="trn2.48xlarge", InstanceCount=1, CapacityDurationHours=24
        )["CapacityBlockOfferings"]
        first = min(offers, key=lambda row: (row["StartDate"], row["EndDate"]))
        found: dict[str, Any] = self.ec2.purchase_capacity_block(
            CapacityBlockOfferingId=first["CapacityBlockOfferingId"], InstancePlatform="Linux/UNIX"
        )["CapacityReservation"]
        return found

    def launch(self, block: dict[str, Any], **more: Any) -> str:
        zone = [{"Name": "availability-zone", "Values": [block["AvailabilityZone"]]}]
        answer = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            InstanceType="trn2.48xlarge",
            MinCount=1,
            MaxCount=1,
            SubnetId=self.ec2.describe_subnets(Filters=zone)["Subnets"][0]["SubnetId"],
            InstanceMarketOptions={"MarketType": "capacity-block"},
            CapacityReservationSpecification={
                "CapacityReservationTarget": {"CapacityReservationId": block["CapacityReservationId"]}
            },
            **more,
        )
        return str(answer["Instances"][0]["InstanceId"])

    def instance(self, identifier: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.describe_instances(InstanceIds=[identifier])["Reservations"][0]
        return dict(found["Instances"][0])


@pytest.fixture
def account() -> Iterator[Account]:
    empty_account()
    made = machines.Machines(with_machines=True)
    server = aws.serve("127.0.0.1", 0, made)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Account(f"http://127.0.0.1:{server.port}", made)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_instance_is_pending_until_its_machine_is_up_and_has_its_address(account: Account) -> None:
    account.ask("/_lab/market", "PUT", {"now": "2026-12-01T09:00:00+00:00", "clock": "machine"})
    account.ec2.import_key_pair(KeyName="operator", PublicKeyMaterial=KEY.encode())
    script = "#!/bin/sh\necho joined\n"
    identifier = account.launch(account.block(), KeyName="operator", UserData=script)
    assert account.instance(identifier)["State"]["Name"] == "pending"
    (row,) = account.ask(machines.MACHINES_PATH, "PUT", [])
    assert (row["id"], row["instance_type"], row["user_data"]) == (identifier, "trn2.48xlarge", script)
    assert row["public_key"].split()[:2] == KEY.split()[:2]

    account.ask(machines.MACHINES_PATH, "PUT", [{"id": identifier, "address": "10.200.0.211"}])
    there = account.instance(identifier)
    assert (there["State"]["Name"], there["PrivateIpAddress"]) == ("running", "10.200.0.211")
    known = account.made.hosts()["10.200.0.211"]
    assert metadata.answer("/latest/meta-data/instance-id", known) == identifier


def test_time_takes_the_machines_of_a_block_away_though_nobody_asks_ec2(account: Account) -> None:
    account.ask("/_lab/market", "PUT", {"now": "2026-12-01T09:00:00+00:00", "clock": "machine"})
    identifier = account.launch(account.block())
    up = [{"id": identifier, "address": "10.200.0.211"}]
    account.ask("/_lab/market", "PUT", {"forward_s": 119 * 60})
    assert [row["id"] for row in account.ask(machines.MACHINES_PATH, "PUT", up)] == [identifier]
    account.ask("/_lab/market", "PUT", {"forward_s": 2 * 60})
    assert account.ask(machines.MACHINES_PATH, "PUT", up) == []
    assert account.instance(identifier)["State"]["Name"] == "terminated"


def test_what_is_driven_forward_comes_nearer_by_the_machines_clock(account: Account) -> None:
    account.ask("/_lab/market", "PUT", {"now": "2026-12-01T09:00:00+00:00", "clock": "machine"})
    block = account.block()

    def left() -> timedelta:
        (row,) = account.ec2.describe_capacity_reservations()["CapacityReservations"]
        assert row["CapacityReservationId"] == block["CapacityReservationId"]
        return row["EndDate"] - datetime.now(UTC)

    assert timedelta(minutes=149) < left() <= timedelta(minutes=150)
    account.ask("/_lab/market", "PUT", {"forward_s": 3600})
    assert timedelta(minutes=89) < left() <= timedelta(minutes=90)
    with pytest.raises(urllib.error.HTTPError):
        account.ask("/_lab/market", "PUT", {"clock": "theirs"})


def test_a_machine_is_made_once_and_goes_with_its_instance() -> None:
    rows = [{"id": "i-1"}, {"id": "i-2"}]
    assert compare(rows, ["i-2", "i-3"]) == Change([{"id": "i-1"}], ["i-3"])
    assert compare(rows, ["i-1", "i-2"]) == Change([], [])


@pytest.fixture
def lab(tmp_path: Path) -> tuple[Lab, Paths]:
    launched = {
        "i-1": {"instance_type": "trn2.48xlarge", "public_key": KEY, "user_data": "#!/bin/sh\necho joined\n"},
        "i-2": {"instance_type": "c7i.xlarge", "public_key": "", "user_data": ""},
    }
    made = Lab("account", "abc-account", subnet="10.200.0.0/24", account=True, launched=launched)
    made.hosts = {"lab-1": made.address(11), "i-1": made.address(211), "i-2": made.address(212)}
    return made, Paths(tmp_path)


def test_an_instance_lets_in_its_own_key_alone_and_is_in_ec2s_inventory_alone(lab: tuple[Lab, Paths]) -> None:
    made, files = lab
    write_files(made, files)
    keys = {host: (files.host(host) / "files/etc/ssh/lab_authorized_keys").read_text() for host in made.hosts}
    assert keys["i-1"] == KEY and keys["i-2"] == "" and "trainyard lab account" in keys["lab-1"]
    script = files.host("i-1") / "files" / FIRST_RUN.lstrip("/")
    assert script.read_text() == first_run(made, "i-1") and script.stat().st_mode & 0o111
    assert not (files.host("i-2") / "files" / FIRST_RUN.lstrip("/")).exists()
    shown = inventory.render(made, files)
    assert shown["neuron"]["hosts"] == ["lab-1"] and set(shown["_meta"]["hostvars"]) == {"lab-1"}
    assert host_settings(made, "i-1")["instance_id"] == "i-1"
    assert free_address(made) == made.address(213)


def test_a_machine_of_no_neuron_type_has_no_neuron_stand_in(lab: tuple[Lab, Paths]) -> None:
    made, files = lab
    write_files(made, files)

    class Podman:
        class machine:  # noqa: N801 - stands in for an attribute
            apparmor = False

    words = {host: " ".join(host_command(Podman(), made, files, host)) for host in made.launched}  # type: ignore[arg-type]
    assert "neuron_sim" in words["i-1"] and "cloud-final.service" in words["i-1"]
    assert "neuron_sim" not in words["i-2"] and "cloud-final.service" not in words["i-2"]


@pytest.mark.parametrize(
    ("gib", "said"), [(0, "--volume /data"), (4000, "--mount type=tmpfs,destination=/data,tmpfs-size=4000g,")]
)
def test_the_data_volume_is_as_large_as_it_was_asked_to_be(lab: tuple[Lab, Paths], gib: int, said: str) -> None:
    made, files = lab
    made.data_gib = gib
    write_files(made, files)
    podman = SimpleNamespace(machine=SimpleNamespace(apparmor=False))
    words = " ".join(host_command(podman, made, files, "lab-1"))  # type: ignore[arg-type]
    assert said in words and words.count("/data") == 1


class Containers:
    """In the place of podman: which hosts there are, and which do not boot."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.broken: set[str] = set()


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[machines_here.Machines, Containers, Lab]:
    """Machines of an empty account, with containers that are a list."""
    found = Containers()

    class Fleet:
        def __init__(self, _podman: object, lab: Lab, _files: Paths, _say: object) -> None:
            self.lab = lab

        def add(self, host: str) -> None:
            found.there.append(host)

        def boots(self, host: str) -> None:
            if host in found.broken:
                raise LabError(f"{host}: no SSH")

        def remove(self, hosts: list[str]) -> None:
            found.there[:] = [host for host in found.there if host not in hosts]

    monkeypatch.setattr(machines_here, "Fleet", Fleet)
    monkeypatch.setattr(machines_here.state, "save", lambda *_given: None)
    made = machines_here.Machines("account", None)  # type: ignore[arg-type]
    made.files = Paths(tmp_path)
    empty = Lab("account", "abc-account", {"lab-1": "10.200.0.11"}, "10.200.0.0/24", account=True)
    return made, found, empty


def test_instances_become_hosts_and_go_again(
    followed: tuple[machines_here.Machines, Containers, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, containers, lab = followed
    row = {"instance_type": "trn2.48xlarge", "public_key": KEY, "user_data": ""}
    wanted: list[dict[str, str]] | None = [{"id": "i-1", **row}, {"id": "i-2", **row}]
    told: list[set[str]] = []

    def ask(asking: Lab) -> list[dict[str, str]] | None:
        told.append(set(asking.launched))
        return wanted

    monkeypatch.setattr(machines_here, "ask", ask)
    containers.broken = {"i-2"}
    made._step(lab)
    # What did not boot is not told, is taken away, and is made again at the next look.
    assert told == [set(), {"i-1"}] and containers.there == ["i-1"]
    assert lab.hosts == {"lab-1": "10.200.0.11", "i-1": "10.200.0.211"}
    containers.broken = set()
    made._step(lab)
    assert containers.there == ["i-1", "i-2"] and lab.hosts["i-2"] == "10.200.0.212"
    made._step(lab)
    assert containers.there == ["i-1", "i-2"]
    known = (made.files.folder / "known_hosts").read_text()
    assert "10.200.0.211,i-1 ssh-ed25519" in known and "10.200.0.212,i-2 ssh-ed25519" in known
    wanted = [{"id": "i-2", **row}]
    made._step(lab)
    assert containers.there == ["i-2"] and set(lab.launched) == {"i-2"}
    assert not made.files.host("i-1").exists()
    # A stand-in that does not answer has not ended anything.
    wanted = None
    made._step(lab)
    assert containers.there == ["i-2"]
