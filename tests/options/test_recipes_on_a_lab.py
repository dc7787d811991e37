# SPDX-License-Identifier: Apache-2.0
"""Two recipes whole on stand-in hosts (simulated): adapters by name, a draft, no start on another's artifact.

Run by `molecule test -s options`, whose hosts have what `molecule/options/recipes.py` says.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.roll.conftest import LabFleet
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

LORA_HOST, DRAFT_HOST = "lab-1", "lab-2"
LORA, DRAFT = "llama-3-3-70b-lora", "qwen3-32b-draft"
MODEL, ALIAS, ADAPTERS, DRAFTED = (
    "meta-llama/Llama-3.3-70B-Instruct",
    "llama-3.3-70b",
    ("support", "sql"),
    "Qwen/Qwen3-32B",
)
#: What a roll waits for is shortened; what it does is not.
ROLL = {"trainyard_redeploy": {"canary_s": 5, "soak_s": 1, "drain_deadline_s": 60}}
MADE = "find /data/artifacts -name model.pt -printf '%p %T@\\n' | sort"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> LabFleet:
    recipes = ROOT / "molecule/options/recipes.py"
    return LabFleet(tmp_path_factory.mktemp("options"), dict(ROLL), (f"--inventory={recipes}",))


@pytest.fixture(scope="module")
def url(fleet: LabFleet) -> str:
    inventory = fleet.inventory()
    return f"http://{inventory['_meta']['hostvars'][inventory['router']['hosts'][0]]['ansible_host']}:8080"


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    answer = httpx.request("POST" if body else "GET", url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def answers(url: str) -> dict[str, str]:
    """What each name of the model with adapters says to one prompt, through the router."""
    found = {}
    for name in (MODEL, ALIAS, *ADAPTERS):
        body = {"model": name, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}
        found[name] = ask(url, "/v1/completions", body)["choices"][0]["text"]
    return found


def test_every_name_of_both_recipes_is_listed_and_served_by_the_router(url: str) -> None:
    listed = {card["id"] for card in ask(url, "/v1/models")["data"]}
    assert listed == {MODEL, ALIAS, *ADAPTERS, DRAFTED}
    said = answers(url)
    assert said[MODEL] == said[ALIAS]
    assert len({said[name] for name in (MODEL, *ADAPTERS)}) == 3, said
    body = {"model": DRAFTED, "prompt": "x", "max_tokens": 4, "temperature": 0}
    assert ask(url, "/v1/completions", body)["usage"]["completion_tokens"] == 4
    refused = httpx.post(url + "/v1/completions", json={**body, "model": "marketing"}, timeout=60)
    assert refused.status_code == 404, refused.text


def test_an_adapter_is_changed_by_a_roll_without_a_compile_and_no_request_fails(
    fleet: LabFleet, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, running, artifacts = answers(url), fleet.running(), fleet.on(LORA_HOST, MADE)
    assert len(artifacts.strip().splitlines()[1:]) == 1
    monkeypatch.setenv("TRAINYARD_ADAPTERS", json.dumps({"support": "v1", "sql": "v2"}))
    names = ",".join((MODEL, *ADAPTERS))
    with fleet.load(url, closed=6, rate=1.0, longest_s=6.0, model=names) as account:
        run = fleet.run("redeploy", {})
    assert run.code == 0, run.text[-4000:]
    assert account["sent"] == account["ok"] > 20, account
    after = answers(url)
    assert {name for name in after if after[name] != before[name]} == {"sql"}
    assert fleet.on(LORA_HOST, MADE) == artifacts, "nothing was compiled for an adapter"
    changed = {name for name, release in fleet.running().items() if release != running[name]}
    assert changed == {f"{LORA_HOST}:{LORA}-{index}" for index in (0, 1)}


WITH_LORA, WITH_DRAFT = (LORA_HOST, f"{LORA}-0"), (DRAFT_HOST, f"{DRAFT}-0")
#: Host, replica, what its artifact's neuron_config.json says instead, and what the unit says of that.
OTHERWISE: list[tuple[str, str, dict[str, Any], str]] = [
    (*WITH_LORA, {"lora_config": None}, "lora_config of the artifact is null"),
    (*WITH_LORA, {"lora_config.max_loras": 1}, "lora_config.max_loras of the artifact is 1"),
    (*WITH_LORA, {"lora_config.max_lora_rank": 8}, "lora_config.max_lora_rank of the artifact is 8"),
    (*WITH_LORA, {"lora_config.target_modules": ["q_proj"]}, 'target_modules of the artifact is ["q_proj"]'),
    (*WITH_LORA, {"lora_config.dynamic_multi_lora": True}, "dynamic_multi_lora of the artifact is true"),
    (*WITH_LORA, {"quantized": True}, "quantized of the artifact is true"),
    (*WITH_LORA, {"kv_cache_quant": True}, "kv_cache_quant of the artifact is true"),
    (*WITH_LORA, {"is_block_kv_layout": True}, "is_block_kv_layout of the artifact is true"),
    (*WITH_LORA, {"token_generation_buckets": [128]}, "token_generation_buckets of the artifact is [128]"),
    (*WITH_LORA, {"moe_ep_degree": 4}, "moe_ep_degree of the artifact is 4"),
    (*WITH_DRAFT, {"enable_fused_speculation": False}, "enable_fused_speculation of the artifact is false"),
    (*WITH_DRAFT, {"speculation_length": 3}, "speculation_length of the artifact is 3"),
    (*WITH_DRAFT, {"enable_eagle_speculation": True}, "enable_eagle_speculation of the artifact is true"),
    (*WITH_DRAFT, {"on_device_sampling_config": None}, "on_device_sampling_config of the artifact is null"),
]  # fmt: skip

#: Run on the host: takes a configuration file and settings, dots for what is within another.
CHANGE = (
    "import json, pathlib, sys; p = pathlib.Path(sys.argv[1]); d = json.loads(p.read_text())\n"
    "for k, v in json.loads(sys.argv[2]).items():\n"
    "    t = d['neuron_config']\n"
    "    *w, n = k.split('.')\n"
    "    for s in w: t = t[s]\n"
    "    t[n] = v\n"
    "p.write_text(json.dumps(d))"
)


@pytest.fixture(scope="module")
def kept(fleet: LabFleet) -> Iterator[dict[str, tuple[str, str]]]:
    """The artifact's configuration of each host, its path and its content; put back at the end, and served again."""
    found = {}
    for host in (LORA_HOST, DRAFT_HOST):
        file = fleet.on(host, "find /data/artifacts -name neuron_config.json").splitlines()[-1].strip()
        found[host] = (file, fleet.on(host, f"base64 -w0 {file}").splitlines()[-1].strip())
    yield found
    for host, replica in (WITH_LORA, WITH_DRAFT):
        file, content = found[host]
        fleet.on(host, f"echo {content} | base64 -d > {file}; systemctl reset-failed vllm@{replica}.service || true")
        fleet.on(host, f"systemctl start vllm@{replica}.service")


@pytest.mark.parametrize(
    ("host", "replica", "changes", "said"), OTHERWISE, ids=[next(iter(row[2])) for row in OTHERWISE]
)
def test_a_start_with_an_artifact_that_was_made_otherwise_is_refused_by_the_unit(
    fleet: LabFleet,
    kept: dict[str, tuple[str, str]],
    host: str,
    replica: str,
    changes: dict[str, Any],
    said: str,
    tmp_path: Path,
) -> None:
    file, content = kept[host]
    unit = f"vllm@{replica}.service"
    script = f"echo {content} | base64 -d > {file} && python3 -c {shlex.quote(CHANGE)} {file} "
    script += shlex.quote(json.dumps(changes))
    script += f"; systemctl stop {unit}; systemctl reset-failed {unit}; began=$(date +%s)"
    script += f"; systemctl start {unit}; echo left $?; systemctl stop {unit}"
    script += f"; journalctl -u {unit} -o cat --no-pager --since @$began"
    out = fleet.on(host, script)
    assert "left 0" not in out, out
    assert said in out, out[-3000:]
