# SPDX-License-Identifier: Apache-2.0
"""The filter `job_senders`: which host gives each missing result to this one, by who has it now."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fan_out import fan_out

DOCUMENTATION = r"""
name: job_senders
short_description: Jobs of trainyard.neuron.jobs with the hosts that give their results
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - The plan names a sender for each result that goes from host to host, as if the fleet were new. Where hosts have it
    already, they give it, and each of them to as few others as can be.
options:
  _input:
    description: The jobs of this host. Those without a C(sender) in their C(spec) do not go from host to host.
    type: list
    elements: dict
    required: true
  host:
    description: Name of this host.
    type: str
    required: true
  found:
    description: What M(trainyard.neuron.jobs) with C(state=looked) said of each host that was looked at.
    type: dict
    required: true
"""

EXAMPLES = r"""
jobs: "{{ jobs | trainyard.neuron.job_senders(host=inventory_hostname, found=looks) }}"
"""

RETURN = r"""
_value:
  description: The jobs, their senders named.
  type: list
  elements: dict
"""


def job_senders(jobs: List[Dict[str, Any]], host: str, found: Dict[str, Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Return the jobs with senders that have the result now, where any has; else with those of the plan."""
    return [{**job, "spec": {**job["spec"], **_sender(job, host, found)}} for job in jobs]


def _sender(job: Dict[str, Any], host: str, found: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    if "sender" not in job["spec"]:
        return {}
    looks = {name: look for name, look in found.items() if not look.get("skipped")}
    holders = sorted(name for name, look in looks.items() if job["id"] in look.get("done", ()))
    lacking = sorted(name for name, look in looks.items() if job["id"] in look.get("missing", ()))
    if not holders or host not in lacking:
        return {}
    leg = fan_out(holders, lacking)[host]
    path = found[leg.sender]["paths"][job["id"]]
    return {"sender": {"host": leg.sender, "address": found[leg.sender]["address"], "path": path, "turn": leg.turn}}


class FilterModule:
    """Registers the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"job_senders": job_senders}
