# SPDX-License-Identifier: Apache-2.0
"""`trainyard plan` over the fleet that the repository carries, and over inventories that are wrong."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import table_topology
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import VARIABLES
from jsonschema import Draft202012Validator, ValidationError

from trainyard.paths import ROOT
from trainyard.plan_command import reach_line
from trainyard.plan_diff import Change, changes
from trainyard.plan_picture import fleet_picture

SCHEMA = json.loads((ROOT / "docs/schemas/plan.schema.json").read_text(encoding="utf-8"))
FLEET = str(ROOT / "inventory/trn2")


BASE = {
    "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    "PYTHONPATH": str(ROOT / "src"),
    "COLUMNS": "160",
}


def trainyard(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from trainyard.cli import main; main()", "plan", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**BASE, **environment},
    )


@pytest.fixture(scope="module")
def fleet() -> dict[str, Any]:
    run = trainyard("-i", FLEET, "--json")
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


def test_both_recipes_have_their_published_cores_and_ports(fleet: dict[str, Any]) -> None:
    found = {r["name"]: (r["cores"], r["port"]) for host in fleet["hosts"].values() for r in host["replicas"]}
    assert found == {
        "llama-3-3-70b-0": ("0-31", 8000),
        "llama-3-3-70b-1": ("32-63", 8001),
        "qwen3-32b-0": ("0-15", 8000),
    }


def test_both_recipes_are_planned_without_a_warning_and_fit_their_cores(fleet: dict[str, Any]) -> None:
    # All that is left to say is that the addresses are those of documentation, which have to be replaced.
    assert {warning["rule"] for warning in fleet["warnings"]} == {"is an address of documentation, which no host has"}
    for host in fleet["hosts"].values():
        assert host["memory"]["loads_at_once"] == len(host["replicas"])
        assert all(r["hbm_bytes_needed"] < r["hbm_bytes_available"] for r in host["replicas"])


def test_the_recipes_compile_for_what_they_serve_and_for_their_own_benchmark(fleet: dict[str, Any]) -> None:
    for benchmark in fleet["benchmarks"]:
        load, length = benchmark["load"], benchmark["replicas"][0]["max_model_len"]
        sigma = load["stddev_input_tokens"] + load["stddev_output_tokens"]
        assert load["mean_input_tokens"] + load["mean_output_tokens"] + 3 * sigma <= length


def test_who_reaches_what_is_said_for_every_host(fleet: dict[str, Any]) -> None:
    assert reach_line(fleet["hosts"]["trn2-a"]) == (
        "reached by  replicas (8000-8001): 192.0.2.10; agents (9000-9001): 192.0.2.10; "
        "device metrics (9400-9401): the host itself alone"
    )
    opened = {"open": True, "rules": [], "further": []}
    assert reach_line({"reach": opened}).startswith("open to anybody")


def test_the_plan_keeps_its_published_schema(fleet: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(fleet)


@pytest.mark.parametrize("path", [("version",), ("hosts", "trn2-a", "replicas", 0, "cores"), ("router", "urls")])
def test_the_schema_misses_what_is_missing(fleet: dict[str, Any], path: tuple[Any, ...]) -> None:
    broken = json.loads(json.dumps(fleet))
    at = broken
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(broken)


def test_the_table_says_where_each_replica_is() -> None:
    run = trainyard("-i", FLEET)
    row = next(line for line in run.stdout.splitlines() if line.startswith("llama-3-3-70b-1"))
    assert re.search(r"32-63 +8-15 +0-1 .* 8001 +~\d+/768 +[0-9a-f]{12}", row), row
    assert "2 artifacts to compile once each" in run.stdout


def inventory(tmp_path: Path, **variables: Any) -> str:
    path = tmp_path / "hosts.yml"
    hosts = {"trn2-a": {"trainyard_instance_type": "trn2.48xlarge", "ansible_host": "192.0.2.1", **variables}}
    path.write_text(yaml.safe_dump({"all": {"children": {"neuron": {"hosts": hosts}}}}), encoding="utf-8")
    return str(path)


QWEN = {
    "name": "qwen",
    "model": {"repo": "Qwen/Qwen3-32B", "revision": "9216db5781bf21249d130ec9da846c4624c16137"},
    "sdk_release": "2.27.0",
    "runtime": "container",
    "tensor_parallel_size": 16,
    "data_parallel_size": "fill",
    "max_num_seqs": 32,
    "max_model_len": 4096,
    "block_size": 32,
    "port": 8000,
}


def test_problems_are_told_all_at_once_and_end_with_1(tmp_path: Path) -> None:
    bad = {**QWEN, "tensor_parallel_size": 24, "port": 80}
    run = trainyard("-i", inventory(tmp_path, trainyard_deployment_qwen=bad))
    assert run.returncode == 1
    assert "trainyard_deployment_qwen.port = 80" in run.stderr
    assert "trainyard_deployment_qwen.tensor_parallel_size = 24" in run.stderr


def test_variables_may_be_templates_and_a_broken_one_is_named(tmp_path: Path) -> None:
    good = trainyard(
        "-i", inventory(tmp_path, width=16, trainyard_deployment_qwen={**QWEN, "served_name": "q{{ width }}"})
    )
    assert "offers q16" in good.stdout, good.stderr
    broken = trainyard("-i", inventory(tmp_path, trainyard_deployment_qwen="{{ nowhere }}"))
    assert broken.returncode == 1
    assert "trainyard_deployment_qwen" in broken.stderr
    assert "nowhere" in broken.stderr


def test_an_inventory_that_is_not_there_or_empty_ends_with_2(tmp_path: Path) -> None:
    assert trainyard("-i", str(tmp_path / "none.yml")).returncode == 2
    empty = tmp_path / "hosts.yml"
    empty.write_text("all: {hosts: {a: }}\n", encoding="utf-8")
    run = trainyard("-i", str(empty))
    assert (run.returncode, "no host in the group 'neuron'" in run.stderr) == (2, True)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A model hub that has one file."""
    directory = tmp_path / "hub" / "acme" / "tiny-qwen3" / "resolve" / ("0" * 40)
    directory.mkdir(parents=True)
    config = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 2048,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "hub"))

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_models_config_comes_from_the_hub_once_and_is_believed(tmp_path: Path, hub: str) -> None:
    model = {"repo": "acme/tiny-qwen3", "revision": "0" * 40}
    hosts = inventory(tmp_path, trainyard_deployment_qwen={**QWEN, "model": model})
    kept = tmp_path / "configs"
    run = trainyard("-i", hosts, "--hub", hub, "--model-configs", str(kept))
    assert run.returncode == 1
    assert "max_model_len = 4096: is over the model's 2048 positions" in run.stderr
    again = trainyard("-i", hosts, "--model-configs", str(kept))
    assert "2048 positions" in again.stderr
    missing = trainyard("-i", hosts, "--hub", hub + "/nothing", "--model-configs", str(tmp_path / "other"))
    assert (missing.returncode, "config.json of acme/tiny-qwen3" in missing.stderr) == (2, True)


def test_the_picture_shows_every_core_and_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "fleet.svg"
    variables = {"trainyard_quarantined_devices": [13], "trainyard_reserved_cores": "32-33"}
    run = trainyard("-i", inventory(tmp_path, trainyard_deployment_qwen=QWEN, **variables), "--svg", str(path))
    assert run.returncode == 0, run.stderr
    titles = [title.text or "" for title in ET.parse(path).iter("{http://www.w3.org/2000/svg}title")]  # noqa: S314
    assert len(titles) == 64
    assert titles.count("core 0: qwen-0") == 1
    assert sum("quarantined" in title for title in titles) == 4
    assert sum("reserved" in title for title in titles) == 2


def test_the_picture_escapes_what_the_inventory_says() -> None:
    hosts = {
        "a-name": {
            "trainyard_instance_type": "trn2.3xlarge",
            "trainyard_deployment_qwen": {**QWEN, "tensor_parallel_size": 4, "max_num_seqs": 8},
        }
    }
    # The planner lets no such name pass; a plan may come from elsewhere.
    plan = json.loads(
        json.dumps(plan_fleet({"hosts": hosts, "routers": ["a-name"]}).to_dict()).replace("a-name", "a<b>&")
    )
    picture = fleet_picture(plan, {"a<b>&": table_topology("trn2.3xlarge").to_dict()})
    assert "a&lt;b&gt;&amp;" in picture
    ET.fromstring(picture)  # noqa: S314


def test_a_plan_is_compared_with_what_runs() -> None:
    def replica(name: str, release: str) -> dict[str, str]:
        return {"name": name, "release": release}

    plan = {
        "hosts": {
            "a": {
                "replicas": [replica("x-0", "new"), replica("x-1", "same"), replica("x-2", "first")],
                "spares": [replica("x-spare", "other")],
            },
            "b": {"replicas": [replica("x-0", "new")], "spares": []},
        }
    }
    there = {
        name: {"running": release} for name, release in (("x-0", "old"), ("x-1", "same"), ("y-0", "old"), ("y-1", ""))
    }
    running = {"a": there}
    assert [(c.host, c.replica, c.action) for c in changes(plan, running)] == [
        ("a", "x-0", "restart"),
        ("a", "x-1", "keep"),
        ("a", "x-2", "start"),
        ("a", "y-0", "stop"),
        ("b", "x-0", "unknown"),
    ]
    assert isinstance(changes(plan, running)[0], Change)


def test_hosts_that_cannot_be_reached_are_said_to_be_unknown(tmp_path: Path) -> None:
    ssh = {"ansible_ssh_executable": "/bin/false"}
    run = trainyard("-i", inventory(tmp_path, trainyard_deployment_qwen=QWEN, **ssh), "--diff")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("unknown") == 4


def test_the_toolkits_own_variables_are_known(tmp_path: Path) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "playbooks").rglob("*.yml"))
    words = set(re.findall(r"\btrainyard_[a-z_]*[a-z]\b", text)) - set(re.findall(r"register: (\w+)", text))
    others = (word for word in words if not word.startswith("trainyard_deployment") and word not in PLANNERS)
    own = {word: VARIABLES[word].example if word in VARIABLES else 1 for word in others}
    assert "trainyard_aws_environment" in own
    run = trainyard("-i", inventory(tmp_path, trainyard_deployment_qwen=QWEN, **own))
    assert run.returncode == 0, run.stderr
    assert "is no variable of trainyard" not in run.stderr


#: The planner reads these itself, so 1 is no value of theirs.
PLANNERS = {
    "trainyard_address",
    "trainyard_data_dir",
    "trainyard_instance_type",
    "trainyard_logical_nc_config",
    "trainyard_router_port",
    "trainyard_topology",
}


def test_a_plan_says_when_the_hosts_capacity_block_ends_and_what_remains(tmp_path: Path) -> None:
    deployment = yaml.safe_load((ROOT / "inventory/trn2/group_vars/qwen3_32b/deployment.yml").read_text())
    end = datetime.now(UTC) + timedelta(hours=4, minutes=5)
    host = {
        "ansible_host": "192.0.2.1",
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_capacity_block_end": end.isoformat(),
        "trainyard_capacity_block_start": (end - timedelta(hours=24)).isoformat(),
        "trainyard_price_per_host_hour_usd": 30,
    }
    source = tmp_path / "hosts.yml"
    source.write_text(yaml.safe_dump({"all": {"children": {"neuron": {"hosts": {"a": {**host, **deployment}}}}}}))
    run = trainyard("-i", str(source), COLUMNS="300")
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("Capacity block")]
    assert re.fullmatch(
        rf"Capacity block of a, until {end:%Y-%m-%d %H:%M} UTC: replicas leave in 3 h (19|20) min, "
        r"it can be extended for 3 h 0[45] min more; 597\.\d\d USD so far",
        line,
    ), line
