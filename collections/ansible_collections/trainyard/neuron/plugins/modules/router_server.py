#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Put servers of a router in rotation, drain them, or take them out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: router_server
short_description: Drain replicas at a router, take them out, or readmit them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Speaks with HAProxy over its stats socket, so nothing is reloaded and no other stream is touched.
  - A drained server gets nothing new and keeps what it has; the module waits until nothing is left, by the router's
    own count of what is in flight and queued, within a deadline. For one that is to be ready it waits until its checks
    pass.
  - Run it on every router (as a play over them, or with several O(sockets)); a server is idle only when none of them
    has a request for it.
options:
  servers:
    description: Names of the servers as the plan gives them, C(host:replica). Each must exist at every router.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(ready) sends requests again. V(drain) sends nothing new. V(maint) sends nothing and stops the checks.
    type: str
    choices: [ready, drain, maint]
    required: true
  weights:
    description:
      - How much servers get compared with others, by name, in percent of the weight that the router's configuration
        gives them, from V(1) to V(100). Those that are not named keep what they have.
    type: dict
    default: {}
  wait:
    description: Wait, with V(drain) and V(maint) until no request is left, with V(ready) until the checks pass.
    type: bool
    default: true
  timeout_s:
    description: How long to wait, in seconds. When it is over the module fails and the servers stay as they were asked.
    type: float
    default: 600.0
  sockets:
    description: Sockets of the routers, as paths or C(address:port).
    type: list
    elements: str
    default: [/run/haproxy/admin.sock]
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says what would change; does not wait.
    support: full
  diff_mode:
    description: State of each server, before and after.
    support: full
"""

EXAMPLES = r"""
- name: Let a replica finish
  trainyard.neuron.router_server:
    servers: ["trn-1:llama-3-3-70b-0"]
    state: drain
    timeout_s: 900

- name: Send requests to it again
  trainyard.neuron.router_server:
    servers: ["trn-1:llama-3-3-70b-0"]
    state: ready
"""

RETURN = r"""
arrived:
  description: Whether no request is left, or every server is ready and its checks pass.
  returned: always
  type: bool
left:
  description: Requests that are left, by server.
  returned: always
  type: dict
seconds:
  description: How long it took.
  returned: always
  type: float
servers:
  description: Each server at each router.
  returned: when the routers answer
  type: list
  elements: dict
  contains:
    router:
      description: The router's socket.
      type: str
    name:
      description: The server.
      type: str
    was:
      description: Its state before.
      type: str
    state:
      description: Its state now.
      type: str
    weight:
      description: Its weight now, in percent of the configured one.
      type: int
    up:
      description: Whether its checks pass.
      type: bool
    in_flight:
      description: Requests that it works on or that wait for it.
      type: int
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import (
    FULL_WEIGHT,
    SOCKET,
    STATES,
    Router,
    RouterError,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.steering import Moved, move, preview

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "servers": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": list(STATES), "required": True},
    "weights": {"type": "dict", "default": {}},
    "wait": {"type": "bool", "default": True},
    "timeout_s": {"type": "float", "default": 600.0},
    "sockets": {"type": "list", "elements": "str", "default": [SOCKET]},
    "fence": fence.FENCE_OPTION,
}


def result_of(moved: Moved, waited: bool) -> Dict[str, Any]:
    """The module's result; ``waited`` is false where nothing was waited for, so that nothing is left undone."""
    rows = zip(moved.before, moved.after)  # noqa: B905 (Python 3.9)
    return {
        "changed": bool(moved.changing),
        "msg": summary(moved),
        "arrived": not (waited and moved.problems()),
        "left": moved.left,
        "seconds": round(moved.seconds, 3),
        "servers": [
            {
                "router": router.path,
                "name": server.name,
                "was": was.state,
                "state": moved.state,
                "weight": moved.weights.get(server.name, server.weight),
                "up": server.up,
                "in_flight": server.busy,
            }
            for (_, was), (router, server) in rows
        ],
        "diff": [
            {
                "before_header": "{0} at {1}".format(server.name, router.path),
                "after_header": "{0} at {1}".format(server.name, router.path),
                "before": words(server.state, server.weight) + "\n",
                "after": words(moved.state, moved.weights.get(server.name, server.weight)) + "\n",
            }
            for router, server in moved.changing
        ],
    }


def summary(moved: Moved) -> str:
    """One line that a person can read."""
    if not moved.changing:
        return "every server is {0}".format(moved.state)
    return "; ".join(
        "{0} {1} -> {2}".format(
            server.name,
            words(server.state, server.weight),
            words(moved.state, moved.weights.get(server.name, server.weight)),
        )
        for _, server in moved.changing
    )


def words(state: str, weight: int) -> str:
    """A state, with the weight where it is not the configured one."""
    return state if weight == FULL_WEIGHT else "{0} at {1}%".format(state, weight)


def refused(weights: Dict[str, Any], servers: List[str]) -> List[str]:
    """What is wrong with the weights."""
    problems = ["weights: {0} is not among the servers".format(name) for name in sorted(set(weights) - set(servers))]
    return problems + [
        "weights: {0} is {1!r}, not a whole number from 1 to {2}".format(name, value, FULL_WEIGHT)
        for name, value in sorted(weights.items())
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= FULL_WEIGHT
    ]


def main() -> None:
    """Move the servers; fail where one is unknown, keeps requests, or stays down."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    wanted = module.params
    routers = [Router(path) for path in wanted["sockets"]]
    waits = wanted["wait"] and not module.check_mode
    problems = refused(wanted["weights"], wanted["servers"])
    if problems:
        module.fail_json(msg="; ".join(problems), arrived=False, left={})
    try:
        if module.check_mode:
            moved = preview(routers, wanted["servers"], wanted["state"], wanted["weights"])
        else:
            moved = move(routers, wanted["servers"], wanted["state"], wanted["timeout_s"], waits, wanted["weights"])
    except RouterError as error:
        module.fail_json(msg=str(error), arrived=False, left={})
    for line in moved.unkept:
        module.warn(line)
    result = result_of(moved, waits)
    if not module._diff:
        result.pop("diff")
    if not result["arrived"]:
        module.fail_json(**{**result, "msg": "; ".join(moved.problems())})
    module.exit_json(**result)


if __name__ == "__main__":
    main()
