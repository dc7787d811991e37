# SPDX-License-Identifier: Apache-2.0
"""What the starts of planned replicas are forecast to take, for who has never seen them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Calibration
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import start_range
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import (
    NATIVE,
    NoForecastError,
    shape_of,
)


def models_in(hosts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return repository and revision of every model that hosts' parts of a plan serve, each once."""
    weights = [one["inputs"]["weights"] for part in hosts.values() for one in part["artifacts"]]
    return sorted({(one["repo"], one["revision"]) for one in weights})


def loads_of(
    hosts: Mapping[str, Mapping[str, Any]], calibration: Calibration, model_configs: Mapping[str, Any]
) -> dict[str, float]:
    """Return the seconds that each replica's start is forecast to take, by its id; none where nobody knows the model.

    Args:
        hosts: hosts' parts of a plan.
        calibration: the constants.
        model_configs: repo@revision -> config.json.
    """
    found = {}
    for part in hosts.values():
        inputs = {one["digest"]: one["inputs"] for one in part["artifacts"]}
        for replica in part["replicas"]:
            made_of = inputs[replica["artifact"]]
            try:
                shape = shape_of(made_of["weights"]["repo"], made_of["weights"]["revision"], model_configs)
            except NoForecastError:
                continue
            cut = bool(made_of["settings"].get("save_sharded_checkpoint")) or replica["generation"] == NATIVE
            found[replica["id"]] = start_range(shape.checkpoint_bytes, calibration, cut=cut).value
    return found
