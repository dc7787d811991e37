# SPDX-License-Identifier: Apache-2.0
"""Whether what a server is asked to do is what its artifact was compiled for.

The NxDI engines load any artifact and then *ignore* what differs, compile again in silence, or fail at the first
request. So every setting that the plan had compiled in, and those that it had not, are compared with the artifact's
``neuron_config.json`` before anything is started, and the server's arguments as well. The native engine's cache has no
such file, and a start that finds nothing in it compiles for a long time: its settings are in the artifact's manifest.
The plan makes sure of the same by the artifact's digest; this catches an artifact that is not what its name says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

COMPILED_GENERATIONS = ("nxdi_v0", "nxdi_v1")

MANIFEST = "manifest.json"
#: No manifest is larger, bytes: it has a line for each file of a cache.
MANIFEST_BYTES = 256 << 20

SAMPLING, ADAPTERS = "on_device_sampling_config", "lora_config"

#: What on-device sampling is where the configuration does not say.
SAMPLING_DEFAULTS: Mapping[str, Any] = {
    "do_sample": False,
    "dynamic": False,
    "top_k": 1,
    "top_p": 1.0,
    "temperature": 1.0,
    "global_topk": 256,
}

#: What of adapters an artifact may have more of than is asked for: NxDI raises rank and layers to a checkpoint's.
_ROOM = ("max_loras", "max_lora_rank", "max_cpu_loras", "target_modules")


def _equal(asked: str, made: Any) -> bool:
    return asked == str(made)


def _at_most(asked: str, made: Any) -> bool:
    return int(asked) <= int(made)


def _same_type(asked: str, made: Any) -> bool:
    return asked == str(made).replace("torch.", "")


# vLLM flag, the setting it has to agree with, how, and in words.
CHECKS: Tuple[Tuple[str, str, Callable[[str, Any], bool], str], ...] = (
    ("tensor-parallel-size", "tp_degree", _equal, "equal"),
    ("max-num-seqs", "batch_size", _equal, "equal"),
    ("max-model-len", "seq_len", _at_most, "at most"),
    ("dtype", "torch_dtype", _same_type, "equal"),
    ("block-size", "pa_block_size", _equal, "equal"),
)


def flags(argv: Sequence[str]) -> Dict[str, str]:
    """Long options with their values; an option without one has an empty text."""
    found: Dict[str, str] = {}
    for index, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        name, sign, value = word[2:].partition("=")
        following = argv[index + 1] if index + 1 < len(argv) else ""
        found[name] = value if sign else ("" if following.startswith("--") else following)
    return found


def disagreements(argv: Sequence[str], environment: Mapping[str, str], made: Mapping[str, Any]) -> List[str]:
    """What of a command line an artifact was not made for, a sentence each.

    Args:
        argv: the server's command line.
        environment: its environment.
        made: the artifact's ``neuron_config.json``, as parsed.
    """
    settings = settings_of(made)
    asked = flags(argv)
    found = []
    for flag, setting, agrees, how in CHECKS:
        if flag not in asked or settings.get(setting) is None:
            continue
        try:
            good = agrees(asked[flag], settings[setting])
        except (ValueError, TypeError, OverflowError):
            good = False
        if not good:
            said = "--{0} {1}, but the artifact's {2} is {3} ({4} is wanted)"
            found.append(said.format(flag, asked[flag], setting, settings[setting], how))
    lnc = environment.get("NEURON_LOGICAL_NC_CONFIG")
    if lnc and settings.get("logical_nc_config") not in (None, int(lnc)):
        found.append("LNC {0}, but the artifact was made for {1}".format(lnc, settings["logical_nc_config"]))
    return found


def settings_of(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's settings in a ``neuron_config.json``, which has them below the model's or alone."""
    nested = made.get("neuron_config")
    return nested if isinstance(nested, Mapping) else made


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[Tuple[str, Any, Any]]:
    """Name, compiled value and wanted value of each setting in which an artifact is not what is to be served.

    A setting that the file does not mention is not judged.

    Args:
        made: the artifact's ``neuron_config.json``, as parsed.
        wanted: every setting that serving depends on, in the file's words (`plan.artifact.expected`).
    """
    settings = settings_of(made)
    found: List[Tuple[str, Any, Any]] = []
    for name in sorted(wanted):
        if name not in settings:
            continue
        if name == SAMPLING:
            found += _inside(name, settings[name], wanted[name], SAMPLING_DEFAULTS)
        elif name == ADAPTERS:
            found += _inside(name, settings[name], wanted[name], {})
        elif not _same(settings[name], wanted[name]):
            found.append((name, settings[name], wanted[name]))
    return found


def _inside(name: str, made: Any, wanted: Any, defaults: Mapping[str, Any]) -> List[Tuple[str, Any, Any]]:
    """The same of a setting with settings of its own, which is null where it is off."""
    if not isinstance(made, Mapping) or not isinstance(wanted, Mapping):
        is_off = made in (None, False, {}) or made is None
        return [] if is_off and wanted is None else [(name, made, wanted)]
    found = []
    for key in sorted({*defaults, *wanted}):
        if key not in defaults and key not in made:
            continue
        here, there = made.get(key, defaults.get(key)), wanted.get(key, defaults.get(key))
        if not (key in _ROOM and _has_room(here, there)) and not _same(here, there):
            found.append(("%s.%s" % (name, key), here, there))
    return found


def _has_room(made: Any, wanted: Any) -> bool:
    """Whether an artifact has at least what is wanted: as large a number, or each item of a list."""
    if isinstance(made, list) and isinstance(wanted, (list, tuple)):
        return set(map(str, wanted)) <= set(map(str, made))
    return isinstance(made, int) and isinstance(wanted, int) and made >= wanted


def _same(made: Any, wanted: Any) -> bool:
    """Whether two settings mean the same; NxDI writes off as false or null, and dtypes with their module."""
    if not made and not wanted:
        return True
    if isinstance(made, str) and isinstance(wanted, str):
        return made.rsplit(".", 1)[-1] == wanted.rsplit(".", 1)[-1]
    if isinstance(made, list) and isinstance(wanted, (list, tuple)):
        return sorted(made, key=str) == sorted(wanted, key=str)
    return bool(made == wanted)


def missing(artifact: Path, made: Optional[Mapping[str, Any]]) -> List[str]:
    """Files that a complete artifact has and this one has not.

    Args:
        artifact: its directory.
        made: its ``neuron_config.json``, None if there is none.
    """
    # The configuration is written first of all: it alone proves nothing.
    wanted = ["neuron_config.json", "model.pt"]
    settings = settings_of(made or {})
    if settings.get("save_sharded_checkpoint"):
        ranks = range(int(settings.get("tp_degree") or 0))
        wanted += ["weights/tp{0}_sharded_checkpoint.safetensors".format(rank) for rank in ranks]
    return [name for name in wanted if not (artifact / name).is_file()]


def problems(
    generation: str,
    artifact: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    compiled: Optional[Mapping[str, Any]] = None,
) -> List[str]:
    """Why a server must not be started on an artifact; empty if it may.

    Args:
        generation: the plan's word.
        artifact: the artifact's directory.
        argv: the server's command line.
        environment: its environment.
        compiled: every setting that serving depends on, as the plan had it compiled.
    """
    if not artifact:
        return []
    path = Path(artifact)
    if generation not in COMPILED_GENERATIONS:
        return _cache_problems(path, compiled or {})
    try:
        made: Optional[Dict[str, Any]] = json.loads((path / "neuron_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        made = None
    except (OSError, ValueError) as error:
        return ["its neuron_config.json cannot be read: {0}".format(error)]
    gaps = missing(path, made)
    if gaps:
        shown = ", ".join(gaps[:3]) + (" and {0} more".format(len(gaps) - 3) if len(gaps) > 3 else "")
        return ["it is incomplete, {0} is missing".format(shown)]
    found = disagreements(argv, environment, made or {})
    for name, here, there in differences(made or {}, compiled or {}):
        said = "{0} of the artifact is {1}, and the plan had {2} compiled"
        found.append(said.format(name, _words(here), _words(there)))
    return found


def _cache_problems(artifact: Path, wanted: Mapping[str, Any]) -> List[str]:
    """The same of a cache of graphs, by the settings that its manifest says it was made with."""
    if not wanted:
        return []
    try:
        with (artifact / MANIFEST).open("rb") as file:
            described = json.loads(file.read(MANIFEST_BYTES))
        made = described["inputs"]["settings"]
    except FileNotFoundError:
        return ["it is incomplete, {0} is missing".format(MANIFEST)]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        return ["its {0} cannot be read: {1}".format(MANIFEST, error)]
    here, there = _flat(made), _flat(wanted)
    found = []
    for name in sorted({*here, *there}):
        if name not in there:
            found.append("{0} of the artifact is {1}, and the plan has none".format(name, _words(here[name])))
        elif name not in here:
            found.append("the artifact has no {0}, and the plan had {1} compiled".format(name, _words(there[name])))
        elif here[name] != there[name]:
            said = "{0} of the artifact is {1}, and the plan had {2} compiled"
            found.append(said.format(name, _words(here[name]), _words(there[name])))
    return found


def _flat(settings: Any, within: str = "") -> Dict[str, Any]:
    """Settings within settings by one name each, with dots between; one that is empty is a setting as well."""
    if not isinstance(settings, Mapping) or not settings:
        return {within: settings}
    found: Dict[str, Any] = {}
    for name, value in settings.items():
        found.update(_flat(value, "{0}.{1}".format(within, name) if within else str(name)))
    return found


def _words(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)[:200]
