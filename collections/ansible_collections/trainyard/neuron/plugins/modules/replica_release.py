#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Replacing the release of drained replicas."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_release
short_description: Bring drained replicas to another release, or back to the one they had
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Waits until the engine has no request left, stops the unit, which returns when its cores are free, points the
    replica's links at the release, starts the unit, which is active only after its gate, and checks that the running
    process is of that release. Several replicas are replaced at the same time.
  - The release must have been staged before; nothing is fetched, rendered or compiled.
  - Draining at the routers is the caller's part, before; readmitting is too, after, for those that are C(gated).
  - Every step is written to the journal of the host before it is taken, with O(fence) only while the lock of the
    host is still the run's own. A step that would be taken without it is not.
options:
  state:
    description:
      - V(replaced) brings the replicas to C(release) and stops at the first step that fails, leaving the replica there.
      - V(restored) brings them back to C(was), whatever a failed replacement left. A replica that had no release before
        is stopped. What V(previous) says stays as it is, because the release that failed never proved good.
    type: str
    choices: [replaced, restored]
    default: replaced
  replicas:
    description: The moves of the roll's plan that concern this host.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Id of the replica in the fleet.
        type: str
        required: true
      name:
        description: Name of the replica on this host.
        type: str
        required: true
      url:
        description: Where its server listens.
        type: str
        required: true
      release:
        description: The release to bring it to.
        type: str
        required: true
      was:
        description: The release before; empty for a replica that is new.
        type: str
        default: ""
      begun_s:
        description:
          - When it was told to start, in seconds of the host's clock, as an earlier run of the module said of a start
            that it left on its way. That start is waited for and nothing else is done.
        type: float
  wait_s:
    description:
      - How long one run of the module waits for starts, in seconds, before it says how far they are and ends. Whoever
        calls it runs it again for those, with O(replicas[].begun_s). Without it starts are waited for to their end.
    type: float
  drain_deadline_s:
    description: How long the requests in an engine may take to end.
    type: float
    default: 900
  drain_policy:
    description: What happens then - V(wait) on, V(abort) what is left, or V(fail) and leave the old release running.
    type: str
    choices: [wait, abort, fail]
    default: fail
  start_timeout_s:
    description: How long a start may take, with its gate.
    type: float
    default: 3600
  stop_timeout_s:
    description: How long a stop may take.
    type: float
    default: 300
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says which replicas would be replaced.
    support: full
  diff_mode:
    description: Shows the release before and after.
    support: full
"""

EXAMPLES = r"""
- name: Replace the drained replicas
  trainyard.neuron.replica_release:
    replicas: "{{ wave_moves }}"
    drain_policy: abort
  register: wave_replaced
"""

RETURN = r"""
replicas:
  description:
    - For each replica how far it got, whether it is gated on its release, and what each step took. One that was still
      starting when O(wait_s) was over has C(begun_s), and how far it is as C(progress).
  returned: always
  type: list
  elements: dict
  sample:
    - {"id": "h1:llama-0", "name": "llama-0", "release": "1f0a33c2b9de", "gated": true, "step": "gated", "error": "",
       "cut_off": 0, "seconds": {"idle": 0.5, "stop": 3.1, "switch": 0.0, "start": 611.9}}
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import POLICIES
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import host as host_side

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "state": {"type": "str", "choices": ["replaced", "restored"], "default": "replaced"},
    "replicas": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "id": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "was": {"type": "str", "default": ""},
            "begun_s": {"type": "float"},
        },
    },
    "wait_s": {"type": "float"},
    "drain_deadline_s": {"type": "float", "default": 900},
    "drain_policy": {"type": "str", "choices": list(POLICIES), "default": "fail"},
    "start_timeout_s": {"type": "float", "default": 3600},
    "stop_timeout_s": {"type": "float", "default": 300},
    "fence": fence.FENCE_OPTION,
}


def move_all(host: host_side.Host, parameters: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Replace or restore every replica, all at the same time; results in the order of the request."""
    order = host_side.Order(
        fence=fence.fence_of(parameters),
        drain_deadline_s=parameters["drain_deadline_s"],
        drain_policy=parameters["drain_policy"],
        start_timeout_s=parameters["start_timeout_s"],
        stop_timeout_s=parameters["stop_timeout_s"],
        wait_s=parameters["wait_s"],
    )
    back = parameters["state"] == "restored"
    act = host_side.restore if back else host_side.replace

    def move(replica: Dict[str, Any]) -> Dict[str, Any]:
        target = replica["was"] if back else replica["release"]
        done = act(host, order, replica["name"], replica["url"], target, replica["begun_s"])
        return {"id": replica["id"], **done.to_dict()}

    with ThreadPoolExecutor(max_workers=max(1, len(parameters["replicas"]))) as pool:
        return list(pool.map(move, parameters["replicas"]))


def preview(host: host_side.Host, parameters: Dict[str, Any]) -> List[Dict[str, Any]]:
    """What `move_all` would change, from what the host reports now."""
    found = host_side.describe(host)
    rows = []
    for replica in parameters["replicas"]:
        target = replica["was"] if parameters["state"] == "restored" else replica["release"]
        seen = found.get(replica["name"], {})
        arrived = seen.get("active") == "active" and seen.get("running") == target == seen.get("current")
        rows.append(
            {
                "id": replica["id"],
                "name": replica["name"],
                "release": target,
                "changed": not arrived,
                "gated": arrived,
                "step": "gated" if arrived else "",
                "error": "",
            }
        )
    return rows


def main() -> None:
    """Replace, unless in check mode; fail if any replica did not arrive."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    host = host_side.Host()
    before = host_side.describe(host) if module._diff else {}
    rows = preview(host, module.params) if module.check_mode else move_all(host, module.params)
    result: Dict[str, Any] = {"changed": any(row["changed"] for row in rows), "replicas": rows}
    if module._diff:
        result["diff"] = [
            {
                "before_header": row["id"],
                "after_header": row["id"],
                "before": "release: {0}\n".format(before.get(row["name"], {}).get("running") or "none"),
                "after": "release: {0}\n".format(row["release"] or "none"),
            }
            for row in rows
            if row["changed"]
        ]
    problems = host_side.unfinished(rows)
    if problems:
        lost = any(row.get("lost") for row in rows)
        module.fail_json(msg="\n".join(problems), **result, **({"lock_lost": True} if lost else {}))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
