# SPDX-License-Identifier: Apache-2.0
"""Between the steps of a wave, on the controller: may everybody go on? The same answer for every host."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import steps
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.canary import Thresholds

REGISTERS = {
    "locked": "roll_locked",
    "refused": "roll_locked",
    "drained": "roll_drained",
    "replaced": "roll_replaced",
    "readmitted": "roll_readmitted",
    "watched": "roll_watched",
    "restored": "roll_restored",
}
LAST_WORDS = ("restored", "refused")
"""Steps of a rescue: they never fail, because what comes after them has to happen."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Read what every host of the wave answered; nothing runs on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail everywhere if one answer stops the wave; else say what was seen."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "step": {"type": "str", "choices": list(REGISTERS), "required": True},
                "wave": {"type": "dict", "default": {}},
                "roll": {"type": "dict", "required": True},
                "why": {"type": "str", "default": ""},
            }
        )
        variables = task_vars or {}
        step, wave, roll = arguments["step"], arguments["wave"], arguments["roll"]
        answers = collected(variables["hostvars"], wave, roll, step)
        outcome = decided(step, wave, roll, answers)
        result: dict[str, Any] = {"changed": False}
        if outcome.problems and step not in LAST_WORDS:
            head = f"Wave {wave['number']} of {len(roll['waves'])} stops here: " if wave else ""
            return {**result, "failed": True, "msg": head + "; ".join(outcome.problems)}
        facts: dict[str, Any] = {}
        if step == "watched":
            facts["trainyard_roll_done"] = wave["number"]
        if step in ("replaced", "restored"):
            facts["trainyard_roll_ready"] = outcome.ready
        if step in LAST_WORDS:
            facts["trainyard_roll_stopped"] = {"why": arguments["why"], "problems": outcome.problems}
        result["ansible_facts"] = facts
        result["msg"] = [*outcome.seen, *outcome.problems]
        # One host speaks for all of them, or every line would come from each.
        if variables["inventory_hostname"] == roll["lead"]:
            for line in result["msg"]:
                self._display.display(f"  {line}")
        return result


def decided(step: str, wave: dict[str, Any], roll: dict[str, Any], answers: dict[str, Any]) -> steps.Outcome:
    """What the answers of one step come to."""
    if step == "locked":
        return steps.locked(answers)
    if step == "refused":
        return steps.Outcome([], [], [])
    if step == "drained":
        return steps.drained(wave, answers, roll["settings"]["drain_policy"])
    if step == "replaced":
        return steps.replaced(wave, answers)
    if step == "restored":
        return steps.restored(wave, answers)
    if step == "watched":
        if not wave["watch_seconds"]:
            return steps.Outcome([], [], [])
        return steps.watched(wave, answers, roll["routers"], Thresholds.from_dict(roll["thresholds"]))
    return steps.readmitted(wave, answers)


def collected(hostvars: Any, wave: dict[str, Any], roll: dict[str, Any], step: str) -> dict[str, Any]:
    """What each host that had a part in a step registered; None where nothing is there."""
    routers = [router for router, names in wave.get("routed", {}).items() if names]
    parts: dict[str, list[str]] = {
        "locked": roll["hosts"],
        "refused": [],
        "drained": routers,
        "readmitted": [router for router in routers if any(move["admit"] for move in wave["moves"])],
        "replaced": list(wave.get("on", {})),
        "restored": list(wave.get("on", {})),
        "watched": list(dict.fromkeys([*wave.get("watch", {}), *roll["routers"]])),
    }
    return {name: hostvars[name].get(REGISTERS[step]) if name in hostvars else None for name in parts[step]}
