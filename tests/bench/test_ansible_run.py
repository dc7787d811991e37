# SPDX-License-Identifier: Apache-2.0
"""What the runner adapter makes of a playbook, for real and from recorded events."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from trainyard import ansible_run

HERE = {"ansible_python_interpreter": sys.executable}
PLAY = """
- name: Demo
  hosts: all
  connection: local
  gather_facts: false
  tasks:
    - name: Answer
      ansible.builtin.command: echo {{ word }}
      changed_when: false
    - name: Stop here
      ansible.builtin.fail:
        msg: no more {{ word }}
      when: word == 'tea'
"""


def test_results_failures_and_task_names_come_back(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAY)
    seen: list[str] = []
    good = ansible_run.run_playbook(
        tmp_path / "play.yml", ["localhost,"], {**HERE, "word": "coffee"}, on_task=seen.append
    )
    assert good.succeeded, good.why_not()
    assert good.why_not() == ""
    assert seen == ["Answer", "Stop here"]
    assert good.results[0].result["stdout"] == "coffee"
    assert good.results[0].action.endswith("command")
    bad = ansible_run.run_playbook(tmp_path / "play.yml", ["localhost,"], {**HERE, "word": "tea"})
    assert not bad.succeeded
    assert bad.why_not() == "localhost: Stop here: no more tea"


def test_an_ignored_failure_is_none_and_an_unreachable_host_is_named() -> None:
    events = [
        {
            "event": "runner_on_failed",
            "event_data": {"host": "a", "task": "T", "res": {"msg": "x"}, "ignore_errors": True},
        },
        {"event": "runner_on_unreachable", "event_data": {"host": "b", "task": "T"}},
        {"event": "runner_on_start", "event_data": {"host": "a"}},
    ]
    results, unreachable = ansible_run.collect(events)
    assert [one.failed for one in results] == [False]
    run = ansible_run.PlaybookRun("failed", 4, results, unreachable)
    assert run.why_not() == "b: unreachable"


SLEEP = """
- name: Long
  hosts: all
  connection: local
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.command: sleep 60
      changed_when: false
"""


def test_what_a_killed_owner_left_is_ended(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(SLEEP)
    code = (
        "import pathlib, sys; from trainyard import ansible_run;"
        "ansible_run.run_playbook(pathlib.Path(sys.argv[1]), ['localhost,'], "
        "{'ansible_python_interpreter': sys.executable}, owner=sys.argv[2])"
    )
    owner = str(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "play.yml"), owner]) as process:
        deadline = time.monotonic() + 60
        while not any("sleep" in command_of(pid) for pid in ansible_run.left_over(owner)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
    assert ansible_run.left_over(owner)  # it goes on without the one that began it
    assert ansible_run.end_left_over(owner) > 0
    assert not ansible_run.left_over(owner)
    assert ansible_run.end_left_over(owner) == 0


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""
