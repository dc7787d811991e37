# SPDX-License-Identifier: Apache-2.0
"""Adapters of a start: a view of the artifact that names them, and a refusal of those that it was not compiled for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import adapters, settings
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import Replica, ServingError

LORA = {"max_loras": 2, "max_lora_rank": 16, "target_modules": ["q_proj", "v_proj"], "dynamic_multi_lora": False}


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "RUNTIME", tmp_path / "run")
    made = tmp_path / "artifact"
    (made / "weights").mkdir(parents=True)
    (made / "model.pt").write_text("graphs")
    (made / "neuron_config.json").write_text(json.dumps({"neuron_config": {"seq_len": 64, "lora_config": LORA}}))
    return made


def adapter(folder: Path, **changes: Any) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["q_proj"], **changes}))
    return str(folder)


def replica(artifact: Path, **paths: str) -> Replica:
    return Replica(
        name="m-0", argv=("x",), url="http://127.0.0.1:1", cores="0-7", served_name="m", artifact_path=str(artifact),
        adapters=paths, compiled={"lora_config": LORA},
    )  # fmt: skip


def configured(view: Path) -> dict[str, Any]:
    return dict(json.loads((view / "neuron_config.json").read_text())["neuron_config"])


def test_a_view_links_to_everything_and_names_this_releases_adapters(artifact: Path) -> None:
    before = (artifact / "neuron_config.json").read_bytes()
    view = adapters.make_view(replica(artifact, sql="/w/sql/v1", chat="/w/chat/v1"))
    assert (view / "model.pt").read_text() == "graphs"
    assert (view / "weights").is_dir()
    assert configured(view)["seq_len"] == 64
    lora = configured(view)["lora_config"]
    assert lora["lora_ckpt_paths"] == {"sql": "/w/sql/v1", "chat": "/w/chat/v1"}
    assert lora["lora_ckpt_paths_cpu"] == {}
    assert {name: lora[name] for name in LORA} == LORA
    again = adapters.make_view(replica(artifact, sql="/w/sql/v2"))
    assert configured(again)["lora_config"]["lora_ckpt_paths"] == {"sql": "/w/sql/v2"}
    assert (artifact / "neuron_config.json").read_bytes() == before


def test_adapters_beyond_the_devices_slots_wait_in_the_hosts_memory(artifact: Path) -> None:
    lora = {**LORA, "max_loras": 1, "dynamic_multi_lora": True, "lora_ckpt_json": "/made/of.json"}
    made = {"neuron_config": {"lora_config": lora}}
    (artifact / "neuron_config.json").write_text(json.dumps(made))
    lora = configured(adapters.make_view(replica(artifact, sql="/s", chat="/c")))["lora_config"]
    assert lora["lora_ckpt_paths"] == {"sql": "/s"}
    assert lora["lora_ckpt_paths_cpu"] == {"sql": "/s", "chat": "/c"}
    assert lora["lora_ckpt_json"] is None, "NxDI reads the file before the paths"


def test_an_artifact_without_adapters_has_no_view(artifact: Path) -> None:
    (artifact / "neuron_config.json").write_text(json.dumps({"neuron_config": {"lora_config": None}}))
    with pytest.raises(ServingError, match="compiled without adapters; run the compile playbook"):
        adapters.make_view(replica(artifact, sql="/s"))
    (artifact / "neuron_config.json").write_text("[1]")
    with pytest.raises(ServingError, match="holds no settings by name"):
        adapters.make_view(replica(artifact, sql="/s"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 32}, "the adapter sql has rank 32, and 16 was compiled in: raise lora.max_rank, and compile"),
        ({"target_modules": ["q_proj", "down_proj"]}, "changes down_proj, which is not compiled in"),
    ],
)
def test_an_adapter_that_is_larger_than_what_was_compiled_is_refused(
    artifact: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    found = adapters.problems(replica(artifact, sql=adapter(tmp_path / "sql", **changes)))
    assert [said in one for one in found] == [True], found


def test_one_that_fits_is_not_refused_and_one_that_cannot_be_read_is(artifact: Path, tmp_path: Path) -> None:
    fits = adapter(tmp_path / "sql", r=16, target_modules=["q_proj", "v_proj"])
    assert adapters.problems(replica(artifact, sql=fits)) == []
    assert adapters.problems(replica(artifact)) == []
    (found,) = adapters.problems(replica(artifact, sql=str(tmp_path / "gone")))
    assert "the adapter sql: " in found
    assert "run the provision playbook" in found
