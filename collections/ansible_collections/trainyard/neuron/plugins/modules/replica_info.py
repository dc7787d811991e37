#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the replicas of a host do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_info
short_description: Read what the replicas of a host run, could run, and how far a roll got with them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - One look at a host - for each replica its unit, the release of its running process, the releases that are complete
    on disk, how long its last load took, and what an unfinished roll wrote down about it. Changes nothing.
options:
  router_socket:
    description: HAProxy's stats socket; where it exists, the states of the router's servers are read too.
    type: path
    default: /run/haproxy/admin.sock
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Read what the replicas do
  trainyard.neuron.replica_info:
  register: trainyard_replicas
"""

RETURN = r"""
replicas:
  description: >-
    By name, what is known about each replica of this host. C(problems) names files that cannot be used, with what is
    lost and what to do; each is a warning as well.
  returned: success
  type: dict
  sample:
    llama-0:
      active: active
      running: 1f0a33c2b9de
      current: 1f0a33c2b9de
      previous: 77d0c1aa54e1
      staged: [1f0a33c2b9de, 77d0c1aa54e1]
      load_s: 612.4
      problems: []
servers:
  description: >-
    By server name, state, health, weight in percent and requests in flight at the router of this host; null without a
    router.
  returned: success
  type: dict
  sample: {"h1:llama-0": {"state": "ready", "up": true, "weight": 100, "sessions": 3}}
holder:
  description: Who holds the lock of this host; null if nobody does.
  returned: success
  type: dict
held:
  description: Who keeps other runs from changing this host, since when and how long yet, for people; empty if nobody.
  returned: success
  type: str
problem:
  description: Why the file that says so, and what an unfinished roll left, cannot be read; empty where it can.
  returned: success
  type: str
"""

from typing import Any, Dict, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import units
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import host as host_side
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import SOCKET, Router, RouterError


def router_servers(socket_path: str) -> Optional[Dict[str, Dict[str, Any]]]:
    """Servers of this host's router; None if there is none."""
    try:
        servers = Router(socket_path).servers()
    except RouterError:
        return None
    return {
        server.name: {
            "state": server.state,
            "up": server.up,
            "weight": server.weight,
            "sessions": server.busy,
            "check": server.check,
        }
        for server in servers
    }


def main() -> None:
    """Read and report."""
    module = AnsibleModule(
        argument_spec={"router_socket": {"type": "path", "default": SOCKET}},
        supports_check_mode=True,
    )
    host = host_side.Host()
    try:
        replicas = host_side.describe(host)
    except units.UnitError as error:
        module.fail_json(msg=str(error))
    known = host.book.read()
    for row in replicas.values():
        for problem in row["problems"]:
            module.warn(problem)
    module.exit_json(
        changed=False,
        replicas=replicas,
        servers=router_servers(module.params["router_socket"]),
        holder=known["holder"],
        held=known["held"],
        problem=known["problem"],
    )


if __name__ == "__main__":
    main()
