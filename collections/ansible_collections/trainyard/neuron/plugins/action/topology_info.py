# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.topology_info``: takes the host's lock, and asks all else for the plan."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ansible import context
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight import judge, roles
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.questions import VARIABLES, questions_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Locking

MODULE = "trainyard.neuron.topology_info"
KEPT = ("topology", "images", "problems", "asked")
"""What of an answer is for the planner alone."""
VERB, ASKS = "trainyard_verb", "trainyard_asks"
"""Variables: what the run is going to do, and what it needs of hosts (`all`, `load` alone, or an answer: `reach`)."""

WATCHED = ("site", "serve", "teardown")
"""What runs do that come to the hosts that watch."""


class ActionModule(Locking):
    """One module run; a second one where the lock of a run that is known to be dead is taken over."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; where the planner is to have the report, without it."""
        super().run(tmp, task_vars)
        variables, arguments = dict(task_vars or {}), dict(self._task.args)
        for_plan = boolean(arguments.pop("for_plan", False))
        groups = variables.get("group_names") or []
        serving, locked, sending, watching = (
            arguments.pop(word, None) for word in ("serving", "locked", "sending", "watching")
        )
        # Not templates of the task's: at a thousand hosts each one is seconds of the controller's processor.
        verb = str(arguments.pop("lock_for", variables.get(VERB)) or "")
        watches = watching in groups and watch_too(verb, str(variables.get(ASKS, "all")), context.CLIARGS)
        if serving is not None and not {serving, locked} & set(groups):
            verb = ""  # of who neither serves nor routes no lock is wanted
        if not for_plan:
            if serving is not None and serving not in groups and not verb:
                return {"changed": False, "skipped": True, "skip_reason": "nothing is asked of this host"}
            return self._ask(arguments, verb, variables)
        if watching in groups and not watches and not {serving, locked, sending} & set(groups):
            return {"changed": False, "skipped": True, "skip_reason": "this run has nothing to do there"}
        if serving is None or serving in groups:
            arguments["images"] = run_plan.reports().asked()
        result = self._heard(arguments, verb, sending in groups, variables, watches)
        found = {name: result.pop(name) for name in KEPT if name in result}
        run_plan.reports().keep(str(variables["inventory_hostname"]), {"changed": False, "failed": False, **found})
        return result

    def _ask(self, arguments: dict[str, Any], verb: str, variables: dict[str, Any]) -> dict[str, Any]:
        if verb and not self._task.check_mode:
            return self.take(MODULE, arguments, verb, variables)
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables)
        return result

    def _heard(
        self, arguments: dict[str, Any], verb: str, sends: bool, variables: dict[str, Any], watches: bool = False
    ) -> dict[str, Any]:
        """Return the answer of a host with what is wrong there; that it gives none is an answer too."""
        name = str(variables["inventory_hostname"])
        asks = variables.get(ASKS, "all")
        asked: dict[str, Any] = {"look": {}, "expect": {}}
        if asks == "all" or (asks == "load" and sends):
            asked = self._questions(name, sends, variables, watches, load_alone=asks == "load")
        asked["expect"] |= {"verb": verb, "upgrades": verb == "upgrade"}
        before_s = time.time()
        try:
            result = self._ask(
                {**arguments, "questions": json.dumps(asked["look"]) if asked["look"] else ""}, verb, variables
            )
        except AnsibleConnectionFailure as error:
            return _unasked(judge.unreached(name, str(error), address=str(variables.get("ansible_host") or name)))
        except AnsibleError as error:
            return _unasked(judge.unreached(name, str(error), by_sudo=True))
        if result.get("failed"):
            return _unasked(_failure(name, result), result)
        answers, serves = result.pop("answers", None) or {}, "sdk" in asked["expect"]
        host = judge.Answered(name, asked["expect"], result, before_s, time.time(), serves, answers)
        result["problems"] = [problem.to_dict() for problem in (judge.judge(host) if answers else ())]
        return result

    def _questions(
        self, name: str, sends: bool, variables: dict[str, Any], watches: bool, load_alone: bool
    ) -> dict[str, Any]:
        """Return what the host is asked, from the plan before and the roles' variables as they are for this host."""
        plan = run_plan.before()
        fleet = plan.fleet()
        where = str(variables.get("playbook_dir", ""))
        defaults = roles.defaults(self._loader, where)
        said = {key: variables.get(key, defaults.get(key)) for key in VARIABLES}
        values = {
            key: self._templar.template(value) if _has_template(value) else value
            for key, value in said.items()
            if value is not None
        }
        host = plan.host(name) if name in fleet["hosts"] and not load_alone else None
        router = plan.router(name) if name in fleet["router"]["routers"] and not load_alone else None
        benchmarks = plan.benchmarks(name) if sends and benchmarks_too(context.CLIARGS) else []
        urls = fleet["router"]["urls"] if sends and not router else []
        targets = plan.targets(name) if watches and not load_alone else None
        locks = roles.locks(self._loader, where)
        return questions_of(name, host, router, urls, values, benchmarks, locks, targets)


def benchmarks_too(given: Mapping[str, Any]) -> bool:
    """Return whether a run with such `tags` and `skip_tags` comes to its benchmark, whose needs are asked only then."""
    only, skipped = given.get("tags") or ("all",), given.get("skip_tags") or ()
    return "benchmark" not in skipped and bool({"all", "tagged", "benchmark"} & set(only))


def watch_too(verb: str, asks: str, given: Mapping[str, Any]) -> bool:
    """Return whether a run comes to the hosts that watch, or is a preflight alone, which asks for all that comes.

    Args:
        verb: what the run does; empty where it only looks.
        asks: what it needs of hosts.
        given: its `tags` and `skip_tags`.
    """
    only, skipped = set(given.get("tags") or ("all",)), set(given.get("skip_tags") or ())
    ours = {"monitoring", *({"serve"} if verb == "site" else ())}
    comes = verb in WATCHED or (not verb and asks == "all")
    return comes and not ours & skipped and bool({"all", "tagged", *ours} & only)


def _has_template(value: Any) -> bool:
    """Return whether there is something to template in a value: most have none, and templating costs."""
    if isinstance(value, Mapping):
        return any(_has_template(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_template(item) for item in value)
    return isinstance(value, str) and "{" in value


def _unasked(problem: Problem, result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer of a host that gave none; what it said of its lock stays."""
    kept = {key: value for key, value in (result or {}).items() if key == "lock"}
    return {"changed": False, "asked": False, "problems": [problem.to_dict()], **kept}


def _failure(name: str, result: dict[str, Any]) -> Problem:
    """Return the problem of a host where the module did not come to its end."""
    said = str(result.get("module_stderr") or result.get("msg") or "no word")
    told = f"{result.get('msg', '')} {said}".lower()
    if "sudo" in told or "become" in told or "password is required" in told:
        return judge.unreached(name, said, by_sudo=True)
    if "neuron-ls" in told:
        return Problem(
            name, "driver", None, str(result.get("msg")), "look at what `neuron-ls --json-output` prints there"
        )
    return judge.no_python(name, said)
