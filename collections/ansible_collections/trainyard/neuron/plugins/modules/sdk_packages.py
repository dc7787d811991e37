# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which runs Ansible's own modules of the host's package manager."""

from __future__ import absolute_import, annotations, division, print_function

DOCUMENTATION = r"""
module: sdk_packages
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: System packages of the Neuron SDK, their repository and their hold
description:
  - Does what M(trainyard.neuron.sdk_release) found to be missing, by the modules of the host's package manager.
  - Compares nothing. Each option that is given counts as a change.
options:
  manager:
    description: The host's package manager.
    type: str
    choices: [apt, dnf]
    required: true
  repository:
    description: The repository to make known, with O(ignore:address), O(ignore:key) and, for apt, O(ignore:suite).
    type: dict
  install:
    description: Packages to bring to a version, up or down, by name.
    type: dict
    default: {}
  hold:
    description: Packages that the system's upgrades are to leave alone.
    type: list
    elements: str
    default: []
  free:
    description: Packages that the system's upgrades are to reach again.
    type: list
    elements: str
    default: []
  forget:
    description: Whether the repository is to be forgotten.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: What is done, a line for each.
    support: full
"""

EXAMPLES = r"""
- name: Bring the driver to its version
  trainyard.neuron.sdk_packages:
    manager: apt
    install: {aws-neuronx-dkms: 2.25.4.0}
"""

RETURN = r"""
msg:
  description: What the package manager refused.
  returned: on failure
  type: str
"""
