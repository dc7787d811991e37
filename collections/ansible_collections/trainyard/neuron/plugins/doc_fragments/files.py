# SPDX-License-Identifier: Apache-2.0
"""The option by which a module lays out paths before its own work, in the same module run."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of ``files``."""

    DOCUMENTATION = r"""
options:
  files:
    description:
      - Paths that have to be there before, brought to their wanted state in the same module run, since each costs a
        host about 0.3 s of CPU time whether it changes anything or not.
      - Takes C(items), C(owner), C(group), C(users), C(names) and C(lists) as M(trainyard.neuron.file_tree) does.
        What was done to them is in the result's C(files).
    type: dict
    suboptions:
      payload:
        description: Filled by the action plugin with the rendered items. Not for users.
        type: str
        required: true
      users:
        description: System users that have to be there before.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: The user's name, and its group's.
            type: str
            required: true
          home:
            description: Its home directory.
            type: str
            required: true
          shell:
            description: Its shell.
            type: str
            default: /usr/sbin/nologin
"""
