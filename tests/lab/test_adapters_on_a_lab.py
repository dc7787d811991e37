# SPDX-License-Identifier: Apache-2.0
"""Adapters from end to end on a stand-in host: fetched, compiled for, served by name, changed without a compile."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest

from tests.lab.fleet_support import Lab, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("adapters-lab")]

RELEASE = "2.28.0"
#: What a roll waits for is shortened; what it does is not.
ROLL = {"canary_s": 5, "soak_s": 1, "drain_deadline_s": 60}


def settings(chat: str) -> dict[str, Any]:
    """The lab's deployment with two adapters; `chat`: the revision of one of them."""
    adapters = [
        {"name": name, "repo": f"acme/{name}", "source": "s3", "uri": f"s3://adapters/{name}/{revision}",
         "revision": revision}
        for name, revision in (("sql", "v1"), ("chat", chat))
    ]  # fmt: skip
    wanted = {
        "sdk_release": RELEASE,
        "generation": "nxdi_v1",
        "aliases": ["tiny"],
        "lora": {"max_loras": 2, "max_rank": 8, "adapters": adapters},
    }
    return {"trainyard_overrides": {"tiny-llama": wanted}, "trainyard_redeploy": ROLL}


def adapter(number: int) -> dict[str, bytes]:
    """The files of a LoRA adapter as PEFT writes them, with weights of its own."""
    header = json.dumps(
        {"base_model.model.q_proj.lora_A.weight": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}}
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + struct.pack("<4f", *[float(number)] * 4)
    config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "lora_alpha": 16}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    options = ("--hosts", "1", "--engine", "simulated", "--time-scale", "0", "--sdk-release", RELEASE)
    with running_lab("adapters", *options) as made:
        endpoint = json.loads(made.run("ansible-inventory", "-i", made.inventory, "--host", "lab-1"))["lab_s3_url"]
        store = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="lab", aws_secret_access_key="lab", region_name="us-east-1"
        )
        store.create_bucket(Bucket="adapters")
        for number, folder in enumerate(("sql/v1", "chat/v1", "chat/v2")):
            for name, content in adapter(number).items():
                store.put_object(Bucket="adapters", Key=f"{folder}/{name}", Body=content)
        made.play("site.yml", settings("v1"), "--skip-tags", "benchmark")
        yield made


def url(lab: Lab) -> str:
    plan = json.loads(lab.run("trainyard", "plan", "-i", lab.inventory, "--json"))
    return str(plan["router"]["urls"][0])


def ask(base: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return httpx.request("POST" if body else "GET", base + path, json=body, timeout=30).raise_for_status().json()


def answers(lab: Lab) -> dict[str, str]:
    """What each name of the model says to one prompt, through the router."""
    base, found = url(lab), {}
    for name in ("tiny", "sql", "chat"):
        body = {"model": name, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}
        found[name] = ask(base, "/v1/completions", body)["choices"][0]["text"]
    return found


def test_adapters_are_served_by_name_and_changed_by_a_roll_without_a_compile(lab: Lab) -> None:
    listed = {card["id"] for card in ask(url(lab), "/v1/models")["data"]}
    assert {"tiny", "sql", "chat"} <= listed
    before = answers(lab)
    assert len(set(before.values())) == 3
    made = "find /data/artifacts -name model.pt -printf '%p %T@\\n' | sort"
    artifacts = lab.on(made)
    assert len(artifacts.splitlines()) == 1
    lab.play("playbooks/provision.yml", settings("v2"), "--tags", "model_weights")
    lab.play("playbooks/redeploy.yml", settings("v2"))
    after = answers(lab)
    assert (after["tiny"], after["sql"]) == (before["tiny"], before["sql"])
    assert after["chat"] != before["chat"]
    assert lab.on(made) == artifacts, "nothing was compiled for an adapter"


def test_a_start_with_an_artifact_that_was_made_without_adapters_is_refused_by_the_unit(lab: Lab) -> None:
    change = "import json, pathlib, sys; p = pathlib.Path(sys.argv[1]); d = json.loads(p.read_text()); "
    change += "d['neuron_config']['lora_config'] = None; p.write_text(json.dumps(d))"
    file = lab.on("find /data/artifacts -name neuron_config.json")
    kept = lab.on(f"cat {file} | base64 -w0")
    try:
        lab.on(f'python3 -c "{change}" {file}')
        lab.on("systemctl restart vllm@tiny-llama-0.service || true")
        said = lab.on("journalctl -u vllm@tiny-llama-0.service -o cat -n 40 --no-pager")
        assert "lora_config of the artifact is null, and the plan had" in said, said
    finally:
        lab.on(f"echo {kept} | base64 -d > {file}; systemctl reset-failed vllm@tiny-llama-0.service")
        lab.on("systemctl start vllm@tiny-llama-0.service")
