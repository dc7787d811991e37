# SPDX-License-Identifier: Apache-2.0
"""The file that names execution nodes, and what starts ansible-runner on each of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard.settings_file import read_yaml

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Field, Schema, list_of, text  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError  # isort: skip

_NAME = text(re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"), "must be a name", "letters, digits, . _ -")
_WORD = text(
    re.compile(r"[^\x00-\x1f\x7f]+"), "must be a word of a command line", "write each word by itself", "text", 4096
)
#: More than one controller can speak with at once would be no gain.
MOST_NODES = 64

NODE = Schema(
    "nodes",
    "An execution node.",
    {
        "name": Field(_NAME, required=True, about="what it is called in what is told", example="east-1"),
        "runner": Field(
            list_of(_WORD, 1, 32),
            default=("ansible-runner",),
            about="the command that starts ansible-runner there; `worker` is put behind it, and its standard input and "
            "output are what is spoken over",
            example=["ssh", "runner@10.0.0.5", "ansible-runner"],
        ),
    },
)
NODES = Schema(
    "nodes file",
    "Execution nodes that provision and compile side by side.",
    {"nodes": Field(list_of(NODE.kind, 1, MOST_NODES), required=True, about="the nodes")},
)


class NodesError(Exception):
    """The file cannot be used; the text names it and every problem."""


@dataclass(frozen=True)
class Node:
    """An execution node; fields as in the schema `NODE`."""

    name: str
    runner: tuple[str, ...]


def nodes_of(raw: Any) -> list[Node]:
    """Return the nodes that a file's content names.

    Raises:
        NodesError: with every problem of it.
    """
    values, problems = NODES.read(raw)
    if problems:
        raise NodesError("; ".join(str(problem) for problem in problems))
    found = [Node(row["name"], tuple(row["runner"])) for row in values["nodes"]]
    names = [node.name for node in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NodesError(f"{', '.join(twice)} is there twice; give each node a name of its own")
    return found


def read(path: Path) -> list[Node]:
    """Return the nodes of a YAML file.

    Raises:
        NodesError: it cannot be read, or names none, or two of one name.
    """
    try:
        return nodes_of(read_yaml(path))
    except (FileError, NodesError) as error:
        raise NodesError(f"{path} names no execution nodes: {error}") from error
