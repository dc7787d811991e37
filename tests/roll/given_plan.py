# SPDX-License-Identifier: Apache-2.0
"""A plan for plays of a test: kept in the run as preflight keeps one, so that the plan's readers find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ACTION = """
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
class ActionModule(ActionBase):
    _requires_connection = False
    def run(self, tmp=None, task_vars=None):
        run_plan.write(self._task.args["plan"], run_plan.current().folder)
        return {"changed": False}
"""


def keep(folder: Path, fleet: dict[str, Any], routers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a task for a playbook in `folder` that keeps a plan with the hosts of `fleet`."""
    (folder / "action_plugins").mkdir()
    (folder / "action_plugins" / "keep_plan.py").write_text(ACTION)
    router = {
        "port": 8080,
        "urls": [],
        "names": list(routers),
        "models": [],
        "own": {},
        "access": {name: {} for name in routers},
    }
    plan = {"version": 1, "hosts": fleet["hosts"], "router": router, "benchmarks": [], "warnings": []}
    return {"name": "Keep the plan", "keep_plan": {"plan": plan}, "run_once": True}
