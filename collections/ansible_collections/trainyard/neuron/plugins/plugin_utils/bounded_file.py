# SPDX-License-Identifier: Apache-2.0
"""Files that people wrote or brought, read as text of a bounded size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: No file of settings is larger, bytes.
FILE_BYTES = 4 << 20


class FileError(Exception):
    """A file cannot be read; the text says why."""


def read_text(path: Path, most_bytes: int = FILE_BYTES) -> str:
    """Return what a text file holds.

    Raises:
        FileError: it cannot be read, is larger than `most_bytes`, or is no UTF-8.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise FileError(f"it has more than {most_bytes} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(str(error)) from error
    except UnicodeDecodeError as error:
        raise FileError(f"it is no UTF-8 text: {error}") from error


def read_json(path: Path, most_bytes: int = FILE_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        FileError: as `read_text`, and where it is no JSON.
    """
    try:
        return json.loads(read_text(path, most_bytes))
    except (ValueError, RecursionError) as error:
        raise FileError(" ".join(str(error).split()) or "it is nested too deeply") from error
