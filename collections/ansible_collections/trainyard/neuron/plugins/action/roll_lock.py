# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.roll_lock``: who runs this, whether every host agreed, what is to be freed."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import LEASE_S, Fence
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_lock

MODULE = "trainyard.neuron.roll_lock"


class ActionModule(run_lock.Locking):
    """Asks a host only where there is something to ask."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; of a lock that this run does not hold, nothing is asked to be freed."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["taken", "agreed", "freed", "unused", "kept"], "default": "taken"},
                "verb": {"type": "str", "default": "redeploy"},
                "lease_s": {"type": "float", "default": LEASE_S},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "moves": {"type": "list", "elements": "dict"},
                "finished": {"type": "list", "elements": "str", "default": []},
                "tidy": {"type": "bool", "default": False},
            }
        )
        variables = task_vars or {}
        if self._task.check_mode:
            return {"changed": False, "msg": "nothing is changed, so no lock is needed"}
        if arguments["state"] == "taken":
            given = {"moves": arguments["moves"]} if arguments["moves"] is not None else {}
            proof = self.proof(variables)
            if proof:
                given["fence"] = asdict(proof)
            return self.take(MODULE, given, arguments["verb"], variables, arguments["lease_s"])
        if arguments["state"] == "agreed":
            here = str(variables["inventory_hostname"])
            return agreed(run_lock.current(), here, min(arguments["hosts"] or [here]))
        if arguments["state"] == "kept":
            return self.keep(variables)
        return self._free(arguments, variables)

    def _free(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        part, over = run_lock.outer() is not None, run_lock.OVER in os.environ
        proof = self.proof(variables)
        if proof is None and part and over:
            proof = Fence(run_lock.run_id(), 0)
        keep = part and not over
        if proof is None or (keep and not arguments["finished"] and not arguments["tidy"]):
            return {"changed": False, "msg": "there is nothing to give back"}
        wanted = {name: arguments[name] for name in ("state", "finished", "tidy")}
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**wanted, "keep": keep, "fence": asdict(proof)}, task_vars=variables
        )
        if not keep and not result.get("failed") and not result.get("unreachable"):
            run_lock.current().forget(str(variables["inventory_hostname"]))
        return result


def agreed(lock: run_lock.RunLock, host: str, lead: str) -> dict[str, Any]:
    """The result for one host of asking all of them: a failure if one refused.

    Args:
        lock: what they answered.
        host: this one; where it did not answer, nothing is to be changed there.
        lead: the host that tells every reason; the others say where to read it.
    """
    if not lock.said(host):
        lock.lack(host)
    refused: dict[str, list[str]] = {}
    messages: dict[str, str] = {}
    for row in lock.refused():
        # One holder is told once: what hosts say of it differs in minutes only.
        key = (row["holder"] or {}).get("run") or row["refused"]
        refused.setdefault(key, []).append(row["host"])
        messages.setdefault(key, row["refused"])
    if not refused:
        return {"changed": False}
    lines = [f"{', '.join(names)}: {messages[key]}" for key, names in refused.items()]
    return {"changed": False, "failed": True, "msg": "\n".join(lines) if host == lead else f"see {lead}"}
