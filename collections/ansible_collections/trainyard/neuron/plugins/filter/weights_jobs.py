# SPDX-License-Identifier: Apache-2.0
"""The filter `weights_jobs`: the plan's checkpoints as jobs of `trainyard.neuron.jobs`."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

DOCUMENTATION = r"""
name: weights_jobs
short_description: Checkpoints of the plan as jobs of trainyard.neuron.jobs
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Turns each checkpoint of a host's plan into the job that brings it there.
options:
  _input:
    description: The checkpoints, as the plan lists them (id, repo, revision, source, uri, path, and trust where any).
    type: list
    elements: dict
    required: true
  exclude:
    description: Files that are left out, as globs.
    type: list
    elements: str
    default: []
  endpoint:
    description: Address of the model hub, empty for the public one.
    type: str
    default: ""
  max_workers:
    description: Files fetched at the same time.
    type: int
    default: 8
  fan_out:
    description: Sources that are asked once for the fleet; the other hosts ask one another.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
jobs: "{{ models | trainyard.neuron.weights_jobs(exclude=['original/*']) }}"
"""

RETURN = r"""
_value:
  description: One job a checkpoint.
  type: list
  elements: dict
"""


def weights_jobs(
    models: List[Dict[str, Any]],
    exclude: Optional[List[str]] = None,
    endpoint: str = "",
    max_workers: int = 8,
    fan_out: Optional[List[str]] = None,
) -> List[Dict[str, Any]]:
    """Return one job for each checkpoint; its inputs are what a second run compares."""
    return [
        {
            "kind": "weights",
            "id": model["id"],
            "path": model["path"],
            "inputs": {
                "repo": model["repo"],
                "revision": model["revision"],
                "source": model["source"],
                "uri": model.get("uri"),
                "exclude": list(exclude or []),
                **({"trust": model["trust"]} if model.get("trust") else {}),
            },
            "spec": {
                "endpoint": endpoint,
                "max_workers": max_workers,
                **({"sender": model.get("sender")} if model["source"] in (fan_out or []) else {}),
            },
        }
        for model in models
    ]


class FilterModule:
    """Registers the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"weights_jobs": weights_jobs}
