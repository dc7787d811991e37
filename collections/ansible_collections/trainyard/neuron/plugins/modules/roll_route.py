#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Draining and readmitting servers at the router of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_route
short_description: Drain or readmit replicas at the router of this host
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Over HAProxy's stats socket, without a reload. V(drained) returns when the last request of each replica has ended,
    by the router's own count of what is in flight and queued; V(ready) returns when the checks of each pass.
options:
  state:
    description: What the replicas are to be.
    type: str
    choices: [drained, ready]
    required: true
  servers:
    description: Ids of the replicas, which are the names of the router's servers.
    type: list
    elements: str
    required: true
  timeout_seconds:
    description: How long the last request, or the first good check, may take.
    type: float
    default: 900
  router_socket:
    description: HAProxy's stats socket.
    type: path
    default: /run/haproxy/admin.sock
attributes:
  check_mode:
    description: Says whose state would change, and waits for nothing.
    support: full
  diff_mode:
    description: Shows the states.
    support: full
"""

EXAMPLES = r"""
- name: Drain two replicas
  trainyard.neuron.roll_route:
    state: drained
    servers: ["h1:llama-0", "h1:llama-1"]
"""

RETURN = r"""
drained:
  description: Whether no request is left.
  returned: with V(drained)
  type: bool
left:
  description: Requests that are left, by replica.
  returned: always
  type: dict
admitted:
  description: Whether every replica is ready and its checks pass.
  returned: with V(ready)
  type: bool
seconds:
  description: How long it took.
  returned: always
  type: float
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import routes
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router, RouterError


def act(parameters: Dict[str, Any], check_mode: bool) -> routes.Moved:
    """Drain, readmit, or say what would change."""
    router = Router(parameters["router_socket"])
    if check_mode:
        return routes.preview(router, parameters["servers"], {"drained": "drain"}.get(parameters["state"], "ready"))
    step = routes.drain if parameters["state"] == "drained" else routes.admit
    return step(router, parameters["servers"], parameters["timeout_seconds"])


def main() -> None:
    """Move the servers; fail where one is unknown, keeps requests, or stays down."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["drained", "ready"], "required": True},
            "servers": {"type": "list", "elements": "str", "required": True},
            "timeout_seconds": {"type": "float", "default": 900},
            "router_socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
        },
        supports_check_mode=True,
    )
    try:
        moved = act(module.params, module.check_mode)
    except RouterError as error:
        module.fail_json(msg=str(error), drained=False, admitted=False)
    problems = moved.problems()
    result: Dict[str, Any] = {
        "changed": bool(moved.changed),
        "left": moved.left,
        "seconds": round(moved.seconds, 3),
        "drained" if module.params["state"] == "drained" else "admitted": not problems,
    }
    if module._diff:
        result["diff"] = [
            {"before": "", "after": "{0}: {1}\n".format(name, module.params["state"])} for name in moved.changed
        ]
    if problems:
        module.fail_json(msg="; ".join(problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
