# SPDX-License-Identifier: Apache-2.0
"""The role that rolls: it takes the steps of the one table, and its settings are the inventory's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from ansible_collections.trainyard.neuron.plugins.action.roll_step import JUDGED, REGISTER, STEPS
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import CANARY, HOOKS, REDEPLOY

from trainyard.paths import ROOT

ROLE = ROOT / "roles/rolling_redeploy"


def tasks_of(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every task, those of blocks in their place."""
    for row in rows:
        inner = [task for key in ("block", "rescue", "always") for task in row.get(key, [])]
        yield from tasks_of(inner) if inner else [row]


def test_the_role_takes_every_step_of_the_table_in_its_order_and_keeps_its_answers() -> None:
    taken: list[str] = []
    for name in ("roll.yml", "wave.yml", "hook.yml", "steps.yml"):
        tasks = list(tasks_of(yaml.safe_load((ROLE / "tasks" / name).read_text(encoding="utf-8"))))
        for task in tasks:
            if "trainyard.neuron.roll_lock" in task and "register" in task:
                assert task["register"] == REGISTER.format("lock")
            step = task.get("trainyard.neuron.roll_step", {}).get("step")
            if step:
                taken.append(step)
                assert task.get("register", REGISTER.format(step)) == REGISTER.format(step)
                assert step not in JUDGED or "register" in task, step
    assert sorted(taken) == sorted(STEPS)
    order = [step for step in STEPS if step in taken]
    assert [step for step in taken if step not in ("begin", "refused", "hold", "hooked")] == [
        step for step in order if step not in ("begin", "refused", "hold", "hooked")
    ]


def test_its_dictionaries_take_what_the_inventory_does() -> None:
    spec = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    options = spec["argument_specs"]["main"]["options"]
    for name, schema in (("settings", REDEPLOY), ("canary", CANARY), ("hooks", HOOKS)):
        assert list(options[f"rolling_redeploy_{name}"]["options"]) == list(schema.fields)


def test_redeploy_and_rollback_share_one_play() -> None:
    books = {
        path.name: path.read_text(encoding="utf-8")
        for path in (ROOT / "playbooks").glob("*.yml")
        if "rolling_redeploy_verb" in path.read_text(encoding="utf-8")
    }
    assert list(books) == ["roll_planned.yml"]
    for name in ("redeploy_planned.yml", "rollback.yml"):
        assert "import_playbook: roll_planned.yml" in (ROOT / "playbooks" / name).read_text(encoding="utf-8")
