# SPDX-License-Identifier: Apache-2.0
"""The filter `router_access`: who may reach a router, and a refusal of what must not be reached so."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import router_access as plan

DOCUMENTATION = r"""
name: router_access
short_description: Who may reach a router
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Says what a router listens on and whose requests it takes, by the rules of the plan.
  - Fails where it would be reached from beyond the private networks without keys, or on a public address without TLS,
    and nothing says that this is meant.
options:
  _input:
    description: The variables of the role C(load_balancer) that have to do with it, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
access: "{{ {'load_balancer_address': '10.0.0.10'} | trainyard.neuron.router_access }}"
"""

RETURN = r"""
_value:
  description: What it listens on, and whose requests it takes, as C(router.access) of the plan.
  type: dict
"""


def router_access(variables: Dict[str, Any]) -> Dict[str, Any]:
    """Return who may reach a router.

    Raises:
        AnsibleFilterError: it would be open without a word that says so; every reason.
    """
    access, problems = plan.router_access(variables, default="127.0.0.1")
    if problems:
        raise AnsibleFilterError("; ".join(str(problem) for problem in problems))
    return access.to_dict()


class FilterModule:
    """Registers the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"router_access": router_access}
