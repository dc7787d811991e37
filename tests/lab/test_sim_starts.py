# SPDX-License-Identifier: Apache-2.0
"""What a host is before anybody was there, and what packages and the kernel make of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lab import neuron_packages
from lab.neuron_sim import config, install, kernel_tools, neuron_ls, sdk, starts
from trainyard.lab import fleet
from trainyard.lab.state import Lab

ROW = sdk.release("2.23.0")
VENV = ROW.venv.lstrip("/")


@pytest.fixture
def venvs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Environments that were made in earnest, which takes long and is the standard library's."""
    made: list[str] = []

    def run(argv: list[str], **_: object) -> None:
        if argv[1:3] == ["-m", "venv"]:
            made.append(argv[3])

    monkeypatch.setattr(install.subprocess, "run", run)
    return made


def host(root: Path, start: str, trouble: str = "") -> config.HostConfig:
    made = config.HostConfig(root=root, start=start, trouble=trouble)
    install.install(made)
    return made


def status(root: Path) -> str:
    path = root / "var/lib/dpkg/status"
    return path.read_text() if path.exists() else ""


def test_the_system_alone_has_nothing_of_the_sdk(tmp_path: Path) -> None:
    bare = host(tmp_path, "bare")
    assert not list((tmp_path / "dev").glob("neuron[0-9]*"))
    assert not (tmp_path / "opt").exists() or not list((tmp_path / "opt").glob("aws*"))
    assert status(tmp_path) == ""
    assert starts.headers(bare).exists()
    assert "not found in directory" in starts.load(bare)


def test_packages_make_of_a_bare_host_what_the_real_ones_do(tmp_path: Path) -> None:
    bare = host(tmp_path, "bare")
    starts.configured(bare, starts.TOOLS, ROW.tools)
    assert os.access(tmp_path / "opt/aws/neuron/bin/neuron-ls", os.X_OK)
    assert neuron_ls.main(bare, ["-j"]) == 1, "there is no driver"
    starts.configured(bare, starts.DRIVER, ROW.driver)
    assert starts.built(bare) == ROW.driver
    assert starts.loaded(bare)
    assert neuron_ls.main(bare, ["-j"]) == 0
    for device in (tmp_path / "dev").glob("neuron[0-9]*"):
        device.unlink()
    install.install(bare)
    assert starts.loaded(bare), "a boot loads what is built"


def test_a_machine_image_is_a_release_behind_and_has_no_vllm_that_its_release_does_not_bring(
    tmp_path: Path, venvs: list[str]
) -> None:
    image = host(tmp_path, "image")
    assert f"Version: {ROW.driver}" not in status(tmp_path)
    assert sdk.version(starts.built(image)) < sdk.version(ROW.driver)
    assert starts.loaded(image)
    assert venvs == [str(tmp_path / VENV)]
    assert (tmp_path / VENV / "bin/inference_demo").exists()
    assert not (tmp_path / VENV / "bin/vllm").exists()
    assert (tmp_path / "etc/systemd/system/dlami-nvme.service").exists()
    assert (tmp_path / "opt/dlami/nvme").is_dir()
    before = status(tmp_path)
    install.install(image)
    assert status(tmp_path) == before, "what is installed later stays"


@pytest.mark.usefixtures("venvs")
@pytest.mark.parametrize("trouble", starts.TROUBLES)
def test_others_left_one_trouble_a_host(tmp_path: Path, trouble: str, capsys: pytest.CaptureFixture[str]) -> None:
    left = host(tmp_path, "left", trouble)
    assert ("install ok half-configured" in status(tmp_path)) == (trouble == starts.HALF)
    assert (tmp_path / VENV / "pyvenv.cfg").exists() == (trouble != starts.HALF)
    assert (tmp_path / "etc/systemd/system" / starts.FOREIGN).exists() == (trouble == starts.HELD)
    assert starts.loaded(left) == (trouble != starts.UNLOADED)
    assert starts.headers(left).exists() == (trouble != starts.NO_HEADERS)
    starts.configured(left, starts.DRIVER, ROW.driver)
    skipped = "kernel headers for this kernel do not seem to be installed" in capsys.readouterr().err
    assert skipped == (trouble == starts.NO_HEADERS)
    assert (starts.built(left) == ROW.driver) == (trouble != starts.NO_HEADERS)
    assert kernel_tools.main(left, ["neuron"], command="modprobe") == 0
    assert starts.loaded(left)


def test_git_asks_for_the_commit_that_stands_for_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(kernel_tools, "_real", lambda _name, argv: asked.append(argv) or 0)
    made = config.HostConfig(root=tmp_path, commits={"a" * 40: "b" * 40})
    kernel_tools.main(made, ["fetch", "--depth", "1", "https://github.com/o/n", "a" * 40], command="git")
    assert asked == [["fetch", "--depth", "1", "https://github.com/o/n", "b" * 40]]


def test_a_lab_gives_each_host_another_trouble() -> None:
    lab = Lab(name="x", id="0-x", hosts={f"lab-{number}": "" for number in range(1, 6)}, start="left")
    assert [fleet.trouble(lab, name) for name in lab.hosts] == [*starts.TROUBLES, starts.TROUBLES[0]]
    assert fleet.TROUBLES == starts.TROUBLES
    lab.start = "bare"
    assert fleet.trouble(lab, "lab-1") == ""


def test_a_package_s_script_is_nobodys_outside_of_a_lab(tmp_path: Path) -> None:
    script = tmp_path / "postinst"
    script.write_text(neuron_packages.postinst("aws-neuronx-dkms", "1.0").replace("/usr/lib/trainyard-lab", "/nowhere"))
    assert subprocess.run(["/bin/sh", str(script), "configure", ""], check=False).returncode == 0
    made = neuron_packages.deb("aws-neuronx-dkms", "1.0")
    assert b"control.tar.gz" in made
