#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.patched_source``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patched_source
short_description: A foreign source tree at a pinned state, with our own edits
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Takes a source from a repository, an archive or a directory, checks that it is the very tree the patches were made
    for, edits it, checks the result, and puts it into place in one step.
  - A tree that has the wanted digest is left alone, so a second run needs no source.
  - A O(source) that is a path on the controller is sent to the host by the action plugin of the same name, and only
    when it is needed.
options:
  path:
    description: Where the patched tree is to be.
    type: path
    required: true
  source:
    description:
      - URL of a git repository, or a path of a repository, an archive (tar, zip) or a directory. A path that the host
        does not have is looked up on the controller.
    type: str
    default: ""
  commit:
    description: Commit to take from a repository.
    type: str
    default: HEAD
  upstream_digest:
    description: SHA-256 over the lines C(SHA256  PATH) of the unpatched files.
    type: str
    default: ""
  patched_digest:
    description: The same of the patched tree.
    type: str
    default: ""
  patches:
    description: The patches, each with a C(name), a reason (C(why)) and its C(edits).
    type: list
    elements: dict
    default: []
  files:
    description: Files to add, content by path.
    type: dict
    default: {}
  state:
    description: V(absent) removes the tree.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Compares digests, and fetches nothing.
    support: full
  diff_mode:
    description: The digest before and after, with the patches' names.
    support: full
"""

EXAMPLES = r"""
- name: The program is here, with our patches
  trainyard.neuron.patched_source:
    path: /opt/example/src
    source: https://github.com/example/program
    commit: 0123456789abcdef0123456789abcdef01234567
    patches:
      - name: newer-python
        why: the bound is older than the interpreters that it runs on
        edits:
          - {file: pyproject.toml, lines: 11, was: 0123456789ab, text: "requires-python = '>=3.10'\n"}
"""

RETURN = r"""
digest:
  description: Digest of the tree in place.
  returned: success, with O(state=present)
  type: str
needs_packages:
  description: System packages that fetching O(source) needs and that are missing; the action plugin installs them.
  returned: when that is so
  type: list
  elements: str
needs_source:
  description: The tree must be made and O(source) is not on this host; the action plugin reacts to it.
  returned: when that is so
  type: bool
"""

import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source

ARGUMENT_SPEC: Dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "source": {"type": "str", "default": ""},
    "commit": {"type": "str", "default": "HEAD"},
    "upstream_digest": {"type": "str", "default": ""},
    "patched_digest": {"type": "str", "default": ""},
    "patches": {"type": "list", "elements": "dict", "default": []},
    "files": {"type": "dict", "default": {}},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def present(module: AnsibleModule, wanted: patched_source.Wanted) -> None:
    """Make the tree where it is not the one that is wanted."""
    source = module.params["source"]
    before = patched_source.digest(wanted.path)
    changed = not before or before != wanted.patched_digest
    names = "".join(f"patch {patch.get('name')}\n" for patch in wanted.patches)
    diff = {"before": f"{before or 'absent'}\n", "after": f"{wanted.patched_digest or 'patched'}\n{names}"}
    if not changed or module.check_mode:
        module.exit_json(changed=changed, digest=before, diff=diff if changed else {"before": "", "after": ""})
    if not source:
        module.fail_json(msg=f"{wanted.path} must be made and no source is given: a URL, an archive or a directory")
    if "://" not in source and not Path(source).exists():
        module.fail_json(msg=f"{source} is not on this host, nor on the controller", needs_source=True)

    if "://" in source and not shutil.which("git"):
        module.fail_json(msg="git is not on this host to fetch %s with" % source, needs_packages=["git"])

    def run(argv: List[str]) -> Tuple[int, str, str]:
        result: Tuple[int, str, str] = module.run_command(argv)
        return result

    found = wanted.install(source, run)
    module.exit_json(changed=found != before, digest=found, diff=diff)


def absent(module: AnsibleModule, wanted: patched_source.Wanted) -> None:
    """Remove the tree."""
    changed = wanted.path.exists()
    if changed and not module.check_mode:
        shutil.rmtree(wanted.path)
    module.exit_json(changed=changed, diff={"before": f"{wanted.path}\n" if changed else "", "after": ""})


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    wanted = patched_source.Wanted(
        path=Path(params["path"]),
        commit=params["commit"],
        upstream_digest=params["upstream_digest"],
        patches=params["patches"],
        files=params["files"],
        patched_digest=params["patched_digest"],
    )
    try:
        {"present": present, "absent": absent}[params["state"]](module, wanted)
    except (OSError, patched_source.SourceError) as error:
        module.fail_json(msg=f"{error}. What was at {wanted.path} before is unchanged")


if __name__ == "__main__":
    main()
