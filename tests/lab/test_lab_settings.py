# SPDX-License-Identifier: Apache-2.0
"""What a host takes over from the machine, what the inventory says, and what the real vLLM needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainyard.lab import carry, inventory, seccomp, state, vllm_cpu
from trainyard.lab.errors import LabError
from trainyard.lab.state import Lab, Paths
from trainyard.paths import ROOT

PIP = """\
global.find-links='/srv/wheels'
global.extra-index-url='file:///srv/one/simple file:///srv/two/simple'
global.cert='/etc/ssl/own.pem'
:env:.extra-index-url='https://index.example/simple'
:env:.no-color='true'
"""


def test_environment_wins_over_pip_conf_and_foreign_settings_stay_behind() -> None:
    assert carry.parse_pip_config(PIP) == {
        "find-links": ["/srv/wheels"],
        "extra-index-url": ["https://index.example/simple"],
    }


def test_certificates_name_the_bundle_of_the_image_not_the_path_on_the_machine() -> None:
    carried = carry.carried_from(
        {"PIP_CERT": "/home/me/ca.pem", "https_proxy": "http://proxy:3128"}, PIP, [], bundle=True
    )
    assert carried.environment["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"
    assert carried.environment["https_proxy"] == "http://proxy:3128"
    assert "cert = /etc/ssl/certs/ca-certificates.crt" in carried.pip_conf()


def test_local_folders_are_mounted_with_the_files_that_their_pages_link_to(tmp_path: Path) -> None:
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    carried = carry.Carried(
        pip={
            "find-links": [str(tmp_path / "wheels")],
            "extra-index-url": [f"file://{tmp_path}/index/simple", "https://x.example"],
        }
    )
    volumes = carried.mounts()[1::2]
    assert volumes == [f"{tmp_path}/index:{tmp_path}/index:ro", f"{tmp_path}/wheels:{tmp_path}/wheels:ro"]


def a_lab() -> Lab:
    return Lab(
        name="demo",
        id="abc123-demo",
        subnet="10.200.7.0/24",
        hosts={"lab-1": "10.200.7.11", "lab-2": "10.200.7.12"},
        engine="simulated",
        model_revision="f" * 40,
    )


def test_inventory_has_the_groups_and_checked_host_keys() -> None:
    rendered = inventory.render(a_lab(), Paths(Path("/somewhere/.lab/demo")))
    assert rendered["neuron"]["hosts"] == ["lab-1", "lab-2"]
    assert rendered["router"]["hosts"] == rendered["client"]["hosts"] == ["lab-1"]
    assert rendered["_meta"]["hostvars"]["lab-2"] == {"ansible_host": "10.200.7.12"}
    shared = rendered["all"]["vars"]
    assert "StrictHostKeyChecking=yes" in shared["ansible_ssh_common_args"]
    assert "UserKnownHostsFile=/somewhere/.lab/demo/known_hosts" in shared["ansible_ssh_common_args"]
    assert shared["lab_hub_url"] == "http://10.200.7.2:8080"


def test_a_control_socket_of_any_lab_is_short_enough_to_bind() -> None:
    longest = Lab(name="x" * 30, id=state.lab_id("x" * 30))
    # ssh adds a hash of 40 characters and, while it binds, a suffix of 17.
    assert len(inventory.control_path_dir(longest)) + 1 + 40 + 17 < 108


def run_script(folder: Path, lab: str) -> subprocess.CompletedProcess[str]:
    script = folder / "inventory/lab/hosts.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "inventory/lab/hosts.py", script)
    environment = {**os.environ, "TRAINYARD_LAB": lab}
    return subprocess.run(
        [sys.executable, str(script), "--list"], env=environment, capture_output=True, text=True, check=False
    )


def test_inventory_script_prints_what_up_wrote(tmp_path: Path) -> None:
    inventory.save(a_lab(), Paths(tmp_path / ".lab/demo"))
    done = run_script(tmp_path, "demo")
    assert done.returncode == 0
    assert json.loads(done.stdout)["neuron"]["hosts"] == ["lab-1", "lab-2"]


def test_inventory_script_without_a_lab_says_how_to_make_one(tmp_path: Path) -> None:
    done = run_script(tmp_path, "other")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"_meta": {"hostvars": {}}}
    assert "trainyard lab up --name other" in done.stderr


@pytest.mark.parametrize("name", ["Lab", "-x", "a" * 31, "a b", "", "a/../b"])
def test_names_that_no_container_can_have_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        state.check_name(name)


def test_two_checkouts_never_share_a_name() -> None:
    assert state.lab_id("default", Path("/a")) != state.lab_id("default", Path("/b"))


def test_state_survives_a_round_trip_and_a_broken_file_names_the_way_out(tmp_path: Path) -> None:
    state.save(a_lab(), tmp_path)
    assert state.load("demo", tmp_path) == a_lab()
    state.paths("demo", tmp_path).state.write_text("{", encoding="utf-8")
    with pytest.raises(LabError, match="trainyard lab down --name demo"):
        state.load("demo", tmp_path)


def test_placement_calls_succeed_without_effect_and_nothing_else_changes() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "sched_setaffinity"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mbind"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_NICE"]}},
        ],
    }
    made = seccomp.without_placement(profile)
    assert made["defaultAction"] == "SCMP_ACT_ERRNO"
    assert made["syscalls"][0] == {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    assert [rule for rule in made["syscalls"] if "mbind" in rule["names"]] == [made["syscalls"][-1]]
    assert made["syscalls"][-1]["errnoRet"] == 0


GOOD = {"machine": "x86_64", "cpu_flags": {"avx2"}, "memory_bytes": 8 << 30, "disk_bytes": 20 << 30, "replicas": 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"machine": "aarch64"}, "aarch64"),
        ({"cpu_flags": {"sse4_2"}}, "AVX2"),
        ({"memory_bytes": 4 << 30}, "2 replicas need 5.2 GiB"),
        ({"replicas": 16}, "16 replicas need"),
        ({"disk_bytes": 1 << 30}, "disk"),
    ],
)
def test_real_vllm_says_in_one_line_why_it_cannot_run(change: dict[str, object], reason: str | None) -> None:
    said = vllm_cpu.refusal(**{**GOOD, **change})  # type: ignore[arg-type]
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert reason in said
        assert "\n" not in said


def test_the_lock_of_the_real_vllm_is_complete_and_names_no_index() -> None:
    text = (ROOT / "lab/image/vllm-cpu.txt").read_text(encoding="utf-8")
    requirements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert f"vllm-cpu=={vllm_cpu.VERSION} \\" in requirements
    assert all(line.endswith("\\") for line in requirements), "every requirement is followed by its hashes"
    assert "://" not in text
    assert not [line for line in requirements if line.startswith(("torch==", "torchvision"))]
