# SPDX-License-Identifier: Apache-2.0
"""Container images by their digests, as a fleet first took them: a file beside the inventory.

The SDK table names an image by a tag, and a tag can move. The first run that needs an image asks its registry, from the
hosts that will pull it, and writes down the answer; from then on nobody asks again. A line is changed by people alone.
"""

from __future__ import absolute_import, annotations, division, print_function

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.registry import REFERENCE

#: Ansible reads no inventory from a file of such a name in an inventory's directory.
NAME = "trainyard_images.txt"

#: The variable that names another file.
VARIABLE = "trainyard_images_file"

#: What a planner's input calls them, and the part of a host's answer in which it says what a registry told it.
INPUT, ANSWER = "pinned_images", "images"

#: Larger than any such file, bytes.
MOST_BYTES = 1 << 20

_HEADER = """\
# Container images by digest, as this fleet first took them from their registry. Keep this file with the inventory.
# trainyard adds what it lacks and changes no line. To take what a tag names today, remove its line, and run again.
"""
_LINE = re.compile(r"(\S+)\s+(sha256:[0-9a-f]{64})")


def file_of_inventory(directory: str) -> str:
    """Return the file beside an inventory in a directory; empty for an inventory that lies nowhere."""
    return str(Path(directory, NAME)) if directory else ""


def read(file: str) -> Dict[str, str]:
    """Return reference -> digest of a file; nothing where there is none.

    Raises:
        PlanError: it cannot be read; with every line that says nothing.
    """
    path = Path(file)
    try:
        with path.open("rb") as opened:
            text = opened.read(MOST_BYTES).decode("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError([Problem("", str(path), None, "cannot be read: %s" % error, "repair it")]) from error
    found: Dict[str, str] = {}
    problems: List[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None or not REFERENCE.fullmatch(match.group(1)) or match.group(1) in found:
            twice = match is not None and match.group(1) in found
            rule = "says one image twice" if twice else "must be registry/name:tag, a space and sha256:<64 hex digits>"
            fix = (
                "keep the line that you mean" if twice else "correct the line, or remove it to have the registry asked"
            )
            problems.append(Problem("", "%s, line %d" % (path, number), stripped, rule, fix))
            continue
        found[match.group(1)] = match.group(2)
    if problems:
        raise PlanError(problems)
    return found


def add(file: str, images: Mapping[str, str]) -> None:
    """Add images to a file; lines that are there stay as they are.

    Raises:
        PlanError: it cannot be written.
    """
    if not file:
        fix = "set %s, or trainyard_images" % VARIABLE
        raise PlanError([Problem("", VARIABLE, None, "the inventory lies in no directory to keep digests in", fix)])
    path = Path(file)
    known = read(file)
    lines = ["%s %s\n" % (name, images[name]) for name in sorted(images) if name not in known]
    if not lines:
        return
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else _HEADER
        part = path.with_name(".%s.%d" % (path.name, os.getpid()))
        part.write_text(text + ("" if text.endswith("\n") else "\n") + "".join(lines), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        fix = "let the controller write there, or write the line yourself: %s" % "".join(lines).strip()
        raise PlanError([Problem("", str(path), None, "cannot be written: %s" % error, fix)]) from error


def answers_of(answers: Iterable[Tuple[str, Any]]) -> Dict[str, str]:
    """Return reference -> digest of what registries told the hosts.

    Args:
        answers: each host and what it said, reference -> `digest` or `error`.

    Raises:
        PlanError: hosts were told different digests, or asked, and none was told any.
    """
    said: Dict[str, Dict[str, str]] = {}
    errors: Dict[str, Tuple[str, str]] = {}
    for host, answer in answers:
        for reference, found in answer.items() if isinstance(answer, Mapping) else ():
            # A host says what it likes, and this becomes a line of a file.
            if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
                continue
            one = found if isinstance(found, Mapping) else {}
            digest = str(one.get("digest"))
            if re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                said.setdefault(reference, {}).setdefault(digest, host)
            else:
                errors.setdefault(reference, (host, str(one.get("error") or "no answer")))
    problems = []
    for reference in sorted({*said, *errors}):
        digests = said.get(reference, {})
        where = "trainyard_images['%s']" % bare(reference)
        if len(digests) > 1:
            rule = "hosts are told different images: %s" % ", ".join("%s on %s" % pair for pair in digests.items())
            problems.append(
                Problem("", where, reference, rule, "run again; if it stays so, set it to the one you mean")
            )
        elif not digests:
            host, error = errors[reference]
            fix = "let the hosts reach the registry, or set it to registry/name@sha256:... of a mirror"
            problems.append(Problem(host, where, reference, "its digest is not known: %s" % error, fix))
    if problems:
        raise PlanError(problems)
    return {reference: next(iter(said[reference])) for reference in sorted(said)}


def used(plan: Mapping[str, Any], images: Mapping[str, str]) -> Dict[str, str]:
    """Return those of some images, reference -> digest, that a plan has hosts pull."""
    pulled = {row["image"] for host in plan["hosts"].values() for row in host["sdk"] if row["image"]}
    return {reference: digest for reference, digest in images.items() if by_digest(reference, digest) in pulled}


def missing(plan: Mapping[str, Any]) -> List[str]:
    """Return the images of a plan that a registry has to be asked for, each once; `plan` is `FleetPlan.to_dict`'s."""
    images = {row["image"] for host in plan["hosts"].values() for row in host["sdk"] if row["image"]}
    return sorted(image for image in images if REFERENCE.fullmatch(image))


def bare(reference: str) -> str:
    """Return a reference without its registry, as the SDK table has it."""
    return reference.split("/", 1)[1] if "/" in reference else reference


def by_digest(reference: str, digest: str) -> str:
    """Return what is pulled: `registry/name@sha256:...`."""
    return "%s@%s" % (reference.rpartition(":")[0], digest)
