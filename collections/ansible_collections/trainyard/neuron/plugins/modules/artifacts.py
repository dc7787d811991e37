#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``trainyard.neuron.artifacts``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifacts
short_description: The compiled artifacts of a host, and what uses them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Lists the artifacts of a host with what they were made from, their size, what is wrong with them and the releases
    that name them; removes those that nothing uses. This is what C(trainyard artifact) asks each host.
options:
  path:
    description: Directory that all artifacts lie in.
    type: path
    default: /data/artifacts
  verify:
    description: Read every file and compare its SHA-256 sum.
    type: bool
    default: false
  remove:
    description: Digests to be removed. One that a release names is refused, and then none is removed.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Removes nothing.
    support: full
  diff_mode:
    description: One line for each removed artifact.
    support: full
"""

EXAMPLES = r"""
- name: See what is there
  trainyard.neuron.artifacts:
    path: /data/artifacts
"""

RETURN = r"""
artifacts:
  description: The artifacts, as they were found.
  returned: success
  type: list
  elements: dict
removed:
  description: Digests that were removed.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import artifact_dirs

ARGUMENT_SPEC = {
    "path": {"type": "path", "default": "/data/artifacts"},
    "verify": {"type": "bool", "default": False},
    "remove": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    folder = Path(module.params["path"])
    try:
        used_by = artifact_dirs.users()
        found = artifact_dirs.describe(folder, module.params["verify"], used_by)
        here = {entry["digest"] for entry in found}
        doomed = [digest for digest in module.params["remove"] if digest in here]
        used = [f"{digest[:12]} is used by {', '.join(used_by[digest])}" for digest in doomed if digest in used_by]
        if used:
            module.fail_json(msg=f"{'; '.join(used)}. Nothing was removed")
        for digest in doomed:
            if not module.check_mode:
                artifact_dirs.remove(folder, digest)
        before = "".join(f"{folder / digest}\n" for digest in doomed)
        module.exit_json(changed=bool(doomed), artifacts=found, removed=doomed, diff={"before": before, "after": ""})
    except OSError as error:
        module.fail_json(msg=f"{error}. Run again; what was removed stays removed")


if __name__ == "__main__":
    main()
