# SPDX-License-Identifier: Apache-2.0
"""Which names of a model a benchmark's requests ask for: a run for each mix of them."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import served_names

#: Fields of a deployment's `benchmark` that the planner reads itself; the others are the load as it stands.
LOAD_HOSTS, MIXES, MODELS = "load_hosts", "adapter_mixes", "models"
NOT_SENT = (LOAD_HOSTS, MIXES, MODELS)

#: A run's name names no more names than this; the rest is counted.
LABELLED = 3


def of_deployment(deployment: Deployment) -> Tuple[Tuple[str, ...], ...]:
    """Return the names of each run's requests; an empty mix is the model's own name.

    An adapter costs time that the model alone does not, so a model with adapters is measured both ways.
    """
    load = deployment.benchmark
    if load.get(MODELS):
        return (tuple(load[MODELS]),)
    asked = load.get(MIXES)
    if asked is not None:
        return tuple(tuple(mix) for mix in asked) or ((),)
    adapters = tuple(adapter.name for adapter in deployment.lora.adapters) if deployment.lora else ()
    return ((), adapters) if adapters else ((),)


def label_of(deployment: str, mix: Sequence[str]) -> str:
    """Return what a run is called after: the deployment, and the names that its requests ask for."""
    names = list(dict.fromkeys(mix))
    more = ["%d-more" % (len(names) - LABELLED)] if len(names) > LABELLED else []
    return "-".join([deployment, *names[:LABELLED], *more])


def runs_of(found: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Return a run for each mix of a deployment; the argument is what they have in common, with its `mixes`."""
    common = {name: value for name, value in found.items() if name != "mixes"}
    runs = []
    for index, mix in enumerate(found["mixes"]):
        load = {**common["load"], MODELS: list(mix)} if mix else common["load"]
        runs.append({**common, "mix": index, "label": label_of(common["deployment"], mix), "load": load})
    return runs


def mix_problems(deployment: Deployment, where: str) -> List[Problem]:
    """Return the names in a benchmark that the deployment does not serve, each with the nearest that it does."""
    known, load = served_names(deployment), deployment.benchmark
    asked = [("%s[%d]" % (MODELS, at), name) for at, name in enumerate(load.get(MODELS) or ())]
    for index, mix in enumerate(load.get(MIXES) or ()):
        asked += [("%s[%d][%d]" % (MIXES, index, at), name) for at, name in enumerate(mix)]
    rule = "is no name that %s is served by" % deployment.name
    return [
        Problem(
            "",
            "%s.benchmark.%s" % (where, path),
            name,
            rule,
            did_you_mean(name, known) or "use %s" % " or ".join(known[:5]),
        )
        for path, name in asked
        if name not in known
    ]
