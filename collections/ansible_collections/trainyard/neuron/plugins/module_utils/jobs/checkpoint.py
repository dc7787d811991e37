# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository are the checkpoint, and whether the checkpoint is whole.

Beside its safetensors a repository may hold the same weights again in other formats, files that run code when they are
loaded, and the authors' own programs. What is not wanted is not fetched; what was fetched is looked at before it gets
its manifest, since a shard that is missing or cut is otherwise found hours later, by a compile or by a reader.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
import struct
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Set, Tuple

from . import names

#: What a deployment may allow of its checkpoint: files that run code when they are loaded, and programs in it.
PICKLE, REMOTE_CODE = "pickle", "remote_code"

SAFETENSORS = ".safetensors"

#: Formats whose loading runs what is in them. Source: the documentation of Python's pickle and of `torch.load`.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")

#: Programs that `trust_remote_code` would run, and what they would load.
PROGRAMS = (".py", ".pyc", ".so")

#: The same weights for other engines. Sources: the files of google-bert/bert-base-uncased, openai/gpt-oss-20b,
#: mistralai/Mistral-7B-Instruct-v0.3 and meta-llama/Llama-3.3-70B-Instruct on their hub.
OTHER_FORMATS = (".gguf", ".ggml", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel", ".llamafile")
OTHER_FOLDERS = ("original", "metal", "onnx", "coreml", "openvino", "mlx", "gguf", "tf", "flax")

#: The one-file form that some authors publish beside the shards.
CONSOLIDATED = "consolidated*"

#: What the shards of a checkpoint are called, and how many there are.
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")

#: First line of a file whose content is elsewhere. Source: the specification of Git LFS.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

#: Longest header, bytes. Source: `MAX_HEADER_SIZE` of the format's own library.
HEADER_BYTES = 100_000_000

#: Bits of an element. Source: the format's own library; what is not here is not compared.
ELEMENT_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}

#: How many problems a message lists.
TOLD = 5


class UnwantedError(Exception):
    """A repository that holds no checkpoint which may be served; says what it holds and what would allow it."""


def select(listed: Iterable[str], exclude: Sequence[str], trust: Sequence[str]) -> Tuple[List[str], Dict[str, str]]:
    """Return the files of a repository that are the checkpoint, and those that are left out with the reason.

    Args:
        listed: all files of the repository.
        exclude: globs of files that are left out anyway; `*` crosses folders.
        trust: what the deployment allows, of `PICKLE` and `REMOTE_CODE`.

    Raises:
        UnwantedError: it holds no weights, or only some that it is not allowed to load.
    """
    found = sorted(listed)
    out = {name: "model_weights_exclude" for name in found if any(fnmatch.fnmatch(name, glob) for glob in exclude)}
    rest = [name for name in found if name not in out]
    safe = [name for name in rest if name.endswith(SAFETENSORS) and name.split("/")[0] not in OTHER_FOLDERS]
    shards = [name for name in safe if not _is_consolidated(name)]
    for name in rest:
        if safe and _is_copy(name):
            out[name] = "the weights again, in another format"
        elif shards and _is_consolidated(name) and name.endswith((SAFETENSORS, ".json", *PICKLES)):
            out[name] = "the weights again, in one file"
        elif name.endswith(PROGRAMS) and REMOTE_CODE not in trust:
            out[name] = "a program (remote_code is not in model.trust)"
    kept = [name for name in rest if name not in out]
    pickles = [name for name in kept if name.endswith(PICKLES)]
    if pickles and PICKLE not in trust:
        raise UnwantedError(
            f"its weights are pickles ({_some(pickles)}), which run code when they are loaded. Take a revision with "
            "safetensors, or allow it for this checkpoint: model.trust: [pickle]"
        )
    if not safe and not pickles:
        others = [name for name in kept if name.endswith(OTHER_FORMATS)]
        held = f"only {_some(others)}, which no release of the SDK reads" if others else f"only {_some(kept)}"
        raise UnwantedError(f"it holds no weights: no safetensors file, {held if kept else 'and no other'}")
    return kept, out


def _is_copy(name: str) -> bool:
    index = name.endswith(tuple(f"{suffix}.index.json" for suffix in (".bin", ".pt", ".h5", ".msgpack")))
    return index or name.endswith((*PICKLES, *OTHER_FORMATS)) or name.split("/")[0] in OTHER_FOLDERS


def _is_consolidated(name: str) -> bool:
    return fnmatch.fnmatch(name.rsplit("/", 1)[-1], CONSOLIDATED)


def _some(found: Sequence[str]) -> str:
    more = f" and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return ", ".join(names.shown(name).strip("'") for name in found[:TOLD]) + more


def problems(root: Path, files: Sequence[str]) -> List[str]:
    """Return what is missing or cut of the checkpoint in a directory; empty when it is whole.

    Args:
        root: the directory.
        files: names of its files.
    """
    wrong = [f"{name}: a Git LFS pointer, its content was not fetched" for name in files if _is_pointer(root / name)]
    pointers = {line.split(": ", 1)[0] for line in wrong}
    tensors: Dict[str, Set[str]] = {}
    for name in files:
        if name.endswith(SAFETENSORS) and name not in pointers:
            try:
                tensors[name] = set(header(root / name))
            except ValueError as error:
                wrong.append(f"{name}: {error}")
    broken = {line.split(": ", 1)[0] for line in wrong}
    for name in files:
        if name.endswith(f"{SAFETENSORS}.index.json") and name not in pointers:
            wrong += [f"{name}: {why}" for why in _index_problems(root / name, name, set(files), tensors, broken)]
    return wrong + _missing_numbers(files)


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def header(path: Path) -> Dict[str, Any]:
    """Return the tensors that a safetensors file says it holds, by name.

    Raises:
        ValueError: it is no such file, or shorter or longer than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        if len(first) < 8:
            raise ValueError(f"no safetensors file, it has {size} bytes")
        (length,) = struct.unpack("<Q", first)
        if length > HEADER_BYTES:
            raise ValueError("no safetensors file, it does not begin with the length of a header")
        text = stream.read(length)
    if len(text) < length:
        raise ValueError(f"cut within its header: {size} bytes, the header alone has {length}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("no safetensors file, its header is no JSON") from error
    if not isinstance(document, dict):
        raise ValueError("no safetensors file, its header is no JSON object")
    tensors = {name: entry for name, entry in document.items() if name != "__metadata__"}
    end = max((_end_of(name, entry) for name, entry in tensors.items()), default=0)
    if size != 8 + length + end:
        kind = "cut" if size < 8 + length + end else "longer than its header says"
        raise ValueError(f"{kind}: {size} bytes, its header speaks of {8 + length + end}")
    return tensors


def _end_of(name: str, entry: Any) -> int:
    """Return where a tensor ends, bytes behind the header.

    Raises:
        ValueError: the header says it in no form that the format has, or it has another size than its shape.
    """
    try:
        begin, end = entry["data_offsets"]
        shape, bits = [int(length) for length in entry["shape"]], ELEMENT_BITS.get(entry["dtype"])
        sound = 0 <= begin <= end and all(length >= 0 for length in shape)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"its header is wrong about {names.shown(name)}") from error
    if not sound or (bits and math.prod(shape) * bits != (end - begin) * 8):
        raise ValueError(f"its header is wrong about {names.shown(name)}")
    return int(end)


def _index_problems(
    path: Path, index: str, files: Set[str], tensors: Dict[str, Set[str]], broken: Set[str]
) -> List[str]:
    """Return what an index names and is not there: shards, and tensors in the shards that are."""
    try:
        placed = json.loads(path.read_bytes())["weight_map"]
        if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
            raise TypeError("weight_map is no mapping of tensors to files")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"no index of shards ({type(error).__name__}: {error})"]
    folder = index.rpartition("/")[0]
    wrong = []
    by_shard: Dict[str, Set[str]] = {}
    for tensor, shard in placed.items():
        by_shard.setdefault(shard, set()).add(tensor)
    for shard, wanted in sorted(by_shard.items()):
        name = f"{folder}/{shard}" if folder else shard
        if names.fault(shard):
            wrong.append(f"it names {names.shown(shard)}, which is refused: {names.fault(shard)}")
        elif name not in files:
            wrong.append(f"it names {shard}, which is not there")
        elif name not in broken and name in tensors and wanted - tensors[name]:
            lacking = sorted(wanted - tensors[name])
            wrong.append(f"{shard} lacks {len(lacking)} tensor(s) that it names, for example {names.shown(lacking[0])}")
    return wrong


def _missing_numbers(files: Sequence[str]) -> List[str]:
    """Return which numbers are missing of shards that say in their names how many there are."""
    sets: Dict[Tuple[str, int], Set[int]] = {}
    for match in filter(None, map(SHARD.fullmatch, files)):
        sets.setdefault((match["stem"], int(match["count"])), set()).add(int(match["number"]))
    wrong = []
    for (stem, count), there in sorted(sets.items()):
        gone = next((number for number in range(1, count + 1) if number not in there), None)
        if gone is not None:
            wrong.append(f"{stem}-{gone:05d}-of-{count:05d}{SAFETENSORS}: not there ({len(there)} of {count} are)")
    return wrong


def own_code(root: Path) -> List[str]:
    """Return the programs that a checkpoint's config.json asks for (`auto_map`), empty for none."""
    try:
        wanted = json.loads((root / "config.json").read_bytes()).get("auto_map")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return sorted(str(value) for value in wanted.values()) if isinstance(wanted, dict) else []
