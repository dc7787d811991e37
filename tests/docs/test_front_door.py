# SPDX-License-Identifier: Apache-2.0
"""The shipped inventory runs with addresses and a token: what else a recipe needs has a default, or a line there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import PREFIX
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "inventory/trn2"
CODE = ROOT / "collections/ansible_collections/trainyard/neuron/plugins"

#: Variables of roles that are empty by default, and why a recipe runs all the same.
WORKS_EMPTY = {
    "benchmark_api_key": "the router asks for a key only where it was given keys",
    "benchmark_objective": "no objective",
    "benchmark_run_id": "made of the time",
    "benchmark_scenario": "nothing to say beside the load",
    "benchmark_vllm_venv": "read by the client vllm_bench alone",
    "container_engine_docker_settings": "read with docker alone",
    "load_balancer_affinity_header": "no affinity",
    "load_balancer_certificate": "read where load_balancer_tls is given",
    "load_balancer_cors_origins": "no pages of other origins",
    "load_balancer_peers": "one router",
    "load_balancer_trusted_clients": "nobody says who asked before",
    "load_balancer_upstream_key": "replicas ask for none",
    "load_balancer_virtual_address": "one router",
    "load_balancer_virtual_interface": "one router",
    "load_balancer_vllm_router_environment": "read with another router alone",
    "model_compile_store_endpoint": "AWS's own",
    "monitoring_certificate": "it listens on its own host alone, unless told otherwise",
    "monitoring_certificate_key": "it listens on its own host alone, unless told otherwise",
    "monitoring_receivers": "alerts stand on its page, and nobody is told",
    "monitoring_routes": "every alert goes to the first receiver",
    "monitoring_thresholds": "the rules have their own",
    "monitoring_users": "it listens on its own host alone, unless told otherwise",
    "neuron_monitor_writable_paths": "the driver keeps its books itself",
    "neuron_venv_general_index": "pip's own",
    "neuron_venv_package_key": "that of Neuron's repository is known",
    "neuron_venv_package_suite": "the code name of the host's distribution",
    "nvme_raid_disks": "the host's instance store, all of it",
    "nvme_raid_serial": "the host's instance store, all of it",
    "nvme_raid_wipe": "nothing that somebody has on a disk is lost",
    "vllm_endpoint_clients": "the plan knows who reaches replicas",
    "vllm_endpoint_writable_paths": "the driver keeps its books itself",
    **dict.fromkeys(
        (
            "benchmark_environment",
            "llmperf_patched_environment",
            "neuron_venv_environment",
        ),
        "no proxy and no certificates of one's own",
    ),
}


def lines() -> str:
    """Everything that a user reads before the first run."""
    read = [ROOT / "README.md", *sorted(SHIPPED.rglob("*.yml"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in read)


def roles_of(playbook: Path) -> Iterator[str]:
    """The roles that a playbook runs, those of what it imports and of what these roles include among them."""
    for play in yaml.safe_load(playbook.read_text(encoding="utf-8")):
        if "ansible.builtin.import_playbook" in play:
            yield from roles_of(imported(play["ansible.builtin.import_playbook"], playbook.parent))
        yield from (item["role"] for item in play.get("roles", ()))
        yield from included(play.get("tasks", ()))


def imported(name: str, beside: Path) -> Path:
    """The playbook that is imported by a path or, one of the collection, by its full name."""
    file = beside / name
    return file if file.exists() else CODE.parent / "playbooks" / f"{name.rpartition('.')[2]}.yml"


def included(tasks: Any) -> Iterator[str]:
    for task in tasks or ():
        for verb in ("include_role", "import_role"):
            named = task.get(f"ansible.builtin.{verb}")
            if named:
                yield named["name"]
        for part in ("block", "rescue", "always"):
            yield from included(task.get(part))


def needed_roles() -> set[str]:
    found = set(roles_of(ROOT / "site.yml"))
    for role in list(found):
        for path in (ROOT / "roles" / role / "tasks").glob("*.yml"):
            found |= set(included(yaml.safe_load(path.read_text(encoding="utf-8"))))
    return found


def options() -> dict[str, Any]:
    """Every variable of the roles that the stages run, with its default."""
    found: dict[str, Any] = {}
    for role in needed_roles():
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        for spec in specs["argument_specs"].values():
            found |= {name: option.get("default") for name, option in spec.get("options", {}).items()}
    return found


def given_by_playbooks() -> set[str]:
    """Variables that the stages give their roles."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "playbooks").glob("*.yml"))
    return set(re.findall(r"^\s+(\w+):", text, re.MULTILINE))


def test_the_stages_run_the_roles_that_there_are() -> None:
    assert {"neuron_venv", "model_weights", "container_engine", "benchmark", "llmperf_patched"} <= needed_roles()


def test_what_is_empty_by_default_has_a_line_or_a_reason() -> None:
    empty = {name for name, default in options().items() if default in (None, "", [], {})}
    without = {name for name in empty - given_by_playbooks() if not re.search(rf"\b{name}\b", lines())}
    unexplained = sorted(without - set(WORKS_EMPTY))
    assert unexplained == [], "no default, no line in inventory/trn2 or README, and no reason why it works without"


def test_what_works_empty_is_still_there_and_still_empty() -> None:
    known = options()
    assert [name for name in WORKS_EMPTY if known.get(name, "gone") not in (None, "", [], {})] == []


def test_what_a_message_tells_people_to_set_has_a_default_or_a_line() -> None:
    """The first run met `set neuron_venv_pip_index` after hours: nobody had heard of it before."""
    known = {**{name: field.default for name, field in VARIABLES.items()}, **options()}
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(CODE.rglob("*.py")))
    told = set(re.findall(r"\b[Ss]et \W*([a-z]+_[a-z0-9_]+)", re.sub(r'"\s*\n\s*f?"', "", text)))
    wanted = {name for name in told if name in known and not name.startswith(PREFIX)}
    assert {"neuron_venv_pip_index", "neuron_venv_package_source", "trainyard_images"} <= wanted
    missing = [
        name
        for name in sorted(wanted)
        if known[name] in (None, "", [], {}, ()) and not re.search(rf"\b{name}\b", lines())
    ]
    assert missing == []


@pytest.mark.parametrize("group", ["llama_3_3_70b", "qwen3_32b"])
def test_what_the_rows_of_the_recipes_need_is_public_and_known(group: str) -> None:
    path = SHIPPED / "group_vars" / group / "deployment.yml"
    deployment = yaml.safe_load(path.read_text(encoding="utf-8"))[f"{PREFIX}{group}"]
    row = find_release(deployment["sdk_release"], deployment["generation"])
    defaults = options()
    assert defaults["neuron_venv_package_source"] == "neuron"
    assert defaults["neuron_venv_pip_index"] == "https://pip.repos.neuron.amazonaws.com"
    assert VARIABLES["trainyard_image_registry"].default == "public.ecr.aws"
    if deployment["runtime"] == "container":
        assert row.image
    elif not row.venv_has_vllm:
        assert row.source_commit
        assert row.source_requirements
    for variable in ("model_weights_hub_token", "model_compile_store", "ansible_host"):
        assert re.search(rf"^\s*(# )?{variable}:|{{{variable}:", lines(), re.MULTILINE), variable


def test_both_recipes_are_measured_with_llmperf_from_its_public_repository() -> None:
    said = yaml.safe_load((SHIPPED / "group_vars/all/benchmark.yml").read_text(encoding="utf-8"))
    assert said == {"benchmark_client": "llmperf"}
    assert options()["benchmark_llmperf_source"] == "https://github.com/ray-project/llmperf.git"
