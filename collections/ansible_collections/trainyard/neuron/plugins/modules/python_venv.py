#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.python_venv``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_venv
short_description: A Python environment that is exactly a hash-locked list of packages
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Makes an environment in a directory named by the digest of its requirements and points a link at it, so an install
    that fails leaves the one in use as it was. The one before it is kept, for what still runs from it.
  - Refuses requirements without hashes. Wheels only, nothing is built on the host.
  - The index is pip's own matter, as configured on the host.
  - The action plugin of the same name installs O(packages) by the host's package manager where the interpreter cannot
    make environments, and only there.
options:
  path:
    description: Where the environment is reached; a link.
    type: path
    required: true
  requirements:
    description: Text of the requirements, each with its hashes. Needed with O(state=present).
    type: str
  python:
    description: Interpreter that it is made from.
    type: path
    default: /usr/bin/python3
  packages:
    description: What the host's package manager must bring so that O(python) can make environments.
    type: list
    elements: str
    default: [python3-venv]
  state:
    description: V(absent) removes the link and every environment made for it.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [trainyard.neuron.fence, trainyard.neuron.files]
attributes:
  check_mode:
    description: Says what would be made.
    support: full
  diff_mode:
    description: The environment in use before and after.
    support: full
"""

EXAMPLES = r"""
- name: The tools are here, at their locked versions
  trainyard.neuron.python_venv:
    path: /opt/example/tools
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt') }}"
"""

RETURN = r"""
files:
  description: What was done to the paths of O(files), C(changed_paths) and C(msg).
  returned: with O(files)
  type: dict
home:
  description: Directory that the link leads to.
  returned: success, with O(state=present)
  type: str
  sample: /opt/example/tools-0123456789ab
needs_packages:
  description: System packages that are missing here; the action plugin reacts to it.
  returned: when some are missing
  type: list
  elements: str
"""

from pathlib import Path
from typing import Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import venv, with_files
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence

ARGUMENT_SPEC = {
    "path": {"type": "path", "required": True},
    "requirements": {"type": "str"},
    "python": {"type": "path", "default": "/usr/bin/python3"},
    "packages": {"type": "list", "elements": "str", "default": ["python3-venv"]},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "files": with_files.FILES_OPTION,
    "fence": fence.FENCE_OPTION,
}


class Module(with_files.WithFiles, AnsibleModule):  # type: ignore[misc]  # ansible-core ships no types
    """The module, which lays out its files first."""


def present(module: AnsibleModule, wanted: venv.Venv) -> None:
    """Make the environment where it is not the one in use."""
    loose = venv.unhashed(wanted.requirements)
    if loose:
        raise venv.VenvError(
            f"requirements without a hash: {', '.join(loose)}; lock them (uv pip compile --generate-hashes)"
        )
    home, current = wanted.home(), wanted.current()
    changed = current != home.name
    diff = {"before": f"{current or 'absent'}\n", "after": f"{home.name}\n"} if changed else {"before": "", "after": ""}
    if changed and not module.check_mode:
        if not wanted.can_make():
            module.fail_json(
                msg=f"{wanted.python} cannot make environments: install {' '.join(module.params['packages'])}",
                needs_packages=module.params["packages"],
            )
        wanted.make()
    module.exit_json(changed=changed, home=str(home), diff=diff)


def absent(module: AnsibleModule, wanted: venv.Venv) -> None:
    """Remove the environment."""
    found = [str(home) for home in wanted.homes()] + ([str(wanted.path)] if wanted.path.is_symlink() else [])
    if found and not module.check_mode:
        wanted.remove()
    module.exit_json(changed=bool(found), diff={"before": "".join(f"{path}\n" for path in found), "after": ""})


def main() -> None:
    """Entry point of the module."""
    module = Module(
        argument_spec=ARGUMENT_SPEC, required_if=[("state", "present", ["requirements"])], supports_check_mode=True
    )
    fence.prove(module)
    module.lay_out()

    def run(argv: List[str], environment: Dict[str, str]) -> Tuple[int, str, str]:
        status, output, errors = module.run_command(argv, environ_update=environment)
        return int(status), str(output), str(errors)

    path = Path(module.params["path"])
    wanted = venv.Venv(path, module.params["requirements"] or "", module.params["python"], run)
    try:
        {"present": present, "absent": absent}[module.params["state"]](module, wanted)
    except (OSError, venv.VenvError) as error:
        module.fail_json(msg=f"{error}. The environment in use before, if any, is unchanged")


if __name__ == "__main__":
    main()
