# SPDX-License-Identifier: Apache-2.0
"""When package lists are fetched: where those at hand lack a package, whatever their age."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.host_packages import have_packages

LACKS = {"failed": True, "msg": "No package matching 'nftables' is available"}


class Manager:
    """Answers for the package manager, one after another."""

    def __init__(self, *answers: dict[str, Any], check_mode: bool = False) -> None:
        self.answers = list(answers)
        self.fetched: list[bool] = []
        self._task = SimpleNamespace(check_mode=check_mode)

    def _execute_module(self, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.fetched.append(bool(module_args.get("update_cache")))
        return self.answers.pop(0)


def have(manager: Manager) -> dict[str, Any]:
    return have_packages(manager, ["nftables"], {})  # type: ignore[arg-type]


def test_one_run_where_nothing_is_missing() -> None:
    manager = Manager({"changed": False})
    assert have(manager) == {"changed": False}
    assert manager.fetched == [False]


@pytest.mark.parametrize("said", [LACKS["msg"], "no available installation candidate for haproxy=3.0.*"])
def test_lists_that_lack_it_are_fetched_once(said: str) -> None:
    manager = Manager({"failed": True, "msg": said}, {"changed": True})
    assert have(manager) == {"changed": True}
    assert manager.fetched == [False, True]


def test_any_other_failure_is_told_as_it_is() -> None:
    refused = {"failed": True, "msg": "dpkg was interrupted"}
    manager = Manager(refused)
    assert have(manager) == refused


def test_check_mode_fetches_nothing_and_says_what_it_would() -> None:
    manager = Manager(LACKS, check_mode=True)
    result = have(manager)
    assert result["changed"]
    assert "nftables" in result["msg"]
    assert manager.fetched == [False]
