# SPDX-License-Identifier: Apache-2.0
"""What a compiled model is: the inputs that make it, their digest, and what an existing one disagrees with."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import SdkRelease
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.rendering import (
    compiled_settings,
    generation_of,
    model_type_of,
)

#: Raised whenever the form of the inputs changes, so that an old artifact is never taken for a new one.
INPUTS_VERSION = 1

#: Variables that reach the compiler; the others of a deployment tune the runtime, the server or the hub's client.
_COMPILER_VARIABLE = re.compile(
    r"XLA_\w+|NEURON_CC_FLAGS|UNSAFE_FP8FNCAST|DISABLE_NUMERIC_CC_TOKEN|NEURON_FUSE_\w+|VLLM_NEURON_BACKEND"
)


def artifact_inputs(deployment: Deployment, release: SdkRelease, logical_nc_config: int, family: str) -> Dict[str, Any]:
    """Return everything that changes the compiled model, and nothing else.

    Two deployments that differ in name, port, data parallelism, host, or in how their servers answer get the same
    inputs. What is compiled depends on the weights (shapes, and where they are sharded, their values), on the
    compiler and the library that traces the model, on the accelerator, and on the engine's settings.

    Args:
        deployment: what is compiled.
        release: the SDK row that compiles it.
        logical_nc_config: LNC it will run with.
        family: accelerator, `trn1`, `inf2`, `trn2` or `trn3`.

    Returns:
        A JSON-ready dict.
    """
    generation = generation_of(release)
    settings = compiled_settings(deployment, release)
    environment = {**generation.compile_environment, **deployment.environment}
    return {
        "version": INPUTS_VERSION,
        "weights": {"repo": deployment.model.repo, "revision": deployment.model.revision},
        "model_type": model_type_of(deployment) if generation.compiler == "inference_demo" else None,
        "sdk": {
            "release": release.release,
            "generation": release.generation,
            "compiler": release.compiler,
            "nxdi": release.nxdi,
            "plugin": release.plugin if generation.compiler == "serve" else None,
        },
        "family": family,
        "logical_nc_config": logical_nc_config,
        "settings": settings if generation.compiler == "serve" else _without_off(settings),
        "environment": {
            name: str(environment[name]) for name in sorted(environment) if _COMPILER_VARIABLE.fullmatch(name)
        },
    }


def _without_off(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return settings without those that are off: `inference_demo` has no other way to be told so."""
    found = {}
    for key, value in settings.items():
        if value is None or value is False:
            continue
        found[key] = _without_off(value) if isinstance(value, dict) else value
    return found


def artifact_digest(inputs: Dict[str, Any]) -> str:
    """Return the name of the artifact that these inputs make: SHA-256 of their canonical JSON, 64 hex digits."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
