# SPDX-License-Identifier: Apache-2.0
"""inventory/examples: what a secret's lookup gives over a stand-in of AWS, and variables that the plugins know."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from trainyard.paths import ROOT

EXAMPLES = ROOT / "inventory/examples"
REGION = "us-east-2"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in"}
TOKEN = "hf_of-the-example"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    boto3.client("ssm", region_name=REGION, endpoint_url=url, **keys).put_parameter(
        Name="/fleet/hub-token", Type="SecureString", Value=TOKEN
    )
    secret = json.dumps({"hub_token": TOKEN, "replica_key": "replica"})
    boto3.client("secretsmanager", region_name=REGION, endpoint_url=url, **keys).create_secret(
        Name="fleet", SecretString=secret
    )
    yield url
    server.stop()


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment}
    return subprocess.run(argv, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


def inventory(folder: Path, example: str) -> Path:
    """An inventory of one host with an example in the variables of all."""
    group_vars = folder / "group_vars/all"
    group_vars.mkdir(parents=True)
    shutil.copy(EXAMPLES / example, group_vars / example)
    (folder / "hosts.yml").write_text(
        "all:\n  children:\n    neuron:\n      hosts:\n        a: {ansible_host: 10.0.0.1}\n"
    )
    return folder


def value(folder: Path, variable: str, **environment: str) -> str:
    """A variable of the host, as a task would see it."""
    done = run(
        "ansible", "-i", str(folder), "a", "-c", "local", "-m", "ansible.builtin.debug", "-a", f"var={variable}",
        **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("example", "variables"),
    [
        ("secrets-parameter-store.yml", {"model_weights_hub_token": TOKEN}),
        ("secrets-secrets-manager.yml", {"model_weights_hub_token": TOKEN, "vllm_endpoint_api_key": "replica"}),
    ],
)
def test_a_secret_is_what_aws_has(endpoint: str, tmp_path: Path, example: str, variables: dict[str, str]) -> None:
    folder = inventory(tmp_path, example)
    assert set(yaml.safe_load((EXAMPLES / example).read_text())) == set(variables)
    for name, wanted in variables.items():
        assert f"{name}: {wanted}" in value(folder, name, AWS_ENDPOINT_URL=endpoint, **CREDENTIALS)


def declared(kind: str, plugin: str) -> set[str]:
    """The variables that a connection plugin says it reads."""
    done = run("ansible-doc", "-t", kind, "-j", plugin)
    (found,) = json.loads(done.stdout).values()
    return {one["name"] for option in found["doc"]["options"].values() for one in option.get("vars", [])}


@pytest.mark.parametrize(
    ("example", "plugin", "least"),
    [("ssm-connection.yml", "amazon.aws.aws_ssm", 2), ("bastion.yml", "ansible.builtin.ssh", 1)],
)
def test_a_connection_s_variables_are_those_of_its_plugin(
    tmp_path: Path, example: str, plugin: str, least: int
) -> None:
    said: dict[str, Any] = yaml.safe_load((EXAMPLES / example).read_text())
    known = declared("connection", plugin)
    own = {name for name in said if name not in ("ansible_connection", "ansible_user")}
    assert own <= known
    assert len(own) >= least
    assert said.get("ansible_connection", plugin) == plugin
    listed = run("ansible-inventory", "-i", str(inventory(tmp_path, example)), "--host", "a")
    assert json.loads(listed.stdout).items() >= said.items()


def test_every_example_is_in_the_page_and_every_variable_that_init_comments_has_one() -> None:
    page = (EXAMPLES / "README.md").read_text()
    files = {path.name for path in EXAMPLES.glob("*.yml")}
    assert set(re.findall(r"\]\(([a-z-]+\.yml)\)", page)) == files
    from trainyard.init.files import Fleet, Host, files_of
    from trainyard.init.recipes import recipes

    made = files_of(Fleet(recipes()["qwen3-32b"], [Host("a", "10.0.0.1")]), ROOT / "inventory/mine")
    for named in re.findall(r"inventory/examples/([a-z*.-]+)", "".join(made.values())):
        assert list(EXAMPLES.glob(named.rstrip("."))), named
