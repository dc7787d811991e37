# SPDX-License-Identifier: Apache-2.0
"""The modules of provisioning as Ansible calls them: check mode, difference, change, no change, undo, errors."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, job_units, making_way, vacate
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest
from ansible_collections.trainyard.neuron.plugins.modules import (
    artifacts,
    instance_store,
    jobs,
    sdk_release,
    serving_pause,
)

DIGEST = "ab" * 32

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a module's main function; return its result."""

    def run(module: ModuleType, check: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return run


def make_result(path: Path, inputs: dict[str, Any], kind: str = "weights") -> None:
    staging = manifest.staging_of(path)
    staging.mkdir(parents=True)
    (staging / "f").write_text("x")
    manifest.publish(staging, path, manifest.build(staging, kind, path.name, inputs, {"host": "h1"}))


@pytest.fixture
def a_job(tmp_path: Path) -> dict[str, Any]:
    return {
        "kind": "weights",
        "id": "m-1",
        "path": str(tmp_path / "data" / "m"),
        "inputs": {"revision": "1"},
        "spec": {},
    }


def test_missing_result_is_foretold_and_nothing_is_started(call: Call, a_job: dict[str, Any], tmp_path: Path) -> None:
    result = call(jobs, check=True, state="started", jobs=[a_job])
    assert result["changed"] is True
    assert result["diff"]["before"] == f"{a_job['path']}: absent\n"
    assert result["diff"]["after"] == f"{a_job['path']}: complete\n"
    assert call(jobs, check=True, state="finished", jobs=[a_job])["changed"] is False
    assert list(tmp_path.iterdir()) == []


def test_present_result_is_no_change(call: Call, a_job: dict[str, Any]) -> None:
    make_result(Path(a_job["path"]), a_job["inputs"])
    for check in (True, False):
        for state in ("looked", "started", "finished"):
            result = call(jobs, check=check, state=state, jobs=[a_job])
            assert (result["changed"], result["done"]) == (False, ["m-1"])


def test_look_tells_others_where_the_result_is(call: Call, a_job: dict[str, Any]) -> None:
    absent = call(jobs, state="looked", jobs=[a_job], address="10.0.0.1")
    assert (absent["missing"], absent["paths"], absent["address"]) == (["m-1"], {}, "10.0.0.1")
    make_result(Path(a_job["path"]), a_job["inputs"])
    present = call(jobs, state="looked", jobs=[a_job])
    assert (present["missing"], present["paths"]) == ([], {"m-1": a_job["path"]})


def test_unit_that_works_already_is_not_started_again(
    call: Call, a_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_units.JobUnits, "_active", lambda *_: True)
    monkeypatch.setattr(job_units.JobUnits, "start", lambda *_: pytest.fail("started"))
    assert call(jobs, state="started", jobs=[a_job])["changed"] is False
    running = call(jobs, state="finished", jobs=[a_job], wait_s=0)["running"]
    assert running == [{"id": "m-1", "progress": "starting"}]


def test_waiting_for_what_nobody_started_names_the_playbook(
    call: Call, a_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(job_units.JobUnits, "_active", lambda *_: False)
    monkeypatch.setattr(job_units.JobUnits, "_spec_path", lambda *_: tmp_path / "none")
    assert "playbooks/provision.yml" in call(jobs, state="finished", jobs=[a_job])["msg"]


def test_absent_result_is_removed_once(call: Call, a_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_units.JobUnits, "_active", lambda *_: False)
    make_result(Path(a_job["path"]), a_job["inputs"])
    assert call(jobs, check=True, jobs=[a_job], state="absent")["changed"] is True
    assert Path(a_job["path"]).exists()
    assert call(jobs, jobs=[a_job], state="absent")["changed"] is True
    assert not Path(a_job["path"]).exists()
    assert call(jobs, jobs=[a_job], state="absent")["changed"] is False


def test_failed_job_tells_cause_state_next_step_and_log(
    call: Call, a_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_units.JobUnits, "_active", lambda *_: False)
    monkeypatch.setattr(job_units.JobUnits, "start", lambda *_: None)
    failure = {
        "id": "m-1",
        "cause": "the hub is down",
        "left": "a half",
        "next": "run again",
        "log": "/l",
        "log_tail": [],
    }
    monkeypatch.setattr(job_units.JobUnits, "failure", lambda *_: failure)
    result = call(jobs, state="finished", jobs=[a_job], wait_s=0)
    assert result["failed"] is True
    assert result["msg"] == "m-1: the hub is down. Left: a half. Next: run again. Log: /l"


def test_job_that_cannot_be_a_unit_is_refused(call: Call, a_job: dict[str, Any]) -> None:
    assert "cannot be part of a unit name" in call(jobs, state="looked", jobs=[{**a_job, "id": "a b"}])["msg"]


@pytest.fixture
def no_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_store.disks, "candidates", lambda *_: [])


@pytest.mark.usefixtures("no_disks")
def test_directory_stands_in_for_the_volume(call: Call, tmp_path: Path) -> None:
    mount = tmp_path / "data"
    arguments = {"mount": str(mount), "when_no_disks": "directory", "mode": "0750"}
    assert call(instance_store, check=True, **arguments)["changed"] is True
    assert not mount.exists()
    assert call(instance_store, **arguments)["changed"] is True
    assert mount.stat().st_mode & 0o7777 == 0o750
    assert call(instance_store, **arguments)["changed"] is False
    mount.chmod(0o777)
    drifted = call(instance_store, check=True, **arguments)
    assert drifted["diff"] == {"before": f"{mount} mode: 0777\n", "after": f"{mount} mode: 0750\n"}


@pytest.mark.usefixtures("no_disks")
def test_storage_that_somebody_mounted_there_is_taken(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "data"
    mount.mkdir(mode=0o755)
    monkeypatch.setattr(instance_store.os.path, "ismount", lambda path: path == str(mount))
    assert call(instance_store, mount=str(mount))["volume"] == {}


@pytest.mark.usefixtures("no_disks")
def test_host_without_disks_is_told_what_else_there_is(call: Call, tmp_path: Path) -> None:
    result = call(instance_store, mount=str(tmp_path / "data"))
    assert "set nvme_raid_when_no_disks=directory. Nothing was changed" in result["msg"]


@pytest.mark.usefixtures("no_disks")
def test_directory_that_holds_something_is_not_undone(call: Call, tmp_path: Path) -> None:
    mount = tmp_path / "data"
    mount.mkdir()
    (mount / "kept").touch()
    assert call(instance_store, mount=str(mount), state="absent")["changed"] is False
    (mount / "kept").unlink()
    assert call(instance_store, mount=str(mount), state="absent")["changed"] is True
    assert not mount.exists()


ROW = {
    "release": "2.23.0",
    "generation": "nxdi_v0",
    "runtime": "container",
    "venv": None,
    "packages": {"aws-neuronx-dkms": "2.21.37.0"},
    "versions": {},
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages, all held; no replica runs and nothing holds the driver."""
    packages: dict[str, str] = {}

    def read(*_: object) -> dict[str, host_packages.Installed]:
        return {name: host_packages.Installed(version, held=True) for name, version in packages.items()}

    monkeypatch.setattr(host_packages.Apt, "read", read)
    monkeypatch.setattr(host_packages.Apt, "preferences_path", "")
    monkeypatch.setattr(host_packages.Apt, "repository_path", "/nowhere/trainyard-neuron.sources")
    monkeypatch.setattr(sdk_release.sdk, "running_replicas", lambda _run: [])
    monkeypatch.setattr(sdk_release.sdk, "driver_holders", lambda _root, **_: [])
    monkeypatch.setattr(sdk_release.sdk, "driver_is_loaded", lambda _root: True)
    monkeypatch.setattr(sdk_release.sdk, "headers_are_here", lambda _root, _kernel: True)
    return packages


SOURCE = {"package_source": "https://packages.example"}


def test_driver_of_another_release_is_an_error_or_a_warning(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    # Ansible keeps warnings for the whole process and drops repeated ones, so other tests would decide this one.
    monkeypatch.setattr(sdk_release.AnsibleModule, "warn", lambda _self, text, **_: warned.append(text))
    installed["aws-neuronx-dkms"] = "2.30.2.0"
    assert (
        "aws-neuronx-dkms 2.30.2.0 is installed, the SDK release has 2.21.37.0"
        in call(sdk_release, releases=[ROW])["msg"]
    )
    allowed = call(sdk_release, releases=[ROW], allow_drift=True)
    assert allowed["differs"] is False
    assert any("2.30.2.0 is installed" in text for text in warned)


@pytest.mark.parametrize("check", [True, False])
def test_with_a_source_the_difference_is_to_be_installed_and_held(
    call: Call, installed: dict[str, str], check: bool
) -> None:
    found = call(sdk_release, check=check, releases=[ROW], **SOURCE)
    assert (found["changed"], found["differs"], found["manager"]) == (False, True, "apt")
    assert (found["install"], found["hold"]) == ({"aws-neuronx-dkms": "2.21.37.0"}, ["aws-neuronx-dkms"])
    assert found["pause"] == {"replicas": [], "monitor": True}, "the monitor holds the driver"
    assert found["repository"]["address"] == SOURCE["package_source"]
    installed["aws-neuronx-dkms"] = "2.21.37.0-abc"
    assert call(sdk_release, check=check, releases=[ROW], **SOURCE)["differs"] is False


def test_names_are_bound_to_the_repository_where_they_are_not(
    call: Call, installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    path = tmp_path / "trainyard-neuron"
    monkeypatch.setattr(host_packages.Apt, "preferences_path", str(path))
    (wanted,) = call(sdk_release, releases=[ROW], **SOURCE)["files"]
    assert wanted["path"] == str(path)
    assert 'Pin: origin "packages.example"' in wanted["content"]
    path.write_text(wanted["content"], encoding="utf-8")
    assert call(sdk_release, releases=[ROW], **SOURCE)["differs"] is False
    assert call(sdk_release, releases=[ROW], state="absent")["files"] == [{"path": str(path), "state": "absent"}]
    path.unlink()
    assert call(sdk_release, releases=[ROW], state="absent")["files"] == []


def test_a_driver_is_built_only_with_the_headers_of_the_kernel(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = {"aws-neuronx-dkms": "2.21.37.0"}
    assert call(sdk_release, releases=[ROW], **SOURCE)["install"] == driver
    monkeypatch.setattr(sdk_release.sdk, "headers_are_here", lambda _root, kernel: kernel != platform.release())
    headers = f"linux-headers-{platform.release()}"
    found = call(sdk_release, releases=[ROW], **SOURCE)
    assert list(found["install"].items()) == [(headers, ""), *driver.items()]
    assert found["hold"] == ["aws-neuronx-dkms"]
    (command,) = [values for _name, values in host_packages.Apt().install_steps(found["install"])]
    assert command["argv"][-2:] == [headers, "aws-neuronx-dkms=2.21.37.0*"]
    installed.update(driver)
    assert call(sdk_release, releases=[ROW], **SOURCE)["differs"] is False


def test_a_driver_that_the_kernel_does_not_have_is_to_be_loaded_or_the_run_ends(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(sdk_release, releases=[ROW], **SOURCE)["load"] is True, "whatever its package does"
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    assert call(sdk_release, releases=[ROW], mended=True, **SOURCE)["load"] is False
    monkeypatch.setattr(sdk_release.sdk, "driver_is_loaded", lambda _root: False)
    found = call(sdk_release, releases=[ROW], **SOURCE)
    assert (found["load"], found["differs"]) == (True, True)
    said = call(sdk_release, releases=[ROW], mended=True, **SOURCE)["msg"]
    assert "driver 2.21.37.0 is installed and the kernel does not load it" in said
    assert f"with linux-headers-{platform.release()} installed" in said


BUILT = {
    **ROW,
    "runtime": "venv",
    "packages": {},
    "versions": {"neuronx-cc": "2.18.121.0", "nxdi": "0.3.5591", "vllm": None, "vllm-neuron": None},
    "source": {
        "repo": "owner/vllm",
        "ref": "branch",
        "commit": "0" * 40,
        "requirements": "requirements/neuron.txt",
        "needed": True,
        "pythons": ["3.9", "3.11"],
    },
}


def test_an_environment_that_no_image_brought_is_made_with_the_newest_python_that_fits(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del installed
    row = {**BUILT, "venv": str(tmp_path / "venv")}
    here = {"python3.9", "python3.11", "python3.13", "git"}
    monkeypatch.setattr(sdk_release.shutil, "which", lambda name: name if name in here else None)
    monkeypatch.setattr(sdk_release.Release, "run", lambda _self, argv: (int("import ensurepip" in argv), "", ""))
    asked = call(sdk_release, releases=[row], pip_index="https://pip.example")
    assert asked["builds"][0]["inputs"]["python"] == "python3.11"
    assert asked["builds"][0]["inputs"]["pins"] == [
        "neuronx-cc==2.18.121.0.*",
        "neuronx-distributed-inference==0.3.5591.*",
    ]
    assert asked["tools"] == ["python3.11-venv"]
    assert "no environment" in call(sdk_release, releases=[row])["msg"], "nothing is built without an index"
    here -= {"python3.9", "python3.11"}
    said = call(sdk_release, releases=[row], pip_index="https://pip.example")["msg"]
    assert "none of the Pythons that one can be made with: python3.11, python3.9" in said


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("package", ["aws-neuronx-dkms", "aws-neuronx-runtime-lib"])
def test_packages_under_running_replicas_are_not_changed(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, package: str, check: bool
) -> None:
    installed[package] = "2.20.0.0"
    row = {**ROW, "packages": {package: "2.21.37.0"}}
    monkeypatch.setattr(sdk_release.sdk, "running_replicas", lambda _run: ["vllm@a-0.service"])
    result = call(sdk_release, check=check, releases=[row], **SOURCE)
    assert f"{package} 2.20.0.0 -> 2.21.37.0: vllm@a-0.service run on these packages" in result.get("msg", "")
    assert "`trainyard upgrade` does" in result["msg"]
    del installed[package]
    assert call(sdk_release, check=check, releases=[row], **SOURCE)["install"], "a new package is nobody's yet"


def test_driver_that_another_process_holds_is_not_changed(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["aws-neuronx-dkms"] = "2.20.0.0"
    monkeypatch.setattr(sdk_release.sdk, "driver_holders", lambda _root, **_: ["neuron-monitor (7)"])
    for in_use in ("refuse", "drain"):
        result = call(sdk_release, releases=[ROW], in_use=in_use, **SOURCE)
        assert "the driver is held by neuron-monitor (7); stop them first" in result["msg"]


@pytest.mark.parametrize("check", [True, False])
def test_replicas_are_to_leave_when_told_to(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    installed["aws-neuronx-dkms"] = "2.20.0.0"
    monkeypatch.setattr(sdk_release.sdk, "running_replicas", lambda _run: ["vllm@a-0.service"])
    found = call(sdk_release, check=check, releases=[ROW], in_use="drain", **SOURCE)
    assert found["pause"] == {"replicas": ["vllm@a-0.service"], "monitor": True}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[list[str]]]:
    """The note of a monitor that was stopped, in a directory of the test, and what was told to systemd and drained."""
    told: list[list[str]] = []
    note = tmp_path / "run" / "monitor-stopped"

    def run(_self: object, argv: list[str], **_: object) -> tuple[int, str, str]:
        told.append(argv)
        return 0, "", ""

    monkeypatch.setattr(serving_pause.AnsibleModule, "run_command", run)
    monkeypatch.setattr(vacate, "vacate", lambda _host, units, *_: told.append(["drain", *units]))
    monkeypatch.setattr(making_way, "MONITOR_STOPPED", note)
    monkeypatch.setattr(making_way, "LEAVING", tmp_path / "leaving")
    return note, told


def test_host_leaves_service_and_comes_back(call: Call, service: tuple[Path, list[list[str]]]) -> None:
    note, told = service
    paused = {"state": "paused", "replicas": ["vllm@a-0.service"], "monitor": True}
    foretold = call(serving_pause, check=True, **paused)
    assert foretold["stopped"] == ["vllm@a-0.service", "trainyard-monitor.service"]
    assert told == [["systemctl", "is-active", "--quiet", "trainyard-monitor.service"]]
    assert not note.exists()
    assert call(serving_pause, state="resumed")["changed"] is False
    assert call(serving_pause, **paused)["stopped"] == foretold["stopped"]
    assert ["drain", "vllm@a-0.service"] in told
    assert ["systemctl", "stop", "trainyard-monitor.service"] in told
    assert note.exists()
    assert call(serving_pause, check=True, state="resumed")["changed"] is True
    assert note.exists()
    assert call(serving_pause, state="resumed")["changed"] is True
    assert told[-1] == ["systemctl", "start", "trainyard-monitor.service"]
    assert call(serving_pause, state="resumed")["changed"] is False


def test_nothing_is_stopped_where_nothing_runs(
    call: Call, service: tuple[Path, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_pause.AnsibleModule, "run_command", lambda *_, **__: (3, "", ""))
    assert call(serving_pause, state="paused", monitor=True)["changed"] is False
    assert not service[0].exists()


def test_a_host_that_is_out_of_service_is_to_come_back_once_its_packages_are_right(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_release.making_way, "is_paused", lambda: True)
    assert call(sdk_release, releases=[ROW], **SOURCE)["resume"] is False
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    found = call(sdk_release, releases=[ROW], **SOURCE)
    assert (found["resume"], found["differs"]) == (True, True)


@pytest.mark.parametrize(
    ("replicas", "in_use", "reboot"), [([], "refuse", True), (["vllm@a-0.service"], "refuse", False)]
)
def test_a_driver_that_stayed_in_the_kernel_asks_for_a_reboot_only_where_it_cuts_nobody_off(
    call: Call,
    installed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    replicas: list[str],
    in_use: str,
    reboot: bool,
) -> None:
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    monkeypatch.setattr(sdk_release.sdk, "loaded_driver", lambda _root: "2.20.0.0")
    monkeypatch.setattr(sdk_release.sdk, "running_replicas", lambda _run: replicas)
    done = call(sdk_release, releases=[ROW], in_use=in_use, **SOURCE)
    assert (done["failed"], done["reboot"]) == (True, reboot)
    assert "driver 2.21.37.0 is installed and 2.20.0.0 is loaded" in done["msg"]
    assert not call(sdk_release, releases=[ROW], allow_drift=True, **SOURCE).get("failed")


def test_replicas_leave_before_a_host_asks_for_its_reboot(
    call: Call, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ["vllm@a-0.service"]
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    monkeypatch.setattr(sdk_release.sdk, "loaded_driver", lambda _root: "2.20.0.0")
    monkeypatch.setattr(sdk_release.sdk, "running_replicas", lambda _run: list(running))
    assert call(sdk_release, check=True, releases=[ROW], in_use="drain", **SOURCE)["reboot"] is False
    first = call(sdk_release, releases=[ROW], in_use="drain", **SOURCE)
    assert first["pause"] == {"replicas": running, "monitor": True}
    running.clear()
    assert call(sdk_release, releases=[ROW], in_use="drain", **SOURCE)["reboot"] is True


def test_undo_sets_free_what_is_held(call: Call, installed: dict[str, str]) -> None:
    installed["aws-neuronx-dkms"] = "2.21.37.0"
    assert call(sdk_release, releases=[ROW], state="absent")["free"] == ["aws-neuronx-dkms"]
    installed.clear()
    assert call(sdk_release, releases=[ROW], state="absent")["differs"] is False


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "artifacts"
    make_result(folder / DIGEST, {"tp": 32}, "artifact")
    make_result(folder / ("cd" * 32), {"tp": 16}, "artifact")
    one = tmp_path / "vllm" / "releases" / "one"
    one.mkdir(parents=True)
    (one / "r-0.json").write_text(json.dumps({"release": "1f0a33c2b9de", "artifact": DIGEST}))
    (one / "r-0.env").write_text(f"NEURON_COMPILED_ARTIFACTS=/data/artifacts/{DIGEST}\n")
    (tmp_path / "vllm" / "previous").mkdir()
    (tmp_path / "vllm" / "previous" / "r-0.json").symlink_to("../releases/one/r-0.json")
    users = artifacts.artifact_dirs.users
    monkeypatch.setattr(artifacts.artifact_dirs, "users", lambda: users(tmp_path / "vllm"))
    return folder


def test_artifacts_are_listed_with_the_releases_that_name_them(call: Call, data: Path) -> None:
    found = {entry["digest"]: entry for entry in call(artifacts, path=str(data))["artifacts"]}
    assert found[DIGEST]["used_by"] == ["release 1f0a33c2b9de of r-0 (previous)"]
    assert found["cd" * 32]["used_by"] == []
    assert found[DIGEST]["problems"] == []


def test_artifact_that_could_be_gone_back_to_is_not_removed(call: Call, data: Path) -> None:
    result = call(artifacts, path=str(data), remove=["cd" * 32, DIGEST])
    assert "is used by release 1f0a33c2b9de of r-0 (previous). Nothing was removed" in result["msg"]
    assert len(list(data.iterdir())) == 2


def test_unused_artifact_is_removed_once(call: Call, data: Path) -> None:
    assert call(artifacts, check=True, path=str(data), remove=["cd" * 32])["changed"] is True
    assert call(artifacts, path=str(data), remove=["cd" * 32])["removed"] == ["cd" * 32]
    assert [path.name for path in data.iterdir()] == [DIGEST]
    assert call(artifacts, path=str(data), remove=["cd" * 32])["changed"] is False


def test_damage_that_only_reading_shows_is_found_by_verify(call: Call, data: Path) -> None:
    (data / DIGEST / "f").write_text("y")
    assert call(artifacts, path=str(data))["artifacts"][0]["problems"] == []
    assert "SHA-256" in call(artifacts, path=str(data), verify=True)["artifacts"][0]["problems"][0]
