# SPDX-License-Identifier: Apache-2.0
"""From an inventory's variables to the planner's input: only what is the planner's, as plain data."""

from __future__ import absolute_import, annotations, division, print_function

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan import router_access
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.deployment import PREFIX as DEPLOYMENT
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.reach import FURTHER, FURTHER_MONITORS

__metaclass__ = type

#: What the planner is given of a host: every variable of the toolkit, and where the host is reached.
PREFIX, ADDRESS = "trainyard_", "ansible_host"

#: The one variable of a role that a release depends on: replicas read the key when they start. The planner is given
#: the beginning of a digest of it, by which a changed key is seen and no key can be told.
KEY_VARIABLE, KEY_INPUT = "vllm_endpoint_api_key", "credentials"

#: The variable that `trainyard.neuron.topology_info` is registered as.
TOPOLOGY_FACT = "trainyard_topology"


def fleet_input(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    routers: Iterable[str],
    model_configs: str = "",
    clients: Iterable[str] = (),
) -> Dict[str, Any]:
    """Collect what `plan_fleet` reads.

    Args:
        hostvars: variables of all hosts, by host; values may be templated on access.
        hosts: names of the hosts that serve.
        routers: names of the hosts that balance.
        model_configs: directory with `<repo>/<revision>/config.json` of checkpoints, empty for none.
        clients: names of the hosts that send load.

    Raises:
        PlanError: variables that cannot be templated, all of them.
    """
    problems: List[Problem] = []
    router_names, client_names = list(routers), list(clients)
    found = {name: _variables(hostvars, name, problems, name in router_names) for name in hosts}
    beside = [name for name in dict.fromkeys(router_names + client_names) if name not in found]
    extra = {name: _variables(hostvars, name, problems, name in router_names) for name in beside}
    if problems:
        raise PlanError(problems)
    topologies = {name: _topology(values.pop(TOPOLOGY_FACT, None)) for name, values in found.items()}
    topologies = {name: topology for name, topology in topologies.items() if topology}
    return {
        "hosts": found,
        "routers": router_names,
        "clients": client_names,
        "topologies": topologies,
        "other_variables": extra,
        "model_configs": read_model_configs(model_configs, models_of(found.values())) if model_configs else {},
    }


def models_of(hosts: Iterable[Mapping[str, Any]]) -> List[Tuple[str, str]]:
    """Return repository and revision of every model that some hosts' variables name, each once."""
    found = set()
    for values in hosts:
        for key, value in values.items():
            model = value.get("model") if key.startswith(DEPLOYMENT) and isinstance(value, Mapping) else None
            if isinstance(model, Mapping) and all(isinstance(model.get(part), str) for part in ("repo", "revision")):
                found.add((str(model["repo"]), str(model["revision"])))
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
            found["%s@%s" % (repo, revision)] = json.loads(text)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
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


def _variables(
    hostvars: Mapping[str, Mapping[str, Any]], name: str, problems: List[Problem], routes: bool
) -> Dict[str, Any]:
    if name not in hostvars:
        problems.append(Problem("", "hosts", name, "is no host of the inventory", "correct the name"))
        return {}
    values: Dict[str, Any] = {}
    others = (ADDRESS, KEY_VARIABLE, FURTHER, FURTHER_MONITORS) + (router_access.VARIABLES if routes else ())
    # Ansible puts a host's variables together anew each time that they are asked for.
    variables = hostvars[name]
    for key in sorted(variables):
        if key not in others and not key.startswith(PREFIX):
            continue
        try:
            value = variables[key]
            if key == KEY_VARIABLE:
                values[KEY_INPUT] = fingerprint(str(value or ""))
            elif key == router_access.KEYS:
                # How many there are, and not what they are.
                values[key] = [{}] * len(value) if isinstance(value, (list, tuple)) else bool(value)
            elif key == TOPOLOGY_FACT or not _is_result(value):
                values[key] = plain(value)
        except Exception as error:  # noqa: BLE001 - whatever a template can raise is the variable's problem, not ours
            rule = "cannot be templated: %s" % " ".join(str(error).split())
            problems.append(Problem(name, key, None, rule, "define what it refers to"))
    return values


def fingerprint(key: str) -> str:
    """Return what tells one key from another; empty for no key."""
    return hashlib.sha256(b"trainyard replica key " + key.encode()).hexdigest()[:8] if key else ""


def plain(value: Any) -> Any:
    """Return data as Python's own types: no lazy templates, no tagged strings, tuples as lists."""
    if isinstance(value, Mapping):
        return {plain(key): plain(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
