# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.sdk_release``: has packages installed and held, and follows builds."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Fenced


class ActionModule(Fenced):
    """One module run on a host that is as its releases want it; else packages or builds, and a further look."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare, install and build where told to, compare again; returns the module's result."""
        super().run(tmp, dict(task_vars or {}))
        changed = False
        stopped: list[str] = []
        diffs: list[dict[str, str]] = []
        # Packages, then builds, then the look that finds nothing left to do.
        for _turn in range(3):
            result = self._sdk(task_vars)
            changed = changed or bool(result.get("changed"))
            stopped += result.get("stopped") or []
            diffs.append(result.get("diff") or {"before": "", "after": ""})
            failure = {} if result.get("failed") else self._act(result, task_vars)
            if result.get("failed") or failure or not (result.get("carry_out") or result.get("builds")):
                break
        diff = {side: "".join(entry[side] for entry in diffs) for side in ("before", "after")}
        more = {"stopped": stopped} if stopped else {}
        return {**result, **failure, "changed": changed, "diff": diff, **more}

    def _act(self, result: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Do what a look asked for; returns the result of the step that failed, empty where none did."""
        if result.get("carry_out"):
            return self._packages(dict(result["carry_out"]), task_vars)
        if result.get("builds"):
            tools = result.get("tools") or {"names": []}
            step = self._tools(tools["manager"], tools["names"], task_vars) if tools["names"] else {}
            return step if step.get("failed") else self._build(result["builds"], task_vars)
        return {}

    def _tools(self, manager: str, names: list[str], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        arguments = {"name": names, "state": "present", "update_cache": True}
        result: dict[str, Any] = self._execute_module(
            module_name=f"ansible.builtin.{manager}", module_args=arguments, task_vars=task_vars
        )
        return result

    def _packages(self, asked: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        source = host_packages.Source(**asked.pop("source"))
        manager = host_packages.MANAGERS[asked.pop("manager")]
        for name, values in manager.steps(host_packages.Changes(**asked), source):
            step: dict[str, Any] = self._execute_module(module_name=name, module_args=values, task_vars=task_vars)
            if step.get("failed"):
                return {
                    **step,
                    "msg": ": ".join(filter(None, [step.get("msg"), (step.get("stderr") or "").strip()[-500:]])),
                }
        return {}

    def _build(self, jobs: list[dict[str, Any]], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Have the jobs done as those of other roles are: by units, with their progress shown."""
        task = self._task.copy()
        task.args = {"jobs": jobs}
        follow = self._shared_loader_obj.action_loader.get(
            "trainyard.neuron.jobs",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        result: dict[str, Any] = follow.run(task_vars=task_vars)
        return result if result.get("failed") else {}

    def _sdk(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name="trainyard.neuron.sdk_release", task_vars=task_vars)
        return result
