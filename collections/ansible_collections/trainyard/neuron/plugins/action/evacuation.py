# SPDX-License-Identifier: Apache-2.0
"""Takes hosts out of routers before their capacity block ends; the documentation is the module's of the same name."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, run_lock, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.evacuation import (
    EvacuationError,
    evacuation_of,
    outcome,
    servers_of,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Settings

#: Between two attempts at a router that does not answer, seconds: one that restarts is back in less than a few.
AGAIN_S = 2.0
#: A router that was not reached in time is asked once more, for as long as this.
LAST_S = 5.0


class ActionModule(run_lock.Fenced):
    """Plans on the controller, drains on a router's host, and accounts for all of it."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do one of the three parts of an evacuation."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["planned", "begun", "drained", "reported"], "required": True},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "routers": {"type": "list", "elements": "str", "default": []},
                "only": {"type": "list", "elements": "str", "default": []},
                "settings": {"type": "dict", "default": {}},
                "evacuation": {"type": "dict", "default": {}},
                "store": {"type": "str", "default": ""},
            }
        )
        part = getattr(self, f"_{arguments['state']}")
        try:
            found: dict[str, Any] = part(arguments, variables)
        except (EvacuationError, RollError, block_times.EndError, run_plan.RunPlanError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        return found

    def _planned(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say who leaves and until when."""
        blocks = block_times.blocks_of(variables["hostvars"], arguments["hosts"])
        deadline_s = Settings.from_dict(arguments["settings"]).drain_deadline_s
        planned = evacuation_of(blocks, arguments["only"], block_times.now_utc(), deadline_s)
        told = f"{block_times.named(planned.hosts)} leave; requests have {planned.deadline_s:.0f} s to end."
        self._display.display(told)
        return {"changed": False, "msg": told, **planned.to_dict()}

    def _begun(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Have this router send the leaving hosts nothing new, at once."""
        return self._leave(arguments, variables, waits=False)

    def _drained(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Wait until the last request has ended, or the deadline."""
        return self._leave(arguments, variables, waits=True)

    def _leave(self, arguments: dict[str, Any], variables: dict[str, Any], *, waits: bool) -> dict[str, Any]:
        here, planned = variables["inventory_hostname"], arguments["evacuation"]
        servers = servers_of(run_plan.current().router(here)["models"], planned["hosts"])
        if not servers:
            return {"changed": False, "servers": [], "skipped": True}
        # What only begins holds nobody up: the wait asks a router that was away again.
        until = planned["began_at"] + planned["deadline_s"] if waits else 0.0
        given = {"state": "drain", "servers": servers, "wait": waits}
        changed, once_more = False, False
        while True:
            left_s = max(0.0, until - time.time())
            answer = self._ask({**given, "timeout_s": left_s}, variables)
            changed = changed or bool(answer.get("changed"))
            if answer.get("lock_lost") or answer.get("left") or not answer.get("failed"):
                break
            if left_s <= 0 and once_more:
                break
            # It restarts, or the way to it is broken for a moment: its own file has what it was told before.
            once_more = left_s <= 0
            time.sleep(LAST_S if once_more else AGAIN_S)
        problem = "" if answer.get("arrived") or answer.get("left") else str(answer.get("msg", ""))
        return {
            "changed": changed,
            "servers": servers,
            "left": answer.get("left") or {},
            "problem": problem,
            "unreachable_router": bool(answer.get("unreachable")),
        }

    def _ask(self, given: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._execute_module(
                module_name="trainyard.neuron.router_server", module_args=given, task_vars=variables
            )
        except AnsibleConnectionFailure as error:
            return {"failed": True, "unreachable": True, "msg": str(error)}
        return found

    def _reported(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Account for every host, router and request."""
        hostvars, planned = variables["hostvars"], arguments["evacuation"]
        drained: dict[str, Any] = {}
        for name in arguments["routers"]:
            answer = dict(hostvars[name].get("trainyard_drained") or {"unreachable": True})
            drained[name] = None if answer.get("skipped") else answer
        saved = {name: self._saved(hostvars[name], arguments["store"]) for name in planned["hosts"]}
        own = [name for name in arguments["routers"] if name in planned["hosts"]]
        found = outcome(planned, drained, saved, block_times.now_utc(), own)
        for line in found.lines:
            self._display.display(line)
        return {"changed": False, "attention": found.failed, "msg": list(found.lines)}

    def _saved(self, variables: Any, store: str) -> str | None:
        """Why a host's artifacts are not saved; None where it did not answer."""
        answer = variables.get("trainyard_saved") or {}
        # Without a store nothing is asked of it for artifacts, but for results it is.
        if answer.get("unreachable") or (variables.get("trainyard_results") or {}).get("unreachable"):
            return None
        if not store:
            return "model_compile_store is not set, so artifacts are compiled again for the next hosts"
        if answer.get("failed") or answer.get("timedout"):
            return str(answer.get("msg", "")) or "it took too long"
        return ""
