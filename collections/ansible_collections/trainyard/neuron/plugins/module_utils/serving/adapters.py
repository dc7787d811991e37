# SPDX-License-Identifier: Apache-2.0
"""Adapters that a replica serves from its start: whether they fit its artifact, and how NxDI is told where they are.

NxDI takes the directories of adapters from the artifact's own ``neuron_config.json`` and from nowhere else, while the
graphs know of no adapter but its rank and layers. An artifact never changes, so a start shows its server a view of it:
links to everything, and a configuration with the adapters of this release. Another adapter is a restart, no compile.
Standard library only, since hosts run it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

from .agreement import ADAPTERS, settings_of
from .settings import Replica, ServingError

ARTIFACT_VARIABLE = "NEURON_COMPILED_ARTIFACTS"
CONFIGURATION = "neuron_config.json"
ADAPTER = "adapter_config.json"
MOST_BYTES = 1 << 20


def view_of(replica: Replica) -> Path:
    """Return where a replica's view of its artifact is."""
    return replica.scratch / "artifact"


def make_view(replica: Replica) -> Path:
    """Make a replica's view of its artifact anew, and return where it is.

    Raises:
        ServingError: the artifact's configuration cannot be read, or has nothing of adapters.
    """
    artifact, view = Path(replica.artifact_path), view_of(replica)
    made = _read(artifact / CONFIGURATION)
    given = settings_of(made).get(ADAPTERS)
    if not isinstance(given, dict):
        raise ServingError("the artifact {0} was compiled without adapters; run the compile playbook".format(artifact))
    names = list(replica.adapters)
    first = names[: int(given.get("max_loras") or len(names))]
    given["lora_ckpt_json"] = None
    given["lora_ckpt_paths"] = {name: replica.adapters[name] for name in first}
    given["lora_ckpt_paths_cpu"] = dict(replica.adapters) if given.get("dynamic_multi_lora") else {}
    shutil.rmtree(str(view), ignore_errors=True)
    view.mkdir(parents=True)
    for path in sorted(artifact.iterdir()):
        if path.name != CONFIGURATION:
            (view / path.name).symlink_to(path)
    (view / CONFIGURATION).write_text(json.dumps(made, indent=4) + "\n", encoding="utf-8")
    return view


def problems(replica: Replica) -> List[str]:
    """Return why a replica's adapters do not fit what was compiled for them, a sentence each.

    NxDI takes an adapter's larger rank or other layers for the model's own, and has other graphs then.
    """
    if not replica.adapters:
        return []
    wanted = (replica.compiled or {}).get(ADAPTERS) or {}
    rank, modules = wanted.get("max_lora_rank"), wanted.get("target_modules")
    found = []
    for name in sorted(replica.adapters):
        path = Path(replica.adapters[name])
        try:
            made = _read(path / ADAPTER)
        except ServingError as error:
            found.append("the adapter {0}: {1}; run the provision playbook".format(name, error))
            continue
        own, layers = made.get("r"), made.get("target_modules")
        if isinstance(own, int) and isinstance(rank, int) and own > rank:
            said = "the adapter {0} has rank {1}, and {2} was compiled in: raise lora.max_rank, and compile"
            found.append(said.format(name, own, rank))
        if isinstance(layers, list) and isinstance(modules, (list, tuple)):
            more = sorted(str(layer) for layer in layers if layer not in modules)
            if more:
                said = (
                    "the adapter {0} changes {1}, which is not compiled in: name it in lora.target_modules, and compile"
                )
                found.append(said.format(name, ", ".join(more)[:200]))
    return found


def _read(path: Path) -> Dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ServingError("{0} cannot be read ({1})".format(path, error)) from error
    if not isinstance(found, dict):
        raise ServingError("{0} holds no settings by name".format(path))
    return found
