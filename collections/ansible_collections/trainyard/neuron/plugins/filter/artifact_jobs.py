# SPDX-License-Identifier: Apache-2.0
"""The filter `artifact_jobs`: the plan's artifacts as jobs of `trainyard.neuron.jobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import compiler, manifest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import oci

DOCUMENTATION = r"""
name: artifact_jobs
short_description: Artifacts of the plan as jobs of trainyard.neuron.jobs
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Turns the artifacts of a host's plan into jobs. The host that the plan elected for a digest compiles it, all
    others fetch it, from the store or, where the fleet has none, from one another.
options:
  _input:
    description: The artifacts, as the plan lists them.
    type: list
    elements: dict
    required: true
  host:
    description: Name of this host in the plan.
    type: str
    required: true
  does:
    description: >-
      V(compile) gives the jobs of artifacts that this host was elected for, V(fetch) those of all others, V(store)
      those of all, which compile none.
    type: str
    choices: [compile, fetch, store]
    required: true
  store:
    description: Where the fleet keeps artifacts, C(s3://bucket/prefix) or an absolute path; empty for nowhere.
    type: str
    default: ""
  container_engine:
    description: What runs the image of artifacts with the runtime V(container).
    type: str
    choices: [podman, docker]
    default: podman
  store_endpoint:
    description: Address of the S3 service, empty for the environment's.
    type: str
    default: ""
  network:
    description: What a compiler in a container reaches. V(none) is nothing, unless it is a server that has to answer.
    type: str
    choices: [none, no_metadata, full]
    default: none
"""

EXAMPLES = r"""
jobs: "{{ artifacts | trainyard.neuron.artifact_jobs(host=inventory_hostname, does='compile') }}"
"""

RETURN = r"""
_value:
  description: One job an artifact.
  type: list
  elements: dict
"""

#: What of a plan's artifact its job needs to know.
SPEC_KEYS = ("argv", "environment", "mode", "work_dir", "generation", "compile_host", "weights", "weights_path")

#: The same, where there is something of it.
SPEC_KEYS_IF_SAID = ("more_weights", "files")

#: Variables that the job sets itself.
_OF_THE_JOB = ("BASE_COMPILE_WORK_DIR", "HOME")


def _in_its_container(artifact: Dict[str, Any], engine: str, network: str) -> Dict[str, Any]:
    """Return the artifact with the command line that compiles it in its image; as it is where it has none."""
    if artifact["runtime"] != "container":
        return artifact
    # The artifact's own half-made directory and none beside it.
    staging = str(manifest.staging_of(Path(artifact["path"])))
    read = [artifact["weights_path"], *(more["path"] for more in artifact.get("more_weights") or ())]
    volumes = [*((path, "ro") for path in read), (staging, "rw"), (artifact["work_dir"], "rw")]
    name = "trainyard-artifact-" + artifact["digest"][:12]
    passed = sorted({*artifact["environment"], *_OF_THE_JOB})
    options = ["--user", compiler.USER_IDS]
    argv = list(oci.command(engine, name, artifact["image"], artifact["argv"], volumes, passed, options))
    if network == "none" and artifact.get("mode") != "warm_up":
        # Of a server that warms up, the job outside asks for its health.
        argv[argv.index("--network") + 1] = "none"
    return {**artifact, "argv": argv}


def artifact_jobs(
    artifacts: List[Dict[str, Any]],
    host: str,
    does: str,
    store: str = "",
    store_endpoint: str = "",
    container_engine: str = "podman",
    network: str = "none",
) -> List[Dict[str, Any]]:
    """Return the jobs of the artifacts that `host` compiles, of those that it fetches, or of all, to be stored.

    Raises:
        ValueError: `does` is something else.
    """
    if does not in ("compile", "fetch", "store"):
        raise ValueError(f"does is {does!r}, not compile, fetch or store")
    return [
        {
            "kind": "artifact",
            "id": artifact["digest"],
            "path": artifact["path"],
            "inputs": artifact["inputs"],
            "spec": {
                **{key: artifact.get(key) for key in SPEC_KEYS},
                **{key: artifact[key] for key in SPEC_KEYS_IF_SAID if artifact.get(key)},
                # What is there is stored by either; one that is not there must not be compiled to be kept.
                "does": "fetch" if does == "store" else does,
                "store": store,
                "store_endpoint": store_endpoint,
                **({} if store else {"sender": artifact.get("sender")}),
            },
        }
        for artifact in (_in_its_container(artifact, container_engine, network) for artifact in artifacts)
        if does == "store" or (artifact["compile_host"] == host) == (does == "compile")
    ]


class FilterModule:
    """Registers the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"artifact_jobs": artifact_jobs}
