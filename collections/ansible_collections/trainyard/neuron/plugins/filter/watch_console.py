# SPDX-License-Identifier: Apache-2.0
"""The filter `watch_console`: a page of a fleet that Prometheus shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DOCUMENTATION = r"""
name: watch_console
short_description: A page of a fleet, as Prometheus' console templates have it
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Makes a page of tables (alerts, replicas, routers, hosts and devices) that Prometheus fills in and shows below
    C(/consoles).
options:
  _input:
    description: The page's name, C(fleet).
    type: str
    required: true
"""

EXAMPLES = r"""
page: "{{ 'fleet' | trainyard.neuron.watch_console }}"
"""

RETURN = r"""
_value:
  description: The page's template.
  type: str
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.consoles import pages


def watch_console(name: str) -> str:
    """Return a page.

    Raises:
        AnsibleFilterError: there is none of that name.
    """
    found = pages()
    if f"{name}.html" not in found:
        known = [page.removesuffix(".html") for page in found]
        raise AnsibleFilterError(
            f"no page {name!r}: {did_you_mean(str(name), known) or 'there are ' + ', '.join(known)}"
        )
    return found[f"{name}.html"]


class FilterModule:
    """Registers the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"watch_console": watch_console}
