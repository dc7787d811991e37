# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of this name, which calls the package manager's module on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Have distribution packages, and fetch package lists only where those at hand lack one
description:
  - Installs what is missing, without recommended packages, in one run of M(ansible.builtin.apt) where nothing is.
  - Fetches the package lists and tries again where they lack a name or the version that was asked for. How old they
    are does not count, since a fresh image may have none.
options:
  name:
    description: Names, each with a version if there has to be one (C(haproxy=3.0.*)).
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Says what would be installed. Where the lists lack it, says that and fetches nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have a router
  trainyard.neuron.packages:
    name: [haproxy, keepalived]
"""

RETURN = r"""
msg:
  description: What the package manager refused, or what check mode would do where the lists lack a package.
  returned: on failure and in check mode
  type: str
"""
