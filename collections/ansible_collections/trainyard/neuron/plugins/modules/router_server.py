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
  - A drained server gets nothing new and keeps what it has; the module waits until nothing is left, within a deadline.
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
  wait:
    description: With V(drain) and V(maint), wait until no request is left.
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
servers:
  description: Each server at each router.
  returned: always
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
    up:
      description: Whether its checks pass.
      type: bool
    in_flight:
      description: Requests that it works on or that wait for it.
      type: int
"""

from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import (
    SOCKET,
    Router,
    RouterError,
    Server,
    wait_idle,
)

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "servers": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["ready", "drain", "maint"], "required": True},
    "wait": {"type": "bool", "default": True},
    "timeout_s": {"type": "float", "default": 600.0},
    "sockets": {"type": "list", "elements": "str", "default": [SOCKET]},
}


def look(routers: List[Router], names: List[str]) -> List[Tuple[Router, Server]]:
    """The named servers at every router.

    Raises:
        RouterError: a router does not know one of them.
    """
    found: List[Tuple[Router, Server]] = []
    for router in routers:
        known = router.servers()
        for name in names:
            here = [server for server in known if server.name == name]
            if not here:
                others = ", ".join(sorted({server.name for server in known})) or "none"
                raise RouterError(
                    "{0} has no server {1}; it has {2}. Nothing was changed".format(router.path, name, others)
                )
            found.extend((router, server) for server in here)
    return found


def steer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Compare, set what differs, wait, and return the module's result.

    Raises:
        RouterError: a router does not answer or refuses, or requests are left when the time is over.
    """
    routers = [Router(path) for path in params["sockets"]]
    names, state = params["servers"], params["state"]
    before = look(routers, names)
    changing = [(router, server) for router, server in before if server.state != state]
    if not check_mode:
        for router, server in changing:
            # From maintenance a server drains by way of ready: HAProxy has one flag for each.
            router.set_state(server, state)
        if state != "ready" and params["wait"]:
            _wait(routers, names, state, params["timeout_s"])
    after = before if check_mode else look(routers, names)
    return {
        "changed": bool(changing),
        "msg": summary(changing, state),
        "servers": [
            {
                "router": router.path,
                "name": server.name,
                "was": before[index][1].state,
                "state": state if check_mode else server.state,
                "up": server.up,
                "in_flight": server.busy,
            }
            for index, (router, server) in enumerate(after)
        ],
        "diff": [
            {
                "before_header": "{0} at {1}".format(server.name, router.path),
                "after_header": "{0} at {1}".format(server.name, router.path),
                "before": server.state + "\n",
                "after": state + "\n",
            }
            for router, server in changing
        ],
    }


def _wait(routers: List[Router], names: List[str], state: str, timeout_s: float) -> None:
    left = {name: wait_idle(routers, name, timeout_s) for name in names}
    busy = ["{0} ({1} requests)".format(name, count) for name, count in left.items() if count]
    if busy:
        said = "not idle after {0:.0f} s: {1}. They stay in {2}: wait longer, or set them to ready again"
        raise RouterError(said.format(timeout_s, ", ".join(busy), state))


def summary(changing: List[Tuple[Router, Server]], state: str) -> str:
    """One line that a person can read."""
    if not changing:
        return "every server is {0}".format(state)
    return "; ".join("{0} {1} -> {2}".format(server.name, server.state, state) for _router, server in changing)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        result = steer(module.params, module.check_mode)
    except RouterError as error:
        module.fail_json(msg=str(error))
    if not module._diff:
        result.pop("diff")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
