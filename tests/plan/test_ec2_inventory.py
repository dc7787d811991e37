# SPDX-License-Identifier: Apache-2.0
"""The EC2 inventory over instances of a stand-in: nobody is lost, whatever its tags say."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from trainyard.paths import ROOT

INVENTORY = str(ROOT / "inventory/trn2/aws_ec2.yml")
REGION = "us-east-2"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in", "AWS_DEFAULT_REGION": REGION}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def ec2(endpoint: str) -> Any:
    client = boto3.client(
        "ec2", region_name=REGION, endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x"
    )
    found = [i["InstanceId"] for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    if found:
        client.terminate_instances(InstanceIds=found)
    return client


def launch(ec2: Any, kind: str, trainyard: str, name: str = "", count: int = 1) -> list[str]:
    image = ec2.describe_images()["Images"][0]["ImageId"]
    tags = [{"Key": "trainyard", "Value": trainyard}] + ([{"Key": "Name", "Value": name}] if name else [])
    made = ec2.run_instances(
        ImageId=image,
        InstanceType=kind,
        MinCount=count,
        MaxCount=count,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return [instance["InstanceId"] for instance in made["Instances"]]


def run(endpoint: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    given = {**kept, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "AWS_EC2_METADATA_DISABLED": "true"}
    given |= {"AWS_ENDPOINT_URL": endpoint, "COLUMNS": "200", **environment}
    return subprocess.run(argv, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


def groups(endpoint: str) -> dict[str, list[str]]:
    done = run(endpoint, "ansible-inventory", "-i", INVENTORY, "--list", **CREDENTIALS)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    return {name: sorted(row.get("hosts", [])) for name, row in listed.items() if name != "_meta"}


def test_instances_that_share_a_name_are_hosts_of_their_own(endpoint: str, ec2: Any) -> None:
    serving = launch(ec2, "trn2.48xlarge", "llama-3-3-70b", "llama 70b", count=4)
    (router,) = launch(ec2, "c6i.xlarge", "router", "gw")
    found = groups(endpoint)
    assert found["neuron"] == found["llama_3_3_70b"] == sorted(serving)
    assert found["router"] == found["client"] == [router]
    done = run(endpoint, "trainyard", "plan", "-i", INVENTORY, "--json", **CREDENTIALS)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert sorted(plan["hosts"]) == sorted(serving)
    assert len({host["address"] for host in plan["hosts"].values()}) == 4


def test_an_instance_may_have_several_roles(endpoint: str, ec2: Any) -> None:
    (both,) = launch(ec2, "trn2.48xlarge", "llama-3-3-70b qwen3-32b router client")
    (load,) = launch(ec2, "c6i.xlarge", "client")
    found = groups(endpoint)
    assert found["neuron"] == found["llama_3_3_70b"] == found["qwen3_32b"] == found["router"] == [both]
    assert found["client"] == sorted([both, load])


def test_a_tag_that_is_a_name_of_ansible_s_own_makes_nobody_anything(endpoint: str, ec2: Any) -> None:
    others = {
        value: launch(ec2, "c6i.xlarge", value)[0] for value in ("all", "neuron", "client", "ungrouped", "localhost")
    }
    (serving,) = launch(ec2, "trn2.48xlarge", "qwen3-32b")
    found = groups(endpoint)
    assert found["neuron"] == found["qwen3_32b"] == [serving]
    assert "router" not in found
    assert found["client"] == [others["client"]]


def test_a_family_has_its_own_logical_cores(endpoint: str, ec2: Any) -> None:
    (old,) = launch(ec2, "inf2.48xlarge", "")
    (new,) = launch(ec2, "trn2.48xlarge", "qwen3-32b")
    done = run(endpoint, "trainyard", "plan", "-i", INVENTORY, "--json", **CREDENTIALS)
    assert done.returncode == 0, done.stderr
    hosts = json.loads(done.stdout)["hosts"]
    assert {name: host["logical_nc_config"] for name, host in hosts.items()} == {old: 1, new: 2}


def test_without_credentials_one_line_says_so(endpoint: str) -> None:
    done = run(endpoint, "trainyard", "plan", "-i", INVENTORY)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in ("aws_ec2.yml", "Unable to locate credentials", "AWS_PROFILE"):
        assert word in lines[0]
