# SPDX-License-Identifier: Apache-2.0
"""`launch.yml`, `extend.yml` and `end.yml` as an operator runs them, against the EC2 stand-in over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from lab.services import aws
from tests.accounts import empty_account
from trainyard.paths import ROOT

WORDS = {
    "trainium_launch_fleet": "llama",
    "trainium_launch_region": "us-east-1",
    "trainium_launch_intent": "december",
    "trainium_launch_hours": 24,
    "trainium_launch_ssh_from": "203.0.113.7/32",
    "trainium_launch_clients_from": ["10.0.0.0/8"],
    "trainium_launch_hosts": [
        {"name": "trn2-1", "roles": ["llama-3-3-70b", "router"]},
        {"name": "trn2-2", "roles": ["llama-3-3-70b"]},
    ],
}


@dataclass
class Site:
    """An inventory, and an account at a stand-in of EC2."""

    inventory: Path
    url: str
    server: Any

    @property
    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_ENDPOINT_URL": self.url}
        return {**os.environ, **keys, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}

    def run(self, playbook: str, *words: str) -> tuple[int, str]:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / "playbooks" / playbook)]
        command += ["-i", str(self.inventory), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=ROOT, check=False)
        return done.returncode, done.stdout + done.stderr

    def cloud(self) -> Path:
        """`aws_ec2.yml` of the shipped inventory, for the stand-in's region."""
        source = self.inventory.parent / "aws_ec2.yml"
        text = (ROOT / "inventory" / "trn2" / "aws_ec2.yml").read_text().replace("us-east-2", "us-east-1")
        source.write_text(text)
        return source

    def run_inventory(self) -> dict[str, Any]:
        """Hosts and their variables, as `aws_ec2.yml` of the shipped inventory finds them."""
        command = [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(self.cloud()), "--list"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=ROOT, check=True)
        # What comes from EC2 is marked as text that is never a template.
        plain = json.loads(done.stdout, object_hook=lambda one: one.get("__ansible_unsafe", one))
        found: dict[str, Any] = plain["_meta"]["hostvars"]
        return found

    def client(self) -> Any:
        session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
        return session.client("ec2", region_name="us-east-1", endpoint_url=self.url)

    def market(self, **settings: Any) -> dict[str, Any]:
        data = json.dumps(settings).encode() if settings else None
        request = urllib.request.Request(f"{self.url}/_lab/market", data=data, method="PUT" if data else "GET")  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - this machine's own stand-in
            found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    empty_account()
    server = aws.serve("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    inventory = tmp_path / "inventory"
    (inventory / "group_vars" / "all").mkdir(parents=True)
    (inventory / "hosts.yml").write_text("all: {children: {neuron: {}, router: {}, client: {}}}\n")
    (inventory / "group_vars" / "all" / "launch.yml").write_text(yaml.safe_dump(WORDS))
    try:
        yield Site(inventory, f"http://127.0.0.1:{server.server_port}", server)
    finally:
        empty_account()
        server.shutdown()
        thread.join()


def test_from_an_empty_account_to_hosts_that_the_inventory_finds_and_never_twice(site: Site) -> None:
    code, said = site.run("launch.yml")
    offer = re.search(r"(cbo-\w+): ([\d.]+) USD", said)
    assert code != 0 and offer and "none is bought without a word" in said, said
    assert site.market()["blocks"] == []
    word = ["-e", f"trainium_launch_offering={offer[1]}", "-e", f"trainium_launch_fee={offer[2]}"]

    wrong = ["-e", f"trainium_launch_offering={offer[1]}", "-e", "trainium_launch_fee=1.00"]
    code, said = site.run("launch.yml", *wrong)
    assert code != 0 and "was confirmed. Nothing was bought" in said and site.market()["blocks"] == []

    code, said = site.run("launch.yml", *word, "--check")
    assert code == 0 and site.market()["blocks"] == [] and "changed=1" in said

    code, said = site.run("launch.yml", *word)
    assert code == 0, said
    (block,) = site.market()["blocks"]
    rows = site.client().describe_instances()["Reservations"]
    instances = [instance for row in rows for instance in row["Instances"]]
    assert {instance["CapacityReservationId"] for instance in instances} == {block["id"]}
    names = {tag["Value"] for instance in instances for tag in instance["Tags"] if tag["Key"] == "trainyard:host"}
    assert names == {"trn2-1", "trn2-2"}

    # "Latest" moves with each release of the SDK; the fleet stays with what it was when it was launched.
    assert instances[0]["ImageId"] == "ami-12c6146b"
    assert yaml.safe_load((site.inventory / "image_pin.yml").read_text()) == {"image_id": "ami-12c6146b"}
    site.market(image="ami-1e749f67")
    code, said = site.run("launch.yml", *word)
    assert code == 0 and re.search(r"changed=0\b", said), said
    code, said = site.run("launch.yml")
    assert code == 0 and re.search(r"changed=0\b", said), said
    assert len(site.market()["blocks"]) == 1

    listed = site.run_inventory()
    assert {host["tags"]["trainyard:host"] for host in listed.values()} == {"trn2-1", "trn2-2"}

    ids = sorted(instance["InstanceId"] for instance in instances)
    code, said = site.run("end.yml", "-e", json.dumps({"trainium_launch_end_instances": ids[:1]}))
    assert code == 0, said
    states = site.client().describe_instances(InstanceIds=ids)["Reservations"]
    assert sorted(row["Instances"][0]["State"]["Name"] for row in states) == ["running", "terminated"]


def test_a_block_is_extended_on_a_persons_word(site: Site) -> None:
    client = site.client()
    offers = client.describe_capacity_block_offerings(
        InstanceType="trn2.48xlarge", InstanceCount=1, CapacityDurationHours=24
    )["CapacityBlockOfferings"]
    later = max(offers, key=lambda row: row["EndDate"])
    bought = client.purchase_capacity_block(
        CapacityBlockOfferingId=later["CapacityBlockOfferingId"], InstancePlatform="Linux/UNIX"
    )["CapacityReservation"]
    words = ["-e", f"extension_reservation={bought['CapacityReservationId']}", "-e", "extension_hours=24"]
    code, said = site.run("extend.yml", *words)
    found = re.search(r"(cbe-\w+)", said)
    fee = re.search(r"fee[\"']?: [\"']?([\d.]+)", said)
    assert code == 0 and found and fee, said
    word = ["-e", f"extension_offering={found[1]}", "-e", f"extension_fee={fee[1]}"]
    code, said = site.run("extend.yml", *words, *word)
    assert code == 0 and "changed=1" in said, said
    (block,) = site.market()["blocks"]
    assert block["end"] > later["EndDate"].isoformat()
    code, said = site.run("extend.yml", *words, *word)
    assert code == 0 and re.search(r"changed=0\b", said), said
