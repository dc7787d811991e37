# SPDX-License-Identifier: Apache-2.0
"""What a host lacks of its system and of Python, and whom it asks for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import sources, system
from ansible_collections.trainyard.neuron.plugins.module_utils.venv import MARKER

URIS = """'http://archive.example.com/pool/h/haproxy_3.0_amd64.deb' haproxy_3.0_amd64.deb 1 SHA256:0
'http://archive.example.com/pool/l/lua_1_amd64.deb' lua_1_amd64.deb 1 SHA256:0
'https://ppa.example.com/x/y.deb' y.deb 1 SHA256:0
"""
TARGETS = "http://archive.example.com/ubuntu/ noble\nhttp://archive.example.com/ubuntu/ noble\nfile:/srv/ noble\n"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def apt(status: int = 0, proxy: str = "") -> Any:
    """Answers as apt does."""

    def run(argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "apt-config":
            return 0, proxy if "Acquire::http::Proxy" in argv else "", ""
        if argv[:2] == ["apt-get", "indextargets"]:
            return 0, TARGETS, ""
        if argv[:2] == ["apt-get", "install"]:
            assert "--print-uris" in argv, "nothing is installed for a question"
            return status, URIS if status == 0 else "", ""
        if argv[0] == "apt-cache":
            return 0, "", ""
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_one_file_of_each_archive_is_asked_for() -> None:
    found = system.archives(["haproxy"], apt())
    assert [one["url"] for one in found] == [
        "http://archive.example.com/pool/h/haproxy_3.0_amd64.deb",
        "https://ppa.example.com/x/y.deb",
    ]
    assert {one["what"] for one in found} == {"the system's package haproxy"}


def test_archives_are_asked_for_what_is_missing_where_apt_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert {one["kind"] for one in system.look({}, [], ["mdadm"], apt())["sources"]} == {"archive"}
    assert system.look({}, [], [], apt())["sources"] == []
    monkeypatch.setattr(system.shutil, "which", lambda _name: None)
    assert system.look({}, [], ["mdadm"], apt())["sources"] == []


def test_where_the_lists_lack_a_package_the_archives_themselves_are_asked() -> None:
    found = system.archives(["haproxy"], apt(status=100))
    assert [one["url"] for one in found] == ["http://archive.example.com/ubuntu/dists/noble/Release"]


@pytest.mark.parametrize("kept", ["Packages", "Packages.lz4", ""])
def test_a_package_that_no_source_has_is_told_where_every_list_was_fetched(tmp_path: Path, kept: str) -> None:
    """On a new host there are none, and what it would find is not known. The others are asked for as always."""
    if kept:
        (tmp_path / kept).write_text("")
    known = apt()

    def run(argv: list[str]) -> tuple[int, str, str]:
        if argv[:2] == ["apt-get", "indextargets"] and "$(FILENAME)" in argv:
            return 0, f"{tmp_path / 'Packages'}\n", ""
        if argv[:2] == ["apt-cache", "policy"]:
            return 0, "" if argv[2] == "prometheus" else f"{argv[2]}:\n  Installed: (none)\n  Candidate: 3.0\n", ""
        if argv[:2] == ["apt-get", "install"] and "prometheus" in argv:
            return 100, "", "E: Unable to locate package prometheus"
        return known(argv)  # type: ignore[no-any-return]

    found = system.archives(["haproxy", "prometheus"], run)
    if not kept:
        assert {one["kind"] for one in found} == {"archive"}
        return
    assert found[0] == {"what": "the system's package prometheus", "kind": "offered", "url": "prometheus"}
    assert {one["what"] for one in found[1:]} == {"the system's package haproxy"}
    answer = sources.ask(found[0])
    assert (answer["problem"], answer["detail"]) == ("missing", "in no list of its sources")
    assert [one["kind"] for one in system.archives(["prometheus"], run)] == ["offered"]


def test_a_way_out_of_apt_s_own_is_not_judged_from_outside() -> None:
    assert system.archives(["haproxy"], apt(proxy="http://proxy:3128\n")) == []


def test_pip_s_own_settings_say_whom_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_CERT", "PIP_NO_INDEX", "PIP_TRUSTED_HOST"):
        monkeypatch.delenv(name, raising=False)
    conf = tmp_path / "pip.conf"
    (public,) = system.index({}, [str(conf)])
    assert (public["url"], public["own_trust"]) == ("https://pypi.org/simple/pip/", False)
    conf.write_text("[global]\nindex-url = https://me:secret@pip.example.com/simple/\ncert = /etc/own.pem\n")
    (own,) = system.index({}, [str(conf)])
    assert (own["url"], own["own_trust"]) == ("https://me:secret@pip.example.com/simple/pip/", True)
    (given,) = system.index({"index": "https://other.example.com/simple"}, [str(conf)])
    assert given["url"] == "https://other.example.com/simple/pip/"
    conf.write_text("[global]\nno-index = true\n")
    assert system.index({}, [str(conf)]) == []


def test_an_environment_that_is_there_asks_nobody(tmp_path: Path) -> None:
    home = tmp_path / "tools-012345678901"
    (home / "bin").mkdir(parents=True)
    (home / "bin/python").symlink_to(sys.executable)
    (home / MARKER).write_text("")
    (tmp_path / "tools").symlink_to(home.name)
    wanted = {"path": str(tmp_path / "tools"), "homes": {PYTHON: home.name}, "python": sys.executable, "packages": []}
    assert system.look({"venvs": [wanted]}, [], [], apt())["sources"] == []
    other = {**wanted, "homes": {PYTHON: "tools-of-another-list"}}
    assert [one["kind"] for one in system.look({"venvs": [other]}, [], [], apt())["sources"]] == ["index"]
    none = {**wanted, "python": "/usr/bin/no-python", "packages": ["python3-venv"]}
    found = system.look({"venvs": [none]}, [], [], lambda _argv: (127, "", ""))
    assert "python3-venv" in found["lacking"]


def test_git_is_lacking_only_where_a_source_comes_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: None if name == "git" else "/usr/bin/" + name)
    source = {"kind": "client", "url": "https://x/y/info/refs?service=git-upload-pack"}
    assert system.look({}, [source], ["mdadm"], apt())["lacking"] == ["git", "mdadm"]
    assert system.look({}, [], [], apt())["lacking"] == []
