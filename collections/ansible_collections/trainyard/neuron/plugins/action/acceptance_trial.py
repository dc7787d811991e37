# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.acceptance_trial``: takes what is tried from the plan of this run."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import GENERATIONS

MODULE = "trainyard.neuron.acceptance_trial"
#: Where trials lie, below the host's data directory.
FOLDER = "acceptance"
#: What runs containers where nobody says otherwise, as the role's default.
ENGINE = "podman"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """One module run, in the background where the task asks for that."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was seen, or why nothing was tried."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        wanted = str(arguments.pop("deployment", "") or "")
        if self._task.check_mode:
            return {"changed": False, "skipped": True, "msg": "check mode starts nothing"}
        host = str((task_vars or {})["inventory_hostname"])
        try:
            part = run_plan.current().host(host)
        except run_plan.RunPlanError as error:
            raise AnsibleActionFail(str(error)) from error
        replica = chosen(part["replicas"], wanted)
        if replica["runtime"] != "venv":
            return self._contained(replica, part["data_dir"], arguments, task_vars)
        artifact = next(one for one in part["artifacts"] if one["digest"] == replica["artifact"])
        generation = GENERATIONS[replica["generation"]]
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE,
            module_args={
                "directory": f"{part['data_dir']}/{FOLDER}",
                "load_bytes": (part["memory"] or {}).get("bytes_per_load", 0),
                **arguments,
                "replica": replica,
                "artifact": artifact,
                "cores_variable": generation.cores_variable,
                "artifact_variable": generation.artifact_variable,
            },
            task_vars=task_vars,
            wrap_async=self._task.async_val,
        )
        return result

    def _contained(
        self,
        replica: dict[str, Any],
        data_dir: str,
        arguments: dict[str, Any],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Return what a container of the image may do; servers of it are not started."""
        why = f"{replica['deployment']} runs in a container, and trials start servers of an environment"
        trials = {"generation": replica["generation"], "served_name": replica["served_name"], "no_room": why}
        if "serve" not in arguments["stages"]:
            return {"changed": False, "trials": trials}
        engine = self._templar.template((task_vars or {}).get("vllm_endpoint_container_engine") or ENGINE)
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE,
            module_args={
                "stages": ["serve"],
                "directory": f"{data_dir}/{FOLDER}",
                "user": arguments["user"],
                "engine": engine,
                "image": replica["image"],
            },
            task_vars=task_vars,
            wrap_async=self._task.async_val,
        )
        return result if "trials" not in result else {**result, "trials": {**trials, **result["trials"]}}


def chosen(replicas: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """Return the first replica of a deployment, or of the host where none is named.

    Raises:
        AnsibleActionFail: the host has none of that name, or none at all.
    """
    names = sorted({replica["deployment"] for replica in replicas})
    found = [replica for replica in replicas if wanted in ("", replica["deployment"])]
    if not found:
        fix = did_you_mean(wanted, names) or f"the host has {', '.join(names) or 'none'}"
        raise AnsibleActionFail(f"no deployment {wanted!r} to try: {fix}; nothing was started")
    return found[0]
