# SPDX-License-Identifier: Apache-2.0
"""One step of a wave: decide on the controller whether everybody goes on, then do this host's part.

The decision is made from what every host answered to the step before, and is the same for all of them, so that no host
runs ahead. The part itself never fails: its answer is kept for the next decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, follow, run_lock
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll import steps
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import Terms, WaveOrder
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError

Part = tuple[str, dict[str, Any]]
"""A module of this collection and its arguments."""

REGISTER = "__rolling_redeploy_{0}"
"""The variable that the role registers the answers to a step as."""
LOCK = "lock"
"""What the role does before the first step, by another module: its answers are judged as those of a step are."""
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
                "step": {"type": "str", "choices": list(STEPS), "required": True},
                "wave": {"type": "dict", "default": {}},
                "terms": {"type": "dict", "required": True},
                "hook": {"type": "str", "default": ""},
                "why": {"type": "str", "default": ""},
            }
        )
        variables = task_vars or {}
        here = variables["inventory_hostname"]
        step = arguments["step"]
        kind = STEPS[step]
        try:
            wave = WaveOrder.from_dict(arguments["wave"]) if arguments["wave"] else None
            terms = Terms.from_dict(arguments["terms"])
        except RollError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        if step == "hold":
            return {"changed": False, "answer": self._hold(variables)}
        outcome = decide(step, wave, terms, variables["hostvars"])
        if not kind.takes_back and (lost := run_lock.current().lost()):
            outcome = steps.Outcome([*outcome.problems, *lost], outcome.ready, outcome.seen)
        if outcome.problems and kind.stops:
            head = f"Wave {wave.number} of {terms.waves} stops here: " if wave else ""
            return {"failed": True, "changed": False, "msg": head + "; ".join(outcome.problems)}
        result: dict[str, Any] = {"changed": False, "msg": [*outcome.seen, *outcome.problems]}
        result["ansible_facts"] = facts(step, wave, outcome, arguments["why"], terms.run)
        if wave and here == terms.lead and "trainyard_roll_done" in result["ansible_facts"]:
            late = too_late(wave, variables["hostvars"])
            if late:
                # One host looks at the clock for all of them: two that look at two moments may see two things.
                result["ansible_facts"]["trainyard_roll_stopped"] = {"why": late, "problems": []}
        if step == "hooked":
            result["ansible_facts"][f"trainyard_hook_{arguments['hook']}"] = mark(wave, terms)
        # One host speaks for all of them, or every line would come from each.
        if here == terms.lead:
            for line in result["msg"]:
                self._display.display(f"  {line}")
        part = kind.part(here, wave, terms, outcome.ready) if kind.part and wave else None
        if part and wave:
            result["answer"] = {**self._answer(part, variables), "wave": wave.number}
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


def mark(wave: WaveOrder | None, terms: Terms) -> str:
    """What tells this run of the hooks from those of earlier waves and rolls."""
    return f"{terms.run}/{wave.number if wave else 0}"


def hook_problems(step: str, wave: WaveOrder | None, terms: Terms, hostvars: Any) -> list[str]:
    """Says it where hooks that belong before a step did not come to their end."""
    hook = STEPS[step].hook
    if not terms.hooks.get(hook):
        return []
    told = hostvars[terms.lead].get("ansible_facts", {}).get(f"trainyard_hook_{hook}")
    if told == mark(wave, terms):
        return []
    return [f"the hooks `{hook}` ({', '.join(terms.hooks[hook])}) failed; their message stands above"]


def decide(step: str, wave: WaveOrder | None, terms: Terms, hostvars: Any) -> steps.Outcome:
    """What the answers to the step before come to."""
    found = _decided(step, wave, terms, hostvars)
    more = hook_problems(step, wave, terms, hostvars)
    return steps.Outcome([*found.problems, *more], found.ready, found.seen) if more else found


def _decided(step: str, wave: WaveOrder | None, terms: Terms, hostvars: Any) -> steps.Outcome:
    before = STEPS[step].after
    if before == LOCK:
        return steps.locked({name: _registered(LOCK, name, hostvars) for name in terms.hosts})
    judged = JUDGED.get(before)
    if judged is None or wave is None:
        return steps.Outcome([], [], [])
    return judged.judge(wave, answers(before, wave, terms, hostvars), terms)


def _registered(step: str, name: str, hostvars: Any) -> Any:
    return hostvars[name].get(REGISTER.format(step)) if name in hostvars else None


def answers(step: str, wave: WaveOrder, terms: Terms, hostvars: Any) -> dict[str, Any]:
    """What each host that had a part in a step of this wave answered; None where nothing is there."""
    found: dict[str, Any] = {}
    for name in JUDGED[step].asked(wave, terms):
        answer = (_registered(step, name, hostvars) or {}).get("answer")
        # What is left of an earlier wave answers nothing about this one.
        found[name] = answer if answer and answer.get("wave") == wave.number else None
    return found


def facts(step: str, wave: WaveOrder | None, outcome: steps.Outcome, why: str, run: str = "") -> dict[str, Any]:
    """What the playbook and the report look up: gated replicas, the last finished wave, why a wave stopped."""
    found: dict[str, Any] = {}
    if step in ("admit", "return"):
        found["trainyard_roll_ready"] = outcome.ready
    if step == "begin":
        found["trainyard_roll_begun"] = run
    if wave and (step == "done" or (step == "watch" and not wave.watch_s)):
        found["trainyard_roll_done"] = wave.number
    if step in ("return", "refused"):
        found["trainyard_roll_stopped"] = {"why": why, "problems": outcome.problems}
    return found


def too_late(wave: WaveOrder, hostvars: Any) -> str:
    """Why the next wave may not begin: its hosts leave with their capacity block before it would be over."""
    after = wave.next
    if not after:
        return ""
    try:
        end = block_times.first_end(hostvars, after.hosts)
    except block_times.EndError as error:
        return str(error)
    return (block_end.too_late(f"wave {after.number}", after.seconds, block_times.now_utc(), end) or "") if end else ""


def _drain(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del ready
    servers = list(wave.routed.get(here, ()))
    timeout_s = terms.settings.router_timeout_s
    return ("router_server", {"state": "drain", "servers": servers, "timeout_s": timeout_s}) if servers else None


def _replace(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del ready
    limits = ("drain_deadline_s", "drain_policy", "start_timeout_s", "stop_timeout_s")
    arguments = {"replicas": wave.on(here), **{name: getattr(terms.settings, name) for name in limits}}
    return ("replica_release", arguments) if arguments["replicas"] else None


def _restore(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    part = _replace(here, wave, terms, ready)
    return (part[0], {**part[1], "state": "restored"}) if part else None


def _admit(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del terms
    retired = [name for name in wave.routed.get(here, ()) if name in wave.retired()]
    if retired:
        return "router_server", {"state": "maint", "servers": retired, "timeout_s": ADMIT_TIMEOUT_S}
    return _ready(here, wave, ready, wave.weights)


def _return(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del terms
    return _ready(here, wave, ready, wave.weights_after)


def _done(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del terms, ready
    return _ready(here, wave, list(wave.weights_after), wave.weights_after)


def _ready(here: str, wave: WaveOrder, names: list[str], weights: Mapping[str, int]) -> Part | None:
    servers = [name for name in wave.routed.get(here, ()) if name in names]
    arguments = {
        "state": "ready",
        "servers": servers,
        "weights": {name: weights[name] for name in servers if name in weights},
        "timeout_s": ADMIT_TIMEOUT_S,
    }
    return ("router_server", arguments) if servers else None


def _watch(here: str, wave: WaveOrder, terms: Terms, ready: list[str]) -> Part | None:
    del ready
    if not wave.watch_s or (here not in wave.watching() and here not in terms.routers):
        return None
    arguments = {"replicas": wave.watched_on(here), "seconds": wave.watch_s, "golden": list(terms.golden)}
    return "roll_watch", arguments


Answers = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """How the answers to a step are judged.

    Attributes:
        asked: the hosts that had a part in it.
        judge: whether everybody goes on.
    """

    asked: Callable[[WaveOrder, Terms], list[str]]
    judge: Callable[[WaveOrder, Answers, Terms], steps.Outcome]


@dataclass(frozen=True)
class Step:
    """One step of a wave.

    Attributes:
        part: what a host or a router does in it; None where nobody does anything.
        after: the step whose answers decide on whether this one is taken; empty where none do.
        hook: the user's hooks that have to have come to their end before.
        stops: whether a bad answer stops everybody here; what must happen last does not stop.
        takes_back: it is taken where the lock is still this run's, though it was lost elsewhere.
    """

    part: Callable[[str, WaveOrder, Terms, list[str]], Part | None] | None = None
    after: str = ""
    hook: str = ""
    stops: bool = True
    takes_back: bool = False


def _routers(wave: WaveOrder, terms: Terms) -> list[str]:
    del terms
    return [router for router, names in wave.routed.items() if names]


def _replacing(wave: WaveOrder, terms: Terms) -> list[str]:
    del terms
    return wave.hosts()


def _admitting(wave: WaveOrder, terms: Terms) -> list[str]:
    return _routers(wave, terms) if wave.retired() or any(move.admit for move in wave.moves) else []


def _watching(wave: WaveOrder, terms: Terms) -> list[str]:
    return list(dict.fromkeys([*wave.watching(), *terms.routers]))


#: Whose answers to what are judged, and how.
JUDGED = {
    "drain": Judged(_routers, lambda wave, found, terms: steps.drained(wave, found, terms.settings.drain_policy)),
    "replace": Judged(_replacing, lambda wave, found, _terms: steps.replaced(wave, found)),
    "admit": Judged(_admitting, lambda wave, found, _terms: steps.readmitted(wave, found)),
    "watch": Judged(_watching, lambda wave, found, terms: steps.watched(wave, found, terms.routers, terms.thresholds)),
    "restore": Judged(_replacing, lambda wave, found, _terms: steps.restored(wave, found)),
}

#: Every step of a roll, in the order in which the role's `tasks/roll.yml`, `wave.yml` and `steps.yml` take them.
STEPS = {
    "refused": Step(stops=False),
    "begin": Step(after=LOCK, hook="before"),
    "hold": Step(),
    "hooked": Step(stops=False),
    "drain": Step(_drain),
    "replace": Step(_replace, after="drain", hook="drain"),
    "admit": Step(_admit, after="replace"),
    "watch": Step(_watch, after="admit", hook="undrain"),
    "done": Step(_done, after="watch"),
    "withdraw": Step(_drain, takes_back=True),
    "restore": Step(_restore, takes_back=True),
    "return": Step(_return, after="restore", stops=False),
}
