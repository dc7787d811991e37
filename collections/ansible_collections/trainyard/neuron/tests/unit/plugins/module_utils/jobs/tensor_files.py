# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as small as a test needs them, in the format that readers take."""

from __future__ import annotations

import json
from collections.abc import Iterable

#: Headers are padded to a multiple of it, bytes.
HEADER_STEP = 256


def tensors(size: int, names: Iterable[str] = ("weight",), fill: bytes = b"\1") -> bytes:
    """Return a safetensors file of `size` bytes of elements, shared out evenly among tensors of bytes."""
    wanted = list(names)
    each = size // len(wanted)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for number, name in enumerate(wanted):
        header[name] = {"dtype": "U8", "shape": [each], "data_offsets": [number * each, (number + 1) * each]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_STEP)  # so that a longer number of bytes makes no longer header
    return len(text).to_bytes(8, "little") + text + fill * (each * len(wanted))


def file_of(total: int, fill: bytes = b"\1") -> bytes:
    """Return a safetensors file of `total` bytes in all."""
    found = tensors(total - len(tensors(0)), fill=fill)
    assert len(found) == total
    return found
