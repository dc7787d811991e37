# SPDX-License-Identifier: Apache-2.0
"""`trainyard upgrade`: which hosts, in which order, and where it stops."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from typing import Any

import pytest
from typer.testing import CliRunner

from trainyard import upgrade_command
from trainyard.cli import app


def plan() -> dict[str, Any]:
    def host(replicas: int, compile_host: str) -> dict[str, Any]:
        return {"replicas": [{}] * replicas, "artifacts": [{"compile_host": compile_host}]}

    return {"hosts": {"a": host(2, "c"), "b": host(0, "b"), "c": host(2, "c"), "d": host(1, "c")}}


def test_hosts_that_serve_are_upgraded_and_the_one_that_compiles_comes_first() -> None:
    assert upgrade_command.order(plan()) == ["c", "a", "d"]


Environments = list[dict[str, str]]


def given(
    monkeypatch: pytest.MonkeyPatch,
    fails: str = "",
    unlocked: Environments | None = None,
    parts: Environments | None = None,
) -> list[list[str]]:
    """Commands that were run for hosts; the one for the host `fails` does not succeed."""
    ran: list[list[str]] = []

    def run(argv: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        if argv[1].endswith("unlock.yml"):
            (unlocked if unlocked is not None else []).append(env)
            return subprocess.CompletedProcess(argv, 0)
        (parts if parts is not None else []).append(env)
        ran.append(argv)
        last = [value for name, value in pairwise(argv) if name == "--extra-vars"][-1]
        return subprocess.CompletedProcess(argv, 2 if json.loads(last)["trainyard_only"] == fails else 0)

    monkeypatch.setattr(upgrade_command, "plan_or_exit", lambda _: plan())
    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_one_host_after_the_other_with_the_variables_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = given(monkeypatch)
    done = CliRunner().invoke(app, ["upgrade", "-i", "inv", "-e", "x=1", "-e", "trainyard_only=all", "--check"])
    assert done.exit_code == 0, done.output
    assert [json.loads(argv[argv.index("--check") - 1])["trainyard_only"] for argv in ran] == ["c", "a", "d"]
    assert ran[0][2:8] == ["--inventory", "inv", "--extra-vars", "x=1", "--extra-vars", "trainyard_only=all"]
    assert "Checked: c, a, d." in done.output


def test_it_goes_no_further_than_the_host_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = given(monkeypatch, fails="a")
    done = CliRunner().invoke(app, ["upgrade", "-i", "inv"])
    assert done.exit_code == 1
    assert len(ran) == 2
    assert "Stopped at a. Done: c. Untouched: d." in done.output


def test_a_host_that_does_not_serve_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = given(monkeypatch)
    done = CliRunner().invoke(app, ["upgrade", "-i", "inv", "--host", "b"])
    assert (done.exit_code, ran) == (2, [])
    assert "there are c, a, d" in done.output


@pytest.mark.parametrize(("fails", "check"), [("", False), ("a", False), ("", True)])
def test_its_playbooks_are_one_run_to_the_hosts_and_the_lock_comes_back_at_its_end(
    monkeypatch: pytest.MonkeyPatch, fails: str, check: bool
) -> None:
    unlocked: Environments = []
    parts: Environments = []
    ran = given(monkeypatch, fails, unlocked, parts)
    CliRunner().invoke(app, ["upgrade", "-i", "inv", *(["--check"] if check else [])])
    assert len(ran) == len(parts) > 1
    (run,) = {env["TRAINYARD_RUN"] for env in parts}
    assert run.startswith("upgrade-")
    assert run.endswith(f":{os.getpid()}")
    assert not any("TRAINYARD_RUN_OVER" in env for env in parts)
    assert [env["TRAINYARD_RUN"] for env in unlocked if "TRAINYARD_RUN_OVER" in env] == ([] if check else [run])
