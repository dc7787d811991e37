# SPDX-License-Identifier: Apache-2.0
"""One step of a wave: decide on the controller whether everybody goes on, then do this host's part.

The decision is made from what every host answered to the step before, and is the same for all of them, so that no host
runs ahead. The part itself never fails: its answer is kept for the next decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trainyard.neuron.plugins.plugin_utils import follow, run_lock
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll import steps
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds

Part = tuple[str, dict[str, Any]]
"""A module of this collection and its arguments."""

REGISTERS = {
    "drain": "roll_drained",
    "replace": "roll_replaced",
    "admit": "roll_admitted",
    "watch": "roll_watched",
    "withdraw": "roll_withdrawn",
    "restore": "roll_restored",
    "return": "roll_returned",
}
"""The variable that the playbook registers each step's answers as."""
LAST_WORDS = ("return", "refused", "hooked")
"""Steps that never fail: what comes after them has to happen."""
HOOKS_BEFORE = {"begin": "before", "replace": "drain", "watch": "undrain"}
"""The user's hooks that have to have come to their end before a step."""
BEFORE = {"replace": "drain", "admit": "replace", "watch": "admit", "done": "watch", "return": "restore"}
"""The step whose answers a step decides on; those not named here decide on none."""
STEPS = ["begin", "hold", *REGISTERS, "done", "hooked", "refused"]
TAKES_BACK = ("withdraw", "restore")
"""Steps that are taken where the lock is still this run's, though it was lost elsewhere."""
ADMIT_TIMEOUT_S = 60.0


class ActionModule(run_lock.Fenced, run_lock.Locking):
    """Fail everywhere if one answer stops the wave; else run this host's module, if it has a part."""

    TRANSFERS_FILES = False
    _supports_check_mode = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``answer`` of this host's part, and as facts what the decision was."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "step": {"type": "str", "choices": STEPS, "required": True},
                "wave": {"type": "dict", "default": {}},
                "terms": {"type": "dict", "required": True},
                "hook": {"type": "str", "default": ""},
                "why": {"type": "str", "default": ""},
            }
        )
        variables = task_vars or {}
        here = variables["inventory_hostname"]
        step, wave, terms = arguments["step"], arguments["wave"], arguments["terms"]
        if step == "hold":
            return {"changed": False, "answer": self._hold(variables)}
        outcome = decide(step, wave, terms, variables["hostvars"])
        if step not in TAKES_BACK and (lost := run_lock.current().lost()):
            outcome = steps.Outcome([*outcome.problems, *lost], outcome.ready, outcome.seen)
        if outcome.problems and step not in LAST_WORDS:
            head = f"Wave {wave['number']} of {terms['waves']} stops here: " if wave else ""
            return {"failed": True, "changed": False, "msg": head + "; ".join(outcome.problems)}
        result: dict[str, Any] = {"changed": False, "msg": [*outcome.seen, *outcome.problems]}
        result["ansible_facts"] = facts(step, wave, outcome, arguments["why"], terms["run"])
        if step == "hooked":
            result["ansible_facts"][f"trainyard_hook_{arguments['hook']}"] = mark(wave, terms)
        # One host speaks for all of them, or every line would come from each.
        if here == terms["lead"]:
            for line in result["msg"]:
                self._display.display(f"  {line}")
        part = PARTS[step](here, wave, terms, outcome.ready) if step in PARTS else None
        if part:
            result["answer"] = {**self._answer(part, variables), "wave": wave["number"]}
            result["changed"] = bool(result["answer"].get("changed"))
        return result

    def _hold(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Renew the host's lock: a step of another host may take as long as it holds."""
        try:
            return self.keep(variables)
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": str(error)}

    def _answer(self, part: Part, variables: dict[str, Any]) -> dict[str, Any]:
        name, arguments = part

        def run(given: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = self._execute_module(
                module_name=f"trainyard.neuron.{name}", module_args=given, task_vars=variables
            )
            return found

        def say(running: list[Mapping[str, Any]]) -> None:
            for line in follow.lines(variables["inventory_hostname"], running):
                self._display.display(line)

        try:
            if name != "replica_release":
                return run(arguments)
            return follow.moved(
                arguments["replicas"],
                lambda moves, wait_s: run({**arguments, "replicas": moves, "wait_s": wait_s}),
                say,
            )
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": str(error)}


def mark(wave: dict[str, Any], terms: dict[str, Any]) -> str:
    """What tells this run of the hooks from those of earlier waves and rolls."""
    return f"{terms['run']}/{wave.get('number', 0)}"


def hook_problems(step: str, wave: dict[str, Any], terms: dict[str, Any], hostvars: Any) -> list[str]:
    """Says it where hooks that belong before a step did not come to their end."""
    hook = HOOKS_BEFORE.get(step, "")
    if not terms["hooks"].get(hook):
        return []
    told = hostvars[terms["lead"]].get("ansible_facts", {}).get(f"trainyard_hook_{hook}")
    if told == mark(wave, terms):
        return []
    return [f"the hooks `{hook}` ({', '.join(terms['hooks'][hook])}) failed; their message stands above"]


def decide(step: str, wave: dict[str, Any], terms: dict[str, Any], hostvars: Any) -> steps.Outcome:
    """What the answers to the step before come to."""
    found = _decided(step, wave, terms, hostvars)
    more = hook_problems(step, wave, terms, hostvars)
    return steps.Outcome([*found.problems, *more], found.ready, found.seen) if more else found


def _decided(step: str, wave: dict[str, Any], terms: dict[str, Any], hostvars: Any) -> steps.Outcome:
    if step == "begin":
        return steps.locked({name: hostvars[name].get("roll_locked") for name in terms["hosts"]})
    before = BEFORE.get(step)
    if before is None:
        return steps.Outcome([], [], [])
    found = answers(before, wave, terms, hostvars)
    if before == "drain":
        return steps.drained(wave, found, terms["settings"]["drain_policy"])
    if before == "replace":
        return steps.replaced(wave, found)
    if before == "restore":
        return steps.restored(wave, found)
    if before == "watch":
        return steps.watched(wave, found, terms["routers"], Thresholds.from_dict(terms["thresholds"]))
    return steps.readmitted(wave, found)


def answers(step: str, wave: dict[str, Any], terms: dict[str, Any], hostvars: Any) -> dict[str, Any]:
    """What each host that had a part in a step of this wave answered; None where nothing is there."""
    routers = [router for router, names in wave["routed"].items() if names]
    taking_part = {
        "drain": routers,
        "replace": list(wave["on"]),
        "restore": list(wave["on"]),
        "admit": [router for router in routers if wave["retired"] or any(move["admit"] for move in wave["moves"])],
        "watch": list(dict.fromkeys([*wave["watch"], *terms["routers"]])),
    }[step]
    found: dict[str, Any] = {}
    for name in taking_part:
        registered = hostvars[name].get(REGISTERS[step]) if name in hostvars else None
        answer = (registered or {}).get("answer")
        # What is left of an earlier wave answers nothing about this one.
        found[name] = answer if answer and answer.get("wave") == wave["number"] else None
    return found


def facts(step: str, wave: dict[str, Any], outcome: steps.Outcome, why: str, run: str = "") -> dict[str, Any]:
    """What the playbook and the report look up: gated replicas, the last finished wave, why a wave stopped."""
    found: dict[str, Any] = {}
    if step in ("admit", "return"):
        found["trainyard_roll_ready"] = outcome.ready
    if step == "begin":
        found["trainyard_roll_begun"] = run
    if step == "done" or (step == "watch" and not wave["watch_s"]):
        found["trainyard_roll_done"] = wave["number"]
    if step in ("return", "refused"):
        found["trainyard_roll_stopped"] = {"why": why, "problems": outcome.problems}
    return found


def _drain(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del ready
    servers = wave["routed"].get(here)
    timeout_s = terms["settings"]["router_timeout_s"]
    return ("router_server", {"state": "drain", "servers": servers, "timeout_s": timeout_s}) if servers else None


def _replace(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del ready
    limits = ("drain_deadline_s", "drain_policy", "start_timeout_s", "stop_timeout_s")
    arguments = {"replicas": wave["on"].get(here)}
    arguments |= {name: terms["settings"][name] for name in limits}
    return ("replica_release", arguments) if arguments["replicas"] else None


def _restore(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    part = _replace(here, wave, terms, ready)
    return (part[0], {**part[1], "state": "restored"}) if part else None


def _admit(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del terms
    retired = [name for name in wave["routed"].get(here, []) if name in wave["retired"]]
    if retired:
        return "router_server", {"state": "maint", "servers": retired, "timeout_s": ADMIT_TIMEOUT_S}
    return _ready(here, wave, ready, wave["weights"])


def _return(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del terms
    return _ready(here, wave, ready, wave["weights_after"])


def _done(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del terms, ready
    return _ready(here, wave, list(wave["weights_after"]), wave["weights_after"])


def _ready(here: str, wave: dict[str, Any], names: list[str], weights: dict[str, int]) -> Part | None:
    servers = [name for name in wave["routed"].get(here, []) if name in names]
    arguments = {
        "state": "ready",
        "servers": servers,
        "weights": {name: weights[name] for name in servers if name in weights},
        "timeout_s": ADMIT_TIMEOUT_S,
    }
    return ("router_server", arguments) if servers else None


def _watch(here: str, wave: dict[str, Any], terms: dict[str, Any], ready: list[str]) -> Part | None:
    del ready
    if not wave["watch_s"] or (here not in wave["watch"] and here not in terms["routers"]):
        return None
    arguments = {"replicas": wave["watch"].get(here, []), "seconds": wave["watch_s"], "golden": terms["golden"]}
    return "roll_watch", arguments


PARTS: dict[str, Callable[[str, dict[str, Any], dict[str, Any], list[str]], Part | None]] = {
    "drain": _drain,
    "replace": _replace,
    "admit": _admit,
    "watch": _watch,
    "withdraw": _drain,
    "restore": _restore,
    "return": _return,
    "done": _done,
}
