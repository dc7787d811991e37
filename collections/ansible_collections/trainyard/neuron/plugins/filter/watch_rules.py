# SPDX-License-Identifier: Apache-2.0
"""The filter `watch_rules`: thresholds of an inventory as the rules that Prometheus evaluates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: watch_rules
short_description: The rules of a fleet, with an inventory's thresholds
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Makes recording rules and alerts, as a file of Prometheus has them, from the rules of this collection.
options:
  _input:
    description: Thresholds by name; docs/alerts.md lists them. The others have their defaults.
    type: dict
    required: true
"""

EXAMPLES = r"""
rules: "{{ {'queue_time_s': 20} | trainyard.neuron.watch_rules }}"
"""

RETURN = r"""
_value:
  description: The groups of rules.
  type: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.rules import ThresholdError, rule_groups


def watch_rules(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of rules.

    Raises:
        AnsibleFilterError: thresholds that cannot be, all of them.
    """
    if not isinstance(thresholds, Mapping):
        raise AnsibleFilterError("monitoring_thresholds must hold thresholds by name; docs/alerts.md lists them")
    try:
        return rule_groups(thresholds)
    except ThresholdError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"watch_rules": watch_rules}
