# SPDX-License-Identifier: Apache-2.0
"""The end of a roll, on the controller: how it came out, and every replica that is out of rotation, with the reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import named, reported, wanted
from ansible_collections.trainyard.neuron.plugins.plugin_utils import heal, history, run_lock, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.moves import REPLACE
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import RollOrder, WaveOrder
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import out_of_rotation, read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, RollError


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Read the last reports; nothing runs on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Say whether the roll reached its last wave, and whether a replica that it should have brought back is out."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "roll": {"type": "dict", "required": True},
                "reports": {"type": "str", "default": "trainyard_replicas_after"},
                "drained_elsewhere": {"type": "raw", "default": []},
            }
        )
        hostvars = (task_vars or {})["hostvars"]
        try:
            roll = RollOrder.from_dict(arguments["roll"])
            reports = {name: reported(hostvars, name, arguments["reports"]) for name in roll.terms.hosts}
            routers = {name: reported(hostvars, name, arguments["reports"]) for name in roll.terms.routers}
            elsewhere = named(arguments["drained_elsewhere"]) if roll.terms.hooks["is_drained"] else None
            planned = {"hosts": run_plan.current().hosts(reports)}
        except (RollError, run_plan.RunPlanError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        fleet = read_fleet(
            wanted(planned, reports, roll.terms.verb),
            {name: None if answer is None else answer["replicas"] for name, answer in reports.items()},
            {name: None if answer is None else answer["servers"] for name, answer in routers.items()},
            elsewhere,
        )
        told_by = hostvars[roll.terms.lead].get("ansible_facts", {})
        out = out_of_rotation(fleet)
        light = light_weights(fleet, roll)
        lines, failed = report_lines(
            roll,
            int(told_by.get("trainyard_roll_done", 0)),
            str((told_by.get("trainyard_roll_stopped") or {}).get("why", "")),
            out,
            list(fleet.silent),
            light,
            [spare.id for spare in fleet.spares if fleet.seen(spare).running],
        )
        for line in lines:
            self._display.display(line)
        self._write_down(roll, lines[0], failed, task_vars or {})
        return {"changed": False, "msg": lines, "stopped": failed, "finished": finished(roll, fleet, {**light, **out})}

    def _write_down(self, roll: RollOrder, said: str, failed: bool, variables: dict[str, Any]) -> None:
        """Add the roll to the history of the fleet; where that cannot be written, the roll is none the worse."""
        lead = run_lock.current().said(roll.terms.lead)
        verb = (lead.get("holder") or {}).get("verb") or roll.terms.verb
        if verb == heal.WHAT:
            return  # which writes down itself what it began and how it came out
        words = {name: variables.get(name) for name in (history.VARIABLE, "ansible_inventory_sources")}
        event = {
            "at_s": round(time.time(), 3),
            "what": verb,
            "state": heal.FAILED if failed else heal.DONE,
            "run": roll.terms.run,
            "who": roll.terms.owner,
            "hosts": sorted({move.host for wave in roll.waves for move in wave.moves}),
            "replicas": replaced(roll.waves),
            "why": said,
        }
        try:
            history.add(
                history.path_of({name: self._templar.template(word) for name, word in words.items() if word}), event
            )
        except history.HistoryError as error:
            self._display.warning(f"the history of the fleet has no word of this roll: {error}")


def light_weights(fleet: Fleet, roll: RollOrder) -> dict[str, str]:
    """Replicas that the roll gave less than others and that have it still, with the router that gives it."""
    wanted_now = {name: value for wave in roll.waves for name, value in wave.weights_after.items()}
    return {
        target.id: ", ".join(f"{seat.weight}% of its weight at {router}" for router, seat in light)
        for target in fleet.targets
        if (
            light := [
                (router, seat)
                for router, seat in sorted(fleet.seats_of(target).items())
                if seat.weight < wanted_now.get(target.id, 0)
            ]
        )
    }


def finished(roll: RollOrder, fleet: Fleet, out: dict[str, str]) -> dict[str, list[str]]:
    """Replicas of each host about which nothing is to be remembered: they serve, or a person took them out."""
    names: dict[str, list[str]] = {host: [] for host in roll.terms.hosts}
    for target in fleet.targets:
        if target.host in names and (target.id not in out or target.id in roll.out):
            names[target.host].append(target.name)
    for spare in fleet.spares:
        names.setdefault(spare.host, []).append(spare.name)
    return names


def replaced(waves: Sequence[WaveOrder]) -> list[str]:
    """Replicas that waves bring to another release; spares come and go beside them."""
    return [move.id for wave in waves for move in wave.moves if move.kind == REPLACE]


def report_lines(
    roll: RollOrder,
    done: int,
    why: str,
    out: dict[str, str],
    silent: list[str],
    light: dict[str, str],
    standing: Sequence[str] = (),
) -> tuple[list[str], bool]:
    """The report's lines, and whether the roll failed.

    Args:
        roll: the roll.
        done: how many waves were finished.
        why: what the wave after them stopped for.
        out: replicas out of rotation now, with the reason.
        silent: hosts that do not answer now.
        light: replicas that still get less than others, with the reason.
        standing: spares that run now.
    """
    waves = roll.waves
    verb = roll.terms.verb.capitalize()
    stopped = done < len(waves)
    moved = len(replaced(waves[:done]))
    total = len(replaced(waves))
    if stopped:
        at = waves[done]
        names = ", ".join(move.id for move in at.moves)
        lines = [
            f"{verb} stopped at wave {done + 1} of {len(waves)} ({names}); {moved} of {total} replicas are rolled."
        ]
        lines += [f"  because: {why}"] if why else []
        after = replaced(waves[done + 1 :])
        lines += [f"  untouched: {', '.join(after)}"] if after else []
    else:
        lines = [f"{verb} is done: {moved} of {total} replicas rolled in {len(waves)} waves."]
    expected = set(roll.out)
    lines += [f"  out of rotation: {name}: {why}" for name, why in sorted(out.items())]
    lines += [f"  gets too little: {name}: {why}" for name, why in sorted(light.items())]
    lines += [f"  does not answer: {name}" for name in silent]
    lines += [f"  stands in still: {name}" for name in standing]
    failed = stopped or bool(set(out) - expected) or bool(silent) or bool(light)
    if failed:
        lines.append("  Next: mend the cause, then run the same playbook again; it goes on from here.")
    return lines, failed
