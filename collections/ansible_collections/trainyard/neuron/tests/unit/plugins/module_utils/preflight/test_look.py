# SPDX-License-Identifier: Apache-2.0
"""What a host finds of itself: ports with who has them, room, headers, packages, images, environments."""

from __future__ import annotations

import platform
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import look, sources, system
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks

POLICY = """haproxy:
  Installed: (none)
  Candidate: 2.4.24-0ubuntu0.22.04.2
  Version table:
     3.0.5-1ppa1 500
        500 https://ppa.example.com jammy/main amd64 Packages
     2.4.24-0ubuntu0.22.04.2 500
        500 http://archive.ubuntu.com jammy/main amd64 Packages
"""


def test_a_port_that_somebody_listens_on_is_named_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port = server.getsockname()[1]
        found = look.taken([port], Path("/"))
        assert list(found) == [str(port)]
        assert found[str(port)] != "somebody"
        assert str(other.getsockname()[1]) not in found
    assert look.taken([port], Path("/")) == {}


def test_a_holder_is_its_unit_where_it_has_one(tmp_path: Path) -> None:
    process = tmp_path / "123"
    process.mkdir()
    (process / "comm").write_text("nginx\n")
    assert look._name_of(process) == "nginx (123)"
    (process / "cgroup").write_text("0::/system.slice/system-vllm.slice/vllm@m-0.service\n")
    assert look._name_of(process) == "vllm@m-0.service"


def test_headers_are_here_or_not_and_unknown_in_a_container(tmp_path: Path) -> None:
    assert look.headers(tmp_path) is None
    modules = tmp_path / "lib/modules" / platform.release()
    modules.mkdir(parents=True)
    assert look.headers(tmp_path) is False
    (modules / "build").symlink_to(tmp_path / "gone")
    assert look.headers(tmp_path) is False
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/Makefile").write_text("")
    assert look.headers(tmp_path) is True


@pytest.mark.parametrize(
    ("package", "wanted"),
    [("haproxy", "2.4.24-0ubuntu0.22.04.2"), ("haproxy=3.0.*", "3.0.5-1ppa1"), ("haproxy=3.1.*", "")],
)
def test_the_version_that_a_package_would_get(package: str, wanted: str) -> None:
    assert system.candidate(package, lambda _argv: (0, POLICY, "")) == wanted


def test_an_installed_version_counts_before_what_is_offered() -> None:
    there = POLICY.replace("(none)", "2.8.1-1")
    assert system.candidate("haproxy", lambda _argv: (0, there, "")) == "2.8.1-1"
    assert system.candidate("haproxy", lambda _argv: (127, "", "no such program")) == ""


def test_volumes_of_the_system_are_told_once_each(tmp_path: Path) -> None:
    """The first of the places that is on one names it; what is not there is on none."""
    found = look.rooms([str(tmp_path), str(tmp_path.parent), str(tmp_path / "gone"), "/proc"])
    assert list(found) == [str(tmp_path), "/proc"]
    assert found[str(tmp_path)]["device"] == tmp_path.stat().st_dev
    assert found[str(tmp_path)]["free_bytes"] > 0


@pytest.mark.parametrize(("kind", "asked"), [("index", True), ("port", False), ("checkpoint", False)])
def test_the_system_s_volumes_are_asked_for_where_something_comes_to_them(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: bool
) -> None:
    row = {"what": "x", "kind": kind, "url": "127.0.0.1:9"}
    monkeypatch.setitem(sources.KINDS, kind, lambda _question: None)
    assert bool(look.look({"sources": [row]})["rooms"]) is asked


def test_room_is_that_of_the_nearest_directory_and_what_is_there_counts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    found = look.space(str(data))
    assert found["path"] == str(tmp_path)
    assert found["have_bytes"] == 0
    assert found["free_bytes"] > 0
    (data / "weights").mkdir(parents=True)
    (data / "weights/file").write_bytes(b"x" * 100_000)
    assert look.space(str(data))["have_bytes"] >= 100_000
    assert look.space(str(data))["path"] == str(data)


def test_disks_that_hold_something_are_refused_as_the_role_would(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"mount": "/data", "name": "data", "filesystem": "xfs", "model": ".*"}
    blank = disks.Disk("/dev/nvme1n1", "AWS1", "m", 1900 * 10**9)
    monkeypatch.setattr(look, "run", lambda _argv: (1, "", ""))
    monkeypatch.setattr(look.shutil, "which", lambda _name: None)
    monkeypatch.setattr(disks, "candidates", lambda *_: [blank])
    told = {"count": 1, "bytes": 1900 * 10**9, "refused": "", "mounted": "", "packages": ["xfsprogs"]}
    assert look.store(asked) == told
    held = disks.Disk("/dev/nvme1n1", "AWS1", "m", 1900 * 10**9, claims=("signature ext4 at byte 1080",))
    monkeypatch.setattr(disks, "candidates", lambda *_: [held])
    assert "signature ext4" in look.store(asked)["refused"]
    assert look.store({**asked, "wipe": ["AWS1"]})["refused"] == ""


def test_a_command_that_is_not_there_is_no_end() -> None:
    assert look.run(["no-such-program-here"])[0] == 127
    assert look.has_image("registry.example.com/x@sha256:" + "0" * 64) is False


def test_an_environment_that_is_not_there_is_told() -> None:
    row = {
        "release": "2.23.0",
        "generation": "nxdi_v0",
        "venv": "/opt/none",
        "versions": {},
        "source": {"needed": True},
    }
    assert "/opt/none" in look.environments([row])["2.23.0"]
    assert not look._is_here({"kind": "page", "unless_built": row}, {})


def test_packages_are_asked_of_the_repository_of_the_host_s_own_system_and_only_those_that_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(look, "_lines", lambda _path: ["ID=ubuntu", "VERSION_CODENAME=jammy"])
    monkeypatch.setattr(look.shutil, "which", lambda name: "/usr/bin/" + name if name == "dpkg-query" else None)
    question = {"what": "p", "kind": "packages", "url": "neuron", "suite": "", "packages": {"a": "1.2", "b": "3"}}
    found = look._of_system(question, {"a": "1.2-9f"})
    assert found["url"] == "https://apt.repos.neuron.amazonaws.com/dists/jammy/main/binary-amd64"
    assert found["packages"] == {"b": "3"}
    own = look._of_system({**question, "url": "https://apt.example.com/", "suite": "noble"}, {})
    assert own["url"] == "https://apt.example.com/dists/noble/main/binary-amd64"
    assert look._is_here(question, {"a": "1.2", "b": "3.0"})
    assert not look._is_here(question, {"a": "1.2", "b": "4"})


def test_what_is_here_already_is_not_asked_for_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    question = {"what": "x", "kind": "page", "url": "http://127.0.0.1:1/"}
    here = {**question, "unless_file": str(tmp_path / "manifest.json")}
    gone = {**question, "unless_file": str(tmp_path / "none.json")}
    found = look.look({"sources": [here, gone]})
    assert [one["problem"] for one in found["sources"]] == ["unreachable"]
    assert found["time_s"] > 1_700_000_000
    assert found["python"] == platform.python_version()


def test_an_environment_that_a_run_can_make_is_no_trouble_where_the_host_has_a_python_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row: dict[str, Any] = {
        "release": "2.23.0",
        "generation": "nxdi_v0",
        "venv": str(tmp_path / "venv"),
        "versions": {"neuronx-cc": "2.18", "nxdi": "0.3"},
        "source": {"needed": True, "pythons": ["3.10", "3.11"]},
    }
    index = "https://pip.example.com"
    monkeypatch.setattr(look.shutil, "which", lambda name: "/usr/bin/" + name if name == "python3.10" else None)
    assert look.environments([row], index) == {}
    assert "no environment" in look.environments([row])["2.23.0"], "without an index nothing is made"
    monkeypatch.setattr(look, "run", lambda _argv: (1, "", ""))
    assert look._for_builds({"environments": [row], "pip_index": index}, {}, tmp_path) == ["python3.10-venv"]
    monkeypatch.setattr(look.shutil, "which", lambda _name: None)
    assert "python3.11, python3.10" in look.environments([row], index)["2.23.0"]
    assert look._for_builds({"environments": [row], "pip_index": index}, {}, tmp_path) == []


def test_headers_are_lacking_where_a_driver_is_due_and_will_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "lib/modules" / platform.release()
    modules.mkdir(parents=True)
    monkeypatch.setattr(look.shutil, "which", lambda name: "/usr/bin/dpkg-query" if name == "dpkg-query" else None)
    asked: dict[str, Any] = {"packages": {"aws-neuronx-dkms": "2.25"}, "package_source": "neuron"}
    assert look._for_builds(asked, {}, tmp_path) == [f"linux-headers-{platform.release()}"]
    assert look._for_builds(asked, {"aws-neuronx-dkms": "2.25.1"}, tmp_path) == []
    assert look._for_builds({**asked, "package_source": ""}, {}, tmp_path) == []


def test_a_driver_is_loaded_built_and_held_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        look,
        "run",
        lambda argv: (0, "vllm@m-0.service loaded active running\n", "") if argv[0] == "systemctl" else (1, "", ""),
    )
    assert look.driver(tmp_path) == {"loaded": False, "built": False, "holders": [], "replicas": ["vllm@m-0.service"]}
    (tmp_path / "sys/module/neuron").mkdir(parents=True)
    assert look.driver(tmp_path)["loaded"] is True
