# SPDX-License-Identifier: Apache-2.0
"""The end of a roll, on the controller: how it came out, and every replica that is out of rotation, with the reason."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import reported
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.plan import out_of_rotation, read_fleet


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Read the last reports; nothing runs on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail if the roll did not reach its last wave, or if a replica that it should have brought back is out."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "roll": {"type": "dict", "required": True},
                "fleet": {"type": "dict", "required": True},
                "reports": {"type": "str", "default": "trainyard_replicas_after"},
                "problems": {"type": "list", "elements": "str", "default": []},
            }
        )
        hostvars = (task_vars or {})["hostvars"]
        roll = arguments["roll"]
        reports = {name: reported(hostvars, name, arguments["reports"]) for name in roll["hosts"]}
        routers = {name: reported(hostvars, name, arguments["reports"]) for name in roll["routers"]}
        fleet = read_fleet(
            arguments["fleet"],
            {name: None if answer is None else answer["replicas"] for name, answer in reports.items()},
            {name: None if answer is None else answer["servers"] for name, answer in routers.items()},
        )
        done = int(hostvars[roll["lead"]].get("trainyard_roll_done", 0))
        lines, failed = told(roll, done, out_of_rotation(fleet), list(fleet.silent))
        return {"changed": False, "failed": failed, "msg": lines, "_ansible_verbose_always": True}


def told(roll: dict[str, Any], done: int, out: dict[str, str], silent: list[str]) -> tuple[list[str], bool]:
    """The report's lines, and whether the roll failed.

    Args:
        roll: the roll's plan.
        done: how many waves were finished.
        out: replicas out of rotation now, with the reason.
        silent: hosts that do not answer now.
    """
    waves = roll["waves"]
    verb = roll["verb"].capitalize()
    stopped = done < len(waves)
    moved = sum(len(wave["moves"]) for wave in waves[:done])
    total = sum(len(wave["moves"]) for wave in waves)
    if stopped:
        at = waves[done]
        names = ", ".join(move["id"] for move in at["moves"])
        lines = [
            f"{verb} stopped at wave {done + 1} of {len(waves)} ({names}): {moved} of {total} replicas are rolled."
        ]
        after = [move["id"] for wave in waves[done + 1 :] for move in wave["moves"]]
        lines += [f"  untouched: {', '.join(after)}"] if after else []
    else:
        lines = [f"{verb} is done: {moved} of {total} replicas rolled in {len(waves)} waves."]
    expected = set(roll["out"])
    lines += [f"  out of rotation: {name}: {why}" for name, why in sorted(out.items())]
    lines += [f"  does not answer: {name}" for name in silent]
    failed = stopped or bool(set(out) - expected) or bool(silent)
    if failed:
        lines.append("  Next: mend the cause, then run the same playbook again; it goes on from here.")
    return lines, failed
