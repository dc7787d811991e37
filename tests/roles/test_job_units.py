# SPDX-License-Identifier: Apache-2.0
"""The units of the monitor and of long jobs, judged by systemd: understood word for word, and within a budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import compiler

from tests.roles import test_vllm_endpoint
from tests.roles.render import ROOT, render, variables
from tests.roles.test_vllm_endpoint import analyze, needs_systemd

# systemd's exposure level times ten (0 to 100), at most. A unit that needs more has to argue for it here.
BUDGET = {
    # Root, to look at runtimes of other users; two capabilities, no write access, no devices but Neuron's.
    ("neuron_monitor", "trainyard-monitor.service"): 30,
    ("neuron_monitor", "trainyard-exporter.service"): 30,
    # Ansible at work for a person while nobody is there: the network, a home, and no capability.
    ("block_watch", "trainyard-block-watch.service"): 28,
    # Users of their own, that keep what they measured and nothing else.
    ("monitoring", "trainyard-prometheus.service"): 19,
    ("monitoring", "trainyard-alertmanager.service"): 19,
    # Root, since environments of machine images belong to whoever made the image.
    ("neuron_venv", "trainyard-build@.service"): 48,
    # Root without a capability, to own results.
    ("model_weights", "trainyard-weights@.service"): 38,
    # Root, to own results and to take over what the compiler's user left.
    ("model_compile", "trainyard-artifact@.service"): 41,
    # A user of its own, with no network.
    ("model_compile", "trainyard-compile@.service"): 19,
    # It makes arrays and file systems and mounts them for all: root, and no file system of its own.
    ("nvme_raid", "trainyard-instance-store.service"): 64,
    # Root, since the records of a load are.
    ("benchmark", "trainyard-ray.service"): 27,
}
#: Units that other tests of this directory hold to a budget.
ELSEWHERE = {
    ("load_balancer", "trainyard-vllm-router@.service"),
    *(("vllm_endpoint", re.sub(r"@.*[.]", "@.", unit)) for unit in test_vllm_endpoint.BUDGET),
}
VARIABLES: dict[str, dict[str, Any]] = {
    "block_watch": {
        "block_watch_checkout": "/srv/trainyard",
        "block_watch_program": "/usr/bin/trainyard",
        "block_watch_inventory": ["inventory/trn2"],
    },
    "neuron_monitor": {"neuron_monitor_port": 9400, "neuron_monitor_clients": ["10.0.0.0/16"]},
    "benchmark": {
        "__benchmark_cluster": {"token_file": "/opt/trainyard/ray-token", "address": "10.0.0.1:6379"},
        "__benchmark_client_homes": {"llmperf": "/opt/trainyard/llmperf"},
        "__benchmark_begins": True,
        "__benchmark_address": "10.0.0.1",
    },
}

pytestmark = needs_systemd


def tree(root: Path, role: str, unit: str) -> str:
    """A root directory with the unit, its programs, and the targets it refers to; the name to ask about."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / unit).write_text(render(role, f"{unit}.j2", **VARIABLES.get(role, {})))
    programs = (
        "bin/bash",
        "opt/trainyard/tools/bin/python",
        "usr/bin/python3",
        "opt/trainyard/llmperf/venv/bin/python",
        "usr/local/lib/trainyard/exporter",
        "usr/bin/prometheus",
        "usr/bin/prometheus-alertmanager",
        "usr/bin/trainyard",
        "bin/kill",
    )
    for program in programs:
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for name in ("sysinit", "basic", "shutdown", "network", "network-online", "multi-user", "local-fs"):
        (units / f"{name}.target").write_text("[Unit]\nDescription=x\n")
    if unit == "trainyard-compile@.service":
        service = "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/bash\n"
        (units / "trainyard-artifact@.service").write_text(service)
    return unit.replace("@.", "@x.")


@pytest.mark.parametrize(("role", "unit"), BUDGET)
def test_systemd_understands_the_unit(tmp_path: Path, role: str, unit: str) -> None:
    done = analyze("verify", tmp_path, tree(tmp_path, role, unit), "--man=no")
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(("role", "unit"), BUDGET)
def test_unit_keeps_to_its_exposure_budget(tmp_path: Path, role: str, unit: str) -> None:
    name = tree(tmp_path, role, unit)
    limit = f"--threshold={BUDGET[role, unit]}"
    done = analyze("security", tmp_path, name, "--offline=true", limit, "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]


def test_every_unit_of_every_role_has_a_budget() -> None:
    units = {(path.parts[-3], path.name.removesuffix(".j2")) for path in ROOT.glob("roles/*/templates/*.service.j2")}
    assert units == set(BUDGET) | ELSEWHERE


def setting(role: str, unit: str, key: str, **given: Any) -> list[str]:
    """The values of one setting of a rendered unit, in order."""
    text = render(role, f"{unit}.j2", **VARIABLES.get(role, {}), **given).replace("\\\n", " ")
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


#: Who runs what a unit runs, what it may write, and which secrets it is handed.
ROLES_OF_UNITS: dict[tuple[str, str], tuple[list[str], list[str], list[str]]] = {
    ("model_weights", "trainyard-weights@.service"): (
        [],
        ["/data/weights /var/log/trainyard"],
        ["environment:/etc/trainyard/credentials/weights.json"],
    ),
    ("model_compile", "trainyard-artifact@.service"): (
        [],
        ["/data/artifacts /data/compile /var/log/trainyard"],
        ["environment:/etc/trainyard/credentials/artifact.json"],
    ),
    ("model_compile", "trainyard-compile@.service"): (
        ["trainyard-compile"],
        ["/data/artifacts/.%i.partial", "/data/compile/%i"],
        ["spec:/etc/trainyard/jobs/artifact-%i.json"],
    ),
    ("neuron_venv", "trainyard-build@.service"): (
        [],
        ["/opt /var/log/trainyard"],
        ["environment:/etc/trainyard/credentials/build.json"],
    ),
}


@pytest.mark.parametrize(("role", "unit"), ROLES_OF_UNITS)
def test_a_unit_of_a_job_writes_where_it_must_and_has_the_secrets_that_it_needs(role: str, unit: str) -> None:
    user, writable, secrets = ROLES_OF_UNITS[role, unit]
    assert setting(role, unit, "User") == user
    assert setting(role, unit, "ProtectSystem") == ["strict"]
    assert setting(role, unit, "ReadWritePaths") == writable
    assert setting(role, unit, "LoadCredential") == secrets
    assert setting(role, unit, "NoNewPrivileges") == ["yes"]
    assert not any("SECRET" in value or "TOKEN" in value for value in setting(role, unit, "Environment"))


#: One mounts for all; the other is Ansible at work for a person, in that person's home and checkout.
KEEP_MORE = {"trainyard-instance-store.service", "trainyard-block-watch.service"}
#: What every other unit gives up.
GIVEN_UP = (
    "NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelTunables", "ProtectKernelModules",
    "ProtectControlGroups", "RestrictNamespaces", "LockPersonality",
)  # fmt: skip
#: The capabilities that each keeps, in the order of its lines.
KEPT = {
    "trainyard-monitor.service": ["", "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"],
    "trainyard-exporter.service": ["", "CAP_DAC_READ_SEARCH CAP_SYSLOG"],
    "trainyard-prometheus.service": [""],
    "trainyard-alertmanager.service": [""],
    "trainyard-build@.service": ["CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER"],
    "trainyard-weights@.service": [""],
    "trainyard-artifact@.service": ["CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE"],
    "trainyard-compile@.service": [""],
    "trainyard-ray.service": [""],
}


@pytest.mark.parametrize(("role", "unit"), [found for found in BUDGET if found[1] not in KEEP_MORE])
def test_a_unit_gives_up_each_right_that_it_does_not_need(role: str, unit: str) -> None:
    """Line by line: the budget alone has room for one of them."""
    assert {found[1] for found in BUDGET} - set(KEPT) == KEEP_MORE
    assert {key: setting(role, unit, key) for key in GIVEN_UP} == {key: ["yes"] for key in GIVEN_UP}
    assert setting(role, unit, "ProtectSystem") == ["strict"]
    assert setting(role, unit, "CapabilityBoundingSet") == KEPT[unit]
    assert setting(role, unit, "PrivateDevices") == ["yes"] or setting(role, unit, "DevicePolicy") == ["closed"]
    assert not set(setting(role, unit, "RestrictAddressFamilies")[0].split()) & {"AF_PACKET", "AF_VSOCK"}


@pytest.mark.parametrize(
    ("network", "denied", "private"),
    [("none", True, ["yes"]), ("no_metadata", True, []), ("full", False, [])],
)
@pytest.mark.parametrize("runtime", ["venv", "container"])
def test_a_compiler_does_not_reach_the_instance_s_keys_unless_told_to(
    network: str, denied: bool, private: list[str], runtime: str
) -> None:
    given = {"model_compile_network": network, "model_compile_artifacts": [{"runtime": runtime}]}
    unit = ("model_compile", "trainyard-compile@.service")
    # A container's network is the engine's to give: see the tests of the filter artifact_jobs.
    assert setting(*unit, "PrivateNetwork", **given) == (private if runtime == "venv" else [])
    keys = "169.254.169.254 169.254.170.2 169.254.170.23 fd00:ec2::254 fd00:ec2::23"  # EC2, ECS and EKS
    assert setting(*unit, "IPAddressDeny", **given) == ([keys] if denied else [])


def test_a_compiler_ends_with_its_job() -> None:
    unit = ("model_compile", "trainyard-compile@.service")
    assert setting(*unit, "BindsTo") == ["trainyard-artifact@%i.service"]
    assert setting(*unit, "KillMode") == ["control-group"]


def test_the_role_makes_the_user_that_the_unit_and_the_job_name() -> None:
    names = variables("model_compile")["__model_compile_user"]
    assert names == compiler.USER
    assert setting("model_compile", "trainyard-compile@.service", "Group") == [compiler.USER]


def test_a_store_that_is_a_directory_can_be_written_by_the_job_alone() -> None:
    given = {"model_compile_store": "/mnt/store"}
    assert setting("model_compile", "trainyard-artifact@.service", "ReadWritePaths", **given)[0].endswith(" /mnt/store")
    compiles = setting("model_compile", "trainyard-compile@.service", "ReadWritePaths", **given)
    assert not any("/mnt/store" in path for path in compiles)
