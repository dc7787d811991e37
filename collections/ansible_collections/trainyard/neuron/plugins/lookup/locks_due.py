# SPDX-License-Identifier: Apache-2.0
"""Hosts whose lock is due to be renewed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: locks_due
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Name the hosts whose lock is due to be renewed
description:
  - Internal to the role C(rolling_redeploy). Reads what this run remembers of its locks
    (M(trainyard.neuron.roll_lock)); no host is asked.
options:
  _terms:
    description: None.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Renew what is due
  trainyard.neuron.roll_lock:
    state: kept
  loop: "{{ query('trainyard.neuron.locks_due') }}"
  loop_control:
    loop_var: roll_host
  delegate_to: "{{ roll_host }}"
"""

RETURN = r"""
_raw:
  description: Names of hosts.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_lock


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core ships no types
    """Reads files of the controller."""

    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **options: Any) -> list[str]:
        """Return the hosts' names."""
        del terms, variables, options
        return run_lock.current().all_due()
