# SPDX-License-Identifier: Apache-2.0
"""From an inventory's variables to the planner's input: only what is the planner's, as plain data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import key_problems
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images, router_access, travelling
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.bounded import Say, TooMuchError, bounded
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import PREFIX as DEPLOYMENT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.reach import FURTHER, FURTHER_MONITORS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.role_variables import RoleVariables

#: What the planner is given of a host: every variable of the toolkit, and where the host is reached.
PREFIX, ADDRESS = "trainyard_", "ansible_host"

#: The one variable of a role that a release depends on: replicas read the key when they start. The planner is given
#: the beginning of a digest of it, by which a changed key is seen and no key can be told.
KEY_VARIABLE, KEY_INPUT = "vllm_endpoint_api_key", "credentials"

#: What a release whose image brings no vLLM is built with.
PIP_INDEX, SOURCE_COMMITS = "neuron_venv_pip_index", "neuron_venv_source_commits"

#: Variables of roles that are judged in the plan, because a role would find the mistake hours later.
JUDGED_OF_ROLES = ("benchmark_objective", router_access.KEYS, PIP_INDEX, SOURCE_COMMITS)

#: What EC2 may be asked for, so that who reads the planner's input needs not ask.
BLOCK_TIMES = (block_times.END, block_times.START)

#: Expressions over what a roll knows; before it they cannot be templated.
LATE_VARIABLES = ("trainyard_elb_target_id",)

#: More than any settings have: nesting, values, characters of a text, bits of a number.
MOST_DEPTH, MOST_VALUES, MOST_CHARACTERS, MOST_BITS = 64, 200000, 1 << 20, 1024

#: What Ansible may take to put a host's variables together, the files of its groups with them, processor seconds.
HOST_CPU_S = 30

#: Of what a template raises so much is told, characters.
TOLD_CHARACTERS = 300

#: The variable that `trainyard.neuron.topology_info` is registered as.
TOPOLOGY_FACT = "trainyard_topology"


class Judged:
    """What is wrong with variables that the planner does not read itself, host after host."""

    def __init__(self) -> None:
        self.problems: List[Problem] = []
        self.warnings: List[Problem] = []
        self._roles = RoleVariables(plain, _is_result, JUDGED_OF_ROLES)

    def judge(self, host: str, variables: Mapping[str, Any]) -> None:
        """Judge the roles' variables of a host, as they stand: to resolve them may cost a question to a vault."""
        # Ansible's own mapping resolves what is read of it; it is made over what stands in the inventory.
        standing = variables if type(variables) is dict else getattr(variables, "_vars", dict.fromkeys(variables))
        problems, warnings = self._roles.judge(host, standing)
        self.problems += problems
        self.warnings += warnings


def fleet_input(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    routers: Iterable[str],
    model_configs: str = "",
    clients: Iterable[str] = (),
    reports: Optional[Mapping[str, Any]] = None,
    monitors: Iterable[str] = (),
) -> Dict[str, Any]:
    """Collect what `plan_fleet` reads, in a process whose time and memory are bounded; arguments as `collect`.

    Raises:
        PlanError: variables that cannot be templated, all of them, or the one that takes too much to template.
    """
    lists = (list(hosts), list(routers), list(clients), list(monitors))
    return bounded_input(
        lambda say: collect(hostvars, lists[0], lists[1], model_configs, lists[2], say, reports, lists[3])
    )


def bounded_input(work: Callable[[Say], Dict[str, Any]]) -> Dict[str, Any]:
    """Run what reads an inventory in a process whose time and memory are bounded.

    Args:
        work: as `bounded.bounded` takes it; its steps are a host, or a host and a variable with a line break between.

    Raises:
        PlanError: a step took too much; and whatever the work raises.
    """
    try:
        found: Dict[str, Any] = bounded(work)
        return found
    except TooMuchError as error:
        host, _, variable = error.step.partition("\n")
        rule = "takes too much to read: %s" % error
        fix = "say it without loops, powers and aliases that multiply"
        raise PlanError([Problem(host, variable or "inventory", None, rule, fix)]) from error


def collect(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    routers: Iterable[str],
    model_configs: str = "",
    clients: Iterable[str] = (),
    say: Say = lambda *_step: None,
    reports: Optional[Mapping[str, Any]] = None,
    monitors: Iterable[str] = (),
) -> Dict[str, Any]:
    """Collect what `plan_fleet` reads.

    Args:
        hostvars: variables of all hosts, by host; values may be templated on access.
        hosts: names of the hosts that serve.
        routers: names of the hosts that balance.
        model_configs: directory with `<repo>/<revision>/config.json` of checkpoints, empty for none.
        clients: names of the hosts that send load.
        say: told each host and variable, with a line break between, before it is read.
        reports: what hosts answered in this run, by host; it goes before what their variables say.
        monitors: names of the hosts that read metrics.

    Raises:
        PlanError: variables that cannot be templated, all of them.
    """
    problems: List[Problem] = []
    judged = Judged()
    router_names, client_names, monitor_names = list(routers), list(clients), list(monitors)
    found = {name: _variables(hostvars, name, problems, name in router_names, say, judged) for name in hosts}
    beside = [name for name in dict.fromkeys(router_names + client_names + monitor_names) if name not in found]
    extra = {name: _variables(hostvars, name, problems, name in router_names, say, judged) for name in beside}
    reported = {name: values.pop(TOPOLOGY_FACT, None) for name, values in {**found, **extra}.items()}
    reported.update(_reports(reports or {}, problems))
    files, unread = _files(hostvars, found)
    if problems + unread:
        raise PlanError(problems + unread)
    topologies = {name: _topology(result) for name, result in reported.items()}
    topologies = {name: topology for name, topology in topologies.items() if topology}
    return {
        "hosts": found,
        "routers": router_names,
        "clients": client_names,
        "monitors": monitor_names,
        "topologies": topologies,
        "problems": judged.problems,
        "warnings": judged.warnings,
        "other_variables": extra,
        "new_images": _images(found, reported, {name: _inventory_of(hostvars, name) for name in found}),
        "model_configs": read_model_configs(model_configs, models_of(found.values())) if model_configs else {},
        "files": files,
    }


def _files(
    hostvars: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> Tuple[Dict[str, str], List[Problem]]:
    """Return the files of the controller that hosts' variables name, by path, and what cannot be read of them."""
    contents: Dict[str, str] = {}
    problems: List[Problem] = []
    for name, variables in found.items():
        wanted = [(name, key, path) for key, path in travelling.named(variables).items() if path not in contents]
        if not wanted:
            continue
        more, wrong = travelling.read(wanted, _inventory_of(hostvars, name) or str(Path.cwd()))
        contents.update(more)
        problems += wrong
    return contents, problems


def _inventory_of(hostvars: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return the directory of the inventory that has a host, empty where it has none."""
    return str(hostvars[name].get("inventory_dir") or "")


def _images(
    found: Mapping[str, Dict[str, Any]], reported: Mapping[str, Any], directories: Mapping[str, str]
) -> Dict[str, Dict[str, str]]:
    """Give each host the images that are pinned, in the fleet's files and by what the hosts were told in this run.

    Returns:
        file -> reference -> digest of what a file does not have yet.

    Raises:
        PlanError: see `pinned_images`.
    """
    answers = [(name, result.get(pinned_images.ANSWER)) for name, result in reported.items() if _is_result(result)]
    told = pinned_images.answers_of(answers)
    files: Dict[str, Dict[str, str]] = {}
    for name, values in found.items():
        given = values.get(pinned_images.VARIABLE)
        path = given if isinstance(given, str) and given else pinned_images.file_of_inventory(directories[name])
        if path not in files:
            files[path] = pinned_images.read(path) if path else {}
        if told or files[path]:
            values[pinned_images.INPUT] = {**told, **files[path]}
    return {path: {key: told[key] for key in told if key not in known} for path, known in files.items() if told}


def models_of(hosts: Iterable[Mapping[str, Any]]) -> List[Tuple[str, str]]:
    """Return repository and revision of every model that some hosts' variables name, each once."""
    found = set()
    for values in hosts:
        for key, value in values.items():
            if not key.startswith(DEPLOYMENT) or not isinstance(value, Mapping):
                continue
            draft = value.get("speculation")
            for model in (value.get("model"), draft.get("model") if isinstance(draft, Mapping) else None):
                named = isinstance(model, Mapping) and [model.get(part) for part in ("repo", "revision")]
                if named and all(isinstance(part, str) for part in named):
                    found.add((str(named[0]), str(named[1])))
    return sorted(found)


def default_model_configs() -> str:
    """Return where config.json files that were fetched are kept, which every plan of this user reads."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainyard" / "model-configs")


def model_config_path(directory: str, repo: str, revision: str) -> Path:
    """Return where a checkpoint's config.json is, as on a host below `weights`."""
    return Path(directory, repo, revision, "config.json")


def read_model_configs(directory: str, models: Iterable[Tuple[str, str]]) -> Dict[str, Any]:
    """Return the config.json of those models that a directory has, by `repo@revision`."""
    found = {}
    for repo, revision in models:
        try:
            text = model_config_path(directory, repo, revision).read_text(encoding="utf-8")
            found["%s@%s" % (repo, revision)] = plain(json.loads(text))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            path = str(model_config_path(directory, repo, revision))
            raise PlanError([Problem("", "model_configs", path, "cannot be read: %s" % error, "repair it")]) from error
    return found


def _is_result(value: Any) -> bool:
    """Tell what a task registered in this run from what the inventory says."""
    return isinstance(value, Mapping) and "failed" in value and ("changed" in value or "msg" in value)


def _topology(result: Any) -> Any:
    """Return what a host reported: a registered result's topology; nothing of a host that was not reached."""
    if isinstance(result, Mapping) and "devices" not in result:
        return result.get("topology")
    return result


def _reports(reports: Mapping[str, Any], problems: List[Problem]) -> Dict[str, Any]:
    """Return the answers as plain data; one that has more in it than any host is a problem of that host."""
    found = {}
    for name, report in reports.items():
        try:
            found[name] = plain(report)
        except TooLargeError as error:
            problems.append(Problem(name, TOPOLOGY_FACT, None, str(error), "look at what neuron-ls says there"))
    return found


def _variables(
    hostvars: Mapping[str, Mapping[str, Any]],
    name: str,
    problems: List[Problem],
    routes: bool,
    say: Say,
    judged: Judged,
) -> Dict[str, Any]:
    if name not in hostvars:
        problems.append(Problem("", "hosts", name, "is no host of the inventory", "correct the name"))
        return {}
    values: Dict[str, Any] = {}
    say(name, HOST_CPU_S)
    # Ansible puts a host's variables together anew each time that they are asked for.
    variables = hostvars[name]
    judged.judge(name, variables)
    for key in sorted(variables):
        if not _is_read(key, routes):
            continue
        say("%s\n%s" % (name, key))
        try:
            value = variables[key]
            if key == KEY_VARIABLE:
                values[KEY_INPUT] = fingerprint(str(value or ""))
            elif key == router_access.KEYS:
                judged.problems += [one.on(name) for one in key_problems(plain(value))]
                # How many there are, and not what they are.
                values[key] = [{}] * len(value) if isinstance(value, (list, tuple)) else bool(value)
            elif key in BLOCK_TIMES and value == block_times.EC2:
                found = block_times.moment(variables, name, key)
                values[key] = None if found is None else found.isoformat()
            elif key == TOPOLOGY_FACT or not _is_result(value):
                values[key] = plain(value)
        except TooLargeError as error:
            problems.append(Problem(name, key, None, str(error), "say less: aliases of YAML multiply"))
        except block_times.EndError as error:
            problems.append(Problem(name, key, value, str(error), "mend it, or write the time by hand"))
        except Exception as error:  # noqa: BLE001 - whatever a template can raise is the variable's problem, not ours
            told = " ".join(str(error).split())[:TOLD_CHARACTERS] or type(error).__name__
            problems.append(Problem(name, key, None, "cannot be templated: %s" % told, "define what it refers to"))
    return values


def _is_read(key: Any, routes: bool) -> bool:
    """Tell whether a host's variable is one that the planner reads or judges; `routes`: the host balances."""
    if not isinstance(key, str) or key in LATE_VARIABLES:
        return False
    others = (
        ADDRESS,
        KEY_VARIABLE,
        FURTHER,
        FURTHER_MONITORS,
        *JUDGED_OF_ROLES,
        *(router_access.VARIABLES if routes else ()),
    )
    return key in others or key.startswith(PREFIX)


def fingerprint(key: str) -> str:
    """Return what tells one key from another; empty for no key."""
    return hashlib.sha256(b"trainyard replica key " + key.encode()).hexdigest()[:8] if key else ""


class TooLargeError(ValueError):
    """Data has more in it than any settings; the message says what."""


def plain(value: Any) -> Any:
    """Return data as Python's own types: no lazy templates, no tagged strings, tuples as lists, nothing shared.

    Raises:
        TooLargeError: it is nested deeper or has more values than any settings; aliases of YAML count as written out.
    """
    return _Plain().read(value, 0)


class _Plain:
    """One walk through a value, which counts what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def read(self, value: Any, depth: int) -> Any:
        self.seen += 1
        if depth > MOST_DEPTH:
            raise TooLargeError("is nested deeper than %d" % MOST_DEPTH)
        if self.seen > MOST_VALUES:
            raise TooLargeError("has more than %d values" % MOST_VALUES)
        if isinstance(value, Mapping):
            return {self._key(key): self.read(value[key], depth + 1) for key in value}
        if isinstance(value, (list, tuple)):
            return [self.read(item, depth + 1) for item in value]
        return self._one(value)

    def _key(self, key: Any) -> Any:
        return str(key) if isinstance(key, tuple) else self._one(key)

    def _one(self, value: Any) -> Any:
        if isinstance(value, bool) or value is None or isinstance(value, date):
            return value
        if isinstance(value, str) and len(value) > MOST_CHARACTERS:
            raise TooLargeError("has a text of more than %d characters" % MOST_CHARACTERS)
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise TooLargeError("has a number of more than %d bits" % MOST_BITS)
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind(value)
        return str(value)
