# SPDX-License-Identifier: Apache-2.0
"""What a role lacks on a host, and what becomes of it in `file_tree`."""

from __future__ import annotations

import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action import file_tree as action
from ansible_collections.trainyard.neuron.plugins.module_utils import prerequisites

STATUS = """Package: {name}
Status: {status}
Architecture: all
Maintainer: nobody
Version: {version}
Description: a test's own

"""


@pytest.fixture
def dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package database in which two packages were ever known, and one is installed, for the real dpkg-query."""
    if shutil.which("dpkg-query") is None:
        pytest.skip("this machine has no dpkg")
    (tmp_path / "info").mkdir()
    (tmp_path / "updates").mkdir()
    (tmp_path / "status").write_text(
        STATUS.format(name="haproxy", status="install ok installed", version="3.0.5-1")
        + STATUS.format(name="nginx", status="deinstall ok config-files", version="1.22")
    )
    monkeypatch.setenv("DPKG_ADMINDIR", str(tmp_path))


@pytest.mark.usefixtures("dpkg")
def test_packages_are_missing_that_are_not_installed_or_in_another_version() -> None:
    wanted = ["haproxy", "haproxy=3.0.*", "haproxy=2.8.*", "nginx", "keepalived"]
    assert prerequisites.missing_packages(wanted) == ["haproxy=2.8.*", "nginx", "keepalived"]
    assert prerequisites.missing_packages([]) == []


def test_without_a_package_database_every_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "QUERY", ("/no/such/program",))
    assert prerequisites.missing_packages(["haproxy"]) == ["haproxy"]


def test_users_are_wrong_that_are_not_there_or_have_another_home_or_shell() -> None:
    root = pwd.getpwnam("root")
    right = {"name": "root", "home": root.pw_dir, "shell": root.pw_shell}
    assert prerequisites.wrong_users([right]) == []
    wrong = [{**right, "name": "nobody-of-that-name"}, {**right, "home": "/elsewhere"}, {**right, "shell": "/bin/no"}]
    assert prerequisites.wrong_users(wrong) == wrong


class Host(action.ActionModule):
    """The action with a host played by prepared answers, one for each module, in order."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.ran = list(answers), []

    def _execute_module(self, module_name: str = "", module_args: Any = None, **_: Any) -> dict[str, Any]:
        self.ran.append((module_name, module_args))
        return self.answers.pop(0)


LACKING = {"packages": ["haproxy"], "users": [{"name": "vllm", "home": "/h", "shell": "/s"}]}


def test_what_is_lacking_is_made_by_ansibles_own_modules() -> None:
    host = Host({"changed": True}, {"changed": True})
    assert host._install(LACKING, {}) == {}
    (package, arguments), (user, row) = host.ran
    assert (package, arguments["name"]) == ("ansible.builtin.apt", ["haproxy"])
    assert (user, row["name"], row["system"], row["create_home"]) == ("ansible.builtin.user", "vllm", True, False)


def test_a_package_that_cannot_be_installed_ends_it_there() -> None:
    host = Host({"failed": True, "msg": "dpkg was interrupted"})
    assert host._install(LACKING, {})["msg"] == "dpkg was interrupted"
    assert len(host.ran) == 1


def test_the_result_names_what_was_made_first() -> None:
    told = action.with_installed({"changed": False, "msg": "nothing to change", "diff": []}, LACKING)
    assert told["changed"]
    assert told["msg"] == "package haproxy, user vllm; nothing to change"
    assert [row["after"] for row in told["diff"]] == ["package haproxy\n", "user vllm\n"]
