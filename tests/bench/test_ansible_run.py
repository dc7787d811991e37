# SPDX-License-Identifier: Apache-2.0
"""What the runner adapter makes of a playbook, for real and from recorded events."""

from __future__ import annotations

import sys
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
