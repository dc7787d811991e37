# SPDX-License-Identifier: Apache-2.0
"""What an instance is launched with, to become a host of its fleet with no controller."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import join

DOCUMENTATION = r"""
name: join_script
author: trainyard contributors (@trainyard)
version_added: 0.2.0
short_description: The user data by which an instance joins its fleet by itself
description:
  - A shell script with a program that fetches a release, refuses it where it has not the digest or the signature that
    are given here, takes the fleet's lease in the store, and runs the release's playbook on its own host.
options:
  _input:
    description: What C(trainyard join-release) printed.
    type: dict
    required: true
    suboptions:
      release:
        description: >-
          Address of the release, C(s3://) or C(https://); its signature is beside it, with C(.sig) behind its name.
        type: str
        required: true
      sha256:
        description: Its SHA-256.
        type: str
        required: true
      signer:
        description: Public key that signed it, ED25519.
        type: str
        required: true
      lease:
        description: The object of the store that says which host joins now, an C(s3://) address.
        type: str
        required: true
      playbook:
        description: What is run, as words behind C(ansible-playbook); paths are those of the release.
        type: list
        elements: str
        required: true
"""

EXAMPLES = r"""
- name: Launch hosts that join by themselves
  trainyard.neuron.trainium_instances:
    user_data: "{{ join | trainyard.neuron.join_script }}"
"""

RETURN = r"""
_value:
  description: The script.
  type: str
"""

#: EC2 takes no more, before it is encoded.
MOST_BYTES = 16384
FORMS = {
    "release": (re.compile(r"(s3|https)://[\w./@:+=-]+"), "s3://BUCKET/KEY or https://HOST/PATH"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "64 hexadecimal digits"),
    "signer": (re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+( [\w@.-]+)?"), "an ED25519 public key"),
    "lease": (re.compile(r"s3://[\w./-]+"), "s3://BUCKET/KEY"),
}
KNOWN = (*FORMS, "playbook", "endpoint")
SCRIPT = """\
#!/bin/sh
# Makes this instance a host of its fleet with no controller, from a release that the launch pinned.
set -eu
umask 077
mkdir -p /opt/trainyard-join
cat > /opt/trainyard-join/settings.json <<'SETTINGS_OF_THE_LAUNCH'
{settings}
SETTINGS_OF_THE_LAUNCH
cat > /opt/trainyard-join/join.py <<'PROGRAM_OF_THE_LAUNCH'
{program}PROGRAM_OF_THE_LAUNCH
exec /usr/bin/python3 /opt/trainyard-join/join.py /opt/trainyard-join/settings.json
"""


def join_script(given: Mapping[str, Any]) -> str:
    """The user data.

    Args:
        given: what is fetched, and how it is known.

    Raises:
        AnsibleFilterError: a word that is missing, unknown, or not of its form; all at once.
    """
    wrong = [f"{name} is no setting of it ({', '.join(KNOWN)})" for name in sorted(set(given) - set(KNOWN))]
    for name, (form, words) in FORMS.items():
        if not isinstance(given.get(name), str) or not form.fullmatch(given[name]):
            wrong.append(f"{name} is {given.get(name)!r}, and has to be {words}")
    playbook = given.get("playbook")
    if not isinstance(playbook, list) or not playbook or not all(isinstance(word, str) for word in playbook):
        wrong.append(f"playbook is {playbook!r}, and has to be a list of words")
    if wrong:
        raise AnsibleFilterError(f"join: {'; '.join(wrong)}. `trainyard join-release` prints them")
    program = without_prose(Path(join.__file__).read_text(encoding="utf-8"))
    script = SCRIPT.format(settings=json.dumps(dict(given), indent=1, sort_keys=True), program=program)
    if len(script.encode()) > MOST_BYTES:
        raise AnsibleFilterError(f"join: {len(script.encode())} bytes of user data, and EC2 takes {MOST_BYTES}")
    return script


def without_prose(program: str) -> str:
    """A program without its comments and docstrings: an instance's user data has room for little else."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


class FilterModule:
    """What Ansible asks for filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"join_script": join_script}
