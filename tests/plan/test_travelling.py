# SPDX-License-Identifier: Apache-2.0
"""Files that travel with the plan: a chat template of the controller's, and NxDI's list of adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import collect
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.travelling import MOST_BYTES, path_of

from tests.roles.render import render

TEMPLATE = "{{ bos_token }}{% for message in messages %}{% break %}{{ message['content'] }}{% endfor %}\n"
MODEL = {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40}
SQL = {"name": "sql", "repo": "acme/sql", "revision": "a" * 40}
CHAT = {"name": "chat", "repo": "acme/chat", "revision": "b" * 40}


def collected(folder: Path, release: str = "2.32.0", **fields: Any) -> dict[str, Any]:
    deployment = {"name": "m", "model": MODEL, "sdk_release": release, "tensor_parallel_size": 8, "max_num_seqs": 4,
                  "max_model_len": 4096, "port": 8000, "data_parallel_size": 2, **fields}  # fmt: skip
    host = {
        "ansible_host": "10.0.0.1",
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_deployment_m": deployment,
        "inventory_dir": str(folder),
        "neuron_venv_pip_index": "",
    }
    return collect({"h": host}, ["h"], ["h"])


def planned(folder: Path, release: str = "2.32.0", **fields: Any) -> dict[str, Any]:
    return dict(plan_fleet(collected(folder, release, **fields)).to_dict()["hosts"]["h"])


def value(replica: dict[str, Any], flag: str) -> str:
    return str(replica["argv"][replica["argv"].index(flag) + 1])


def test_a_chat_template_travels_and_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    file = tmp_path / "templates/tools.jinja"
    file.write_text(TEMPLATE)
    fields = {"tools": {"chat_template": "templates/tools.jinja"}}
    host = planned(tmp_path, **fields)
    path = path_of("tools.jinja", TEMPLATE)
    assert host["files"] == [{"name": path.rsplit("/", 1)[1], "content": TEMPLATE}]
    for replica in host["replicas"]:
        assert value(replica, "--chat-template") == path
        assert replica["files"] == [path]
    file.write_text(TEMPLATE + "{# changed #}")
    changed = planned(tmp_path, **fields)
    assert changed["files"][0]["name"] != path.rsplit("/", 1)[1]
    first, second = host["replicas"][0], changed["replicas"][0]
    assert first["release"] != second["release"], "a restart"
    assert first["artifact"] == second["artifact"], "and no compile"
    absolute = planned(tmp_path, tools={"chat_template": str(file)})
    assert absolute["files"][0]["content"] == TEMPLATE + "{# changed #}"


def test_a_host_without_files_has_no_word_of_them(tmp_path: Path) -> None:
    host = planned(tmp_path)
    assert "files" not in host
    assert "files" not in host["replicas"][0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{% for x in y %}", "is no Jinja template, line 1"),
        ("", "is empty"),
        ("x" * (MOST_BYTES + 1), "no template has more than"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_a_template_that_is_none_is_refused_before_anything_is_touched(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "t.jinja").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError) as refused:
        collected(tmp_path, tools={"chat_template": "t.jinja"})
    (line,) = refused.value.lines()
    assert said in line
    assert "tools.chat_template" in line


def test_a_template_of_an_override_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    given = collected(tmp_path)
    host = {**given["hosts"]["h"], "trainyard_overrides": {"m": {"tools": {"chat_template": "t.jinja"}}}}
    found = collect({"h": {**host, "inventory_dir": str(tmp_path)}}, ["h"], ["h"])
    assert found["files"] == {"t.jinja": TEMPLATE}
    assert plan_fleet(found).to_dict()["hosts"]["h"]["files"][0]["content"] == TEMPLATE


def test_a_file_arrives_as_it_was() -> None:
    for content in (TEMPLATE, "no line break at its end", "{{ looks.like.ansible }}\n\n"):
        assert render("vllm_endpoint", "travelled.j2", item={"name": "x", "content": content}) == content


def test_the_plugin_is_given_the_list_of_adapters_that_it_reads(tmp_path: Path) -> None:
    lora = {"max_loras": 2, "max_rank": 16, "adapters": [SQL, CHAT]}
    host = planned(tmp_path, "2.28.1", lora=lora)
    replica = host["replicas"][0]
    override = json.loads(value(replica, "--additional-config"))["override_neuron_config"]
    (file,) = host["files"]
    assert override["lora_ckpt_json"] == "/etc/vllm/files/" + file["name"]
    assert override["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    paths = {row["name"]: f"/data/weights/{row['repo']}/{row['revision']}" for row in (SQL, CHAT)}
    listed = json.loads(file["content"])
    assert listed["lora-ckpt-paths"] == listed["lora-ckpt-paths-cpu"] == paths
    assert replica["adapters"] == paths
    assert "lora_ckpt_json" not in json.dumps(host["artifacts"]), "an adapter is no part of what is compiled"


def test_the_fork_has_its_overrides_where_there_are_adapters(tmp_path: Path) -> None:
    host = planned(tmp_path, "2.26.1", generation="nxdi_v0", lora={"max_loras": 2, "adapters": [SQL]})
    replica = host["replicas"][0]
    assert json.loads(value(replica, "--override-neuron-config"))["sequence_parallel_enabled"] is False
    assert replica["adapters"] == {"sql": "/data/weights/acme/sql/" + "a" * 40}
    assert "files" not in host
