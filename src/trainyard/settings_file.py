# SPDX-License-Identifier: Apache-2.0
"""YAML files that people wrote, read as plain data of a bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from trainyard.paths import ROOT  # noqa: F401 - makes the planner's imports possible

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import TooLargeError, plain  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_text  # isort: skip


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        FileError: it cannot be read, or is too large with its aliases written out.
    """
    try:
        return plain(yaml.safe_load(read_text(path)))
    except (yaml.YAMLError, ValueError, RecursionError, TooLargeError) as error:
        raise FileError(" ".join(str(error).split()) or "it is nested too deeply") from error
