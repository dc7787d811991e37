# SPDX-License-Identifier: Apache-2.0
"""The deployments that come with the toolkit, each with its comments, as files of an inventory have them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from trainyard.paths import ROOT

#: The two that the shipped fleet serves, and the others, one a file.
FLEET, OTHERS = ROOT / "inventory/trn2", ROOT / "inventory/recipes"


class RecipeError(Exception):
    """No such recipe; the message has the nearest, or all."""


@dataclass(frozen=True)
class Recipe:
    """A deployment that somebody can begin with.

    Attributes:
        name: as it is asked for, and as its router serves it unless the deployment says otherwise.
        group: the inventory group whose hosts serve it.
        instance_type: the host that it was made for.
        about: the first sentence of its comment.
        text: the YAML of its group's variables, with comments, without the line `---`.
        gated: whether its repository wants a licence accepted.
    """

    name: str
    group: str
    instance_type: str
    about: str
    text: str
    gated: bool


def recipes() -> dict[str, Recipe]:
    """Return every recipe by its name, those of the shipped fleet first."""
    kind = yaml.safe_load((FLEET / "group_vars/neuron/host.yml").read_text(encoding="utf-8"))["trainyard_instance_type"]
    found = [_of_fleet(path, kind) for path in sorted(FLEET.glob("group_vars/*/deployment.yml"))]
    found += [_of_file(path) for path in sorted(OTHERS.glob("*.yml"))]
    return {recipe.name: recipe for recipe in found}


def recipe_of(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        RecipeError: there is none of that name.
    """
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean

    known = recipes()
    if name not in known:
        raise RecipeError(f"no recipe {name!r}: {did_you_mean(name, known) or 'one of ' + ', '.join(known)}")
    return known[name]


def _of_fleet(path: Path, instance_type: str) -> Recipe:
    """Return a deployment of the shipped fleet: its file is what a group has."""
    text = path.read_text(encoding="utf-8").removeprefix("---\n")
    group = path.parent.name
    return Recipe(group.replace("_", "-"), group, instance_type, _first_sentence(text), text, "# gated" in text)


def _of_file(path: Path) -> Recipe:
    """Return the deployment of an inventory of one host: its comment and its group's variables, without the hosts."""
    text = path.read_text(encoding="utf-8")
    ((group, said),) = yaml.safe_load(text)["all"]["children"]["neuron"]["children"].items()
    (host,) = said["hosts"].values()
    comment = "".join(line for line in text.partition("\nall:")[0].splitlines(keepends=True) if line.startswith("#"))
    # From the deployment's own line to the first one that stands further to the left.
    lines = text.splitlines()
    first = next(at for at, line in enumerate(lines) if re.match(rf" +trainyard_deployment_{group}:", line))
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = next((at for at in range(first + 1, len(lines)) if not lines[at].startswith(" " * indent)), len(lines))
    body = textwrap.dedent("\n".join(lines[first:last]))
    whole = f"{comment.rstrip()}\n{body}\n"
    return Recipe(path.stem, group, host["trainyard_instance_type"], _first_sentence(comment), whole, "# gated" in body)


def _first_sentence(text: str) -> str:
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return re.split(r"(?<=[.:])\s", comment, maxsplit=1)[0].rstrip(".:")
