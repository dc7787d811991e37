# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import sdk

VENV = "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference"


def row(**change: Any) -> dict[str, Any]:
    base = {
        "release": "2.23.0",
        "generation": "nxdi_v0",
        "runtime": "venv",
        "venv": VENV,
        "packages": {"aws-neuronx-dkms": "2.21.37.0", "aws-neuronx-tools": "2.23.9.0"},
        "versions": {"neuronx-cc": "2.18.121.0", "nxdi": "0.3.5591", "vllm": None},
    }
    return {**base, **change}


def make_venv(root: Path, path: str, **packages: str) -> Path:
    venv = root / path.lstrip("/")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch(0o755)
    (venv / "pyvenv.cfg").write_text("version = 3.10\n")
    for name, version in packages.items():
        (venv / "lib" / "python3.10" / "site-packages" / f"{name}-{version}.dist-info").mkdir(parents=True)
    return venv


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ("2.25.57.0", True),
        ("2.25.57.0-166c7a468", True),
        ("2.18.121.0+9e31e41a", True),
        ("2.25.57.01", False),
        ("2.25.57", False),
        ("12.25.57.0", False),
        (None, False),
    ],
)
def test_versions_are_compared_without_their_build_suffix(found: str | None, same: bool) -> None:
    wanted = "2.18.121.0" if found and found.startswith("2.18") else "2.25.57.0"
    assert sdk.same_version(found, wanted) is same


def test_host_gets_the_newest_driver_of_its_releases() -> None:
    newer = row(release="2.27.0", packages={"aws-neuronx-dkms": "2.25.4.0", "aws-neuronx-tools": "2.9.0.0"})
    assert sdk.wanted_packages([row(), newer]) == {"aws-neuronx-dkms": "2.25.4.0", "aws-neuronx-tools": "2.23.9.0"}


def test_named_environment_is_taken(tmp_path: Path) -> None:
    make_venv(tmp_path, VENV)
    make_venv(tmp_path, "/opt/aws_neuronx_venv_pytorch_2_7_nxd_inference")
    assert sdk.find_venv(row(), sdk.Root(tmp_path)) == VENV


def test_missing_environment_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    make_venv(tmp_path, "/opt/aws_neuronx_venv_pytorch_2_7_nxd_inference")
    (tmp_path / VENV.lstrip("/")).mkdir()
    with pytest.raises(sdk.SdkError, match=r"no environment .*_2_6_nxd_inference.* found: .*_2_7_nxd_inference"):
        sdk.find_venv(row(), sdk.Root(tmp_path))


def test_unnamed_environment_must_be_the_only_one_that_fits(tmp_path: Path) -> None:
    wanted = row(generation="nxdi_v1", venv=None)
    make_venv(tmp_path, VENV)
    with pytest.raises(sdk.SdkError, match="0 environments could be meant"):
        sdk.find_venv(wanted, sdk.Root(tmp_path))
    make_venv(tmp_path, "/opt/aws_neuronx_venv_pytorch_inference_vllm")
    assert sdk.find_venv(wanted, sdk.Root(tmp_path)) == "/opt/aws_neuronx_venv_pytorch_inference_vllm"
    make_venv(tmp_path, "/opt/aws_neuronx_venv_pytorch_inference_vllm_0_16")
    with pytest.raises(sdk.SdkError, match=r"2 environments could be meant: .*_vllm, .*_vllm_0_16"):
        sdk.find_venv(wanted, sdk.Root(tmp_path))


def test_versions_are_read_from_metadata_and_compared_with_the_row(tmp_path: Path) -> None:
    venv = make_venv(
        tmp_path, VENV, neuronx_cc="2.18.121.0+9e31e41a", neuronx_distributed_inference="0.3.1", vllm="0.7.2"
    )
    found = sdk.table_versions(venv)
    assert found == {"neuronx-cc": "2.18.121.0+9e31e41a", "nxdi": "0.3.1", "vllm": "0.7.2"}
    assert sdk.version_problems(row(), found) == ["nxdi is 0.3.1, SDK 2.23.0 has 0.3.5591"]


def test_commands_run_once_for_each_state_of_the_environment(tmp_path: Path) -> None:
    venv = make_venv(tmp_path, VENV, vllm="0.7.2")
    ran: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        ran.append(argv)
        return 0, "", ""

    def verify() -> None:
        sdk.verify(row(), VENV, run, sdk.Root(tmp_path), tmp_path / "notes")

    verify()
    verify()
    assert ran == [[f"{VENV}/bin/inference_demo", "--help"], [f"{VENV}/bin/vllm", "--version"]]
    (venv / "lib" / "python3.10" / "site-packages" / "torch-2.6.0.dist-info").mkdir()
    verify()
    assert len(ran) == 4


def test_command_that_fails_is_not_noted_as_working(tmp_path: Path) -> None:
    make_venv(tmp_path, VENV)
    for _ in range(2):
        with pytest.raises(sdk.SdkError, match="inference_demo --help` ended with status 1: ImportError: libnrt"):
            sdk.verify(
                row(),
                VENV,
                lambda _argv: (1, "", "Traceback\nImportError: libnrt\n"),
                sdk.Root(tmp_path),
                tmp_path / "n",
            )


def test_native_generation_has_no_inference_demo() -> None:
    assert sdk.checks(row(generation="native"), VENV) == [[f"{VENV}/bin/vllm", "--version"]]


@pytest.mark.parametrize("said", ["0.11.0", "vLLM 0.11.0+neuron", "INFO starting\n0.11.0"])
def test_program_says_the_version_of_the_release(tmp_path: Path, said: str) -> None:
    make_venv(tmp_path, VENV)
    wanted = row(versions={"vllm": "0.11.0"}, generation="native")
    sdk.verify(wanted, VENV, lambda _argv: (0, said + "\n", ""), sdk.Root(tmp_path), tmp_path / "notes")


def test_program_of_another_version_than_its_metadata_is_found(tmp_path: Path) -> None:
    make_venv(tmp_path, VENV, vllm="0.11.0")
    wanted = row(versions={"vllm": "0.11.0"}, generation="native")
    with pytest.raises(sdk.SdkError, match=r"vllm --version` says '0\.16\.0', the release has 0\.11\.0"):
        sdk.verify(wanted, VENV, lambda _argv: (0, "0.16.0\n", ""), sdk.Root(tmp_path), tmp_path / "notes")


def test_replicas_in_any_state_but_stopped_use_the_packages() -> None:
    listing = "vllm@b-0.service loaded activating start vLLM replica\nvllm@a-0.service loaded active running vLLM\n"
    assert sdk.running_replicas(lambda _argv: (0, listing, "")) == ["vllm@a-0.service", "vllm@b-0.service"]


def test_processes_that_hold_a_device_are_named(tmp_path: Path) -> None:
    for pid, name, device in ((7, "neuron-monitor", "/dev/neuron0"), (8, "python", "/dev/null")):
        (tmp_path / "proc" / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "comm").write_text(f"{name}\n")
        (tmp_path / "proc" / str(pid) / "cgroup").write_text("0::/system.slice/trainyard-monitor.service\n")
        (tmp_path / "proc" / str(pid) / "fd" / "3").symlink_to(device)
    assert sdk.driver_holders(sdk.Root(tmp_path)) == ["neuron-monitor (7)"]
    assert sdk.driver_holders(sdk.Root(tmp_path), apart_from="trainyard-monitor.service") == []


SKEWED = {sdk.DRIVER: "2.29.0.0", sdk.RUNTIME: "2.32.31.0-abc"}


def test_driver_and_runtime_that_do_not_start_together_are_found() -> None:
    (problem,) = sdk.skew_problems([row()], SKEWED, None)
    assert "driver 2.29 and later needs runtime 2.33" in problem
    assert sdk.skew_problems([row()], {**SKEWED, sdk.RUNTIME: "2.33.10.0"}, "2.29.0.0") == []


def test_container_is_judged_by_the_runtime_that_it_brings() -> None:
    image = row(runtime="container", packages={sdk.DRIVER: "2.29.0.0", sdk.RUNTIME: "2.33.10.0"})
    assert sdk.skew_problems([image], SKEWED, None) == []
    older = row(runtime="container", packages={sdk.DRIVER: "2.28.0.0", sdk.RUNTIME: "2.32.31.0"})
    assert "runtime 2.33" in sdk.skew_problems([older], {sdk.DRIVER: "2.29.0.0"}, None)[0]


def test_driver_in_the_kernel_is_the_installed_one(tmp_path: Path) -> None:
    assert sdk.loaded_driver(sdk.Root(tmp_path)) is None
    (tmp_path / "sys" / "module" / "neuron").mkdir(parents=True)
    (tmp_path / "sys" / "module" / "neuron" / "version").write_text("2.21.37.0\n")
    loaded = sdk.loaded_driver(sdk.Root(tmp_path))
    assert sdk.skew_problems([row()], {sdk.DRIVER: "2.21.37.0"}, loaded) == []
    (problem,) = sdk.skew_problems([row()], {sdk.DRIVER: "2.22.2.0"}, loaded)
    assert "driver 2.22.2.0 is installed and 2.21.37.0 is loaded" in problem
