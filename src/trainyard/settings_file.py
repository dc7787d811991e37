# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON files that people wrote, read as plain data of a bounded size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from trainyard.paths import ROOT  # noqa: F401 - makes the planner's imports possible

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.inventory import TooLargeError, plain  # isort: skip

#: No file of settings is larger, bytes.
FILE_BYTES = 4 << 20


class FileError(Exception):
    """A file cannot be read; the text says why."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        FileError: it cannot be read, or is too large with its aliases written out.
    """
    try:
        return plain(yaml.safe_load(_text(path)))
    except (yaml.YAMLError, ValueError, RecursionError, TooLargeError) as error:
        raise FileError(" ".join(str(error).split()) or "it is nested too deeply") from error


def read_json(path: Path, most_bytes: int = FILE_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        FileError: it cannot be read.
    """
    try:
        return json.loads(_text(path, most_bytes))
    except (ValueError, RecursionError) as error:
        raise FileError(" ".join(str(error).split()) or "it is nested too deeply") from error


def _text(path: Path, most_bytes: int = FILE_BYTES) -> str:
    try:
        if path.stat().st_size > most_bytes:
            raise FileError(f"it has more than {most_bytes} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(str(error)) from error
    except UnicodeDecodeError as error:
        raise FileError(f"it is no UTF-8 text: {error}") from error
