#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Readmit targets of an Elastic Load Balancing target group, or look at them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: elb_targets
short_description: Readmit targets of an ELB target group, or look at them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Registers targets and waits until they are healthy. A target whose deregistration is still in progress is registered
    again at once, which M(community.aws.elb_target) does not do; that module takes targets out.
  - Speaks with AWS by boto3, with the credentials and the region that boto3 finds. Run it on the controller.
options:
  target_group_arn:
    description: The target group.
    type: str
    required: true
  targets:
    description: The targets.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Address or instance id, as the group's target type wants it.
        type: str
        required: true
      port:
        description: Port of the replica.
        type: int
        required: true
      name:
        description: What RV(out) calls it; the default is C(id:port).
        type: str
  state:
    description: What they are to be; V(seen) only looks.
    type: str
    choices: [ready, seen]
    required: true
  timeout_s:
    description: How long the first good check may take.
    type: float
    default: 900
  region:
    description: Region of the group; the default is the one of its ARN.
    type: str
attributes:
  check_mode:
    description: Says which targets would change, and waits for nothing.
    support: full
  diff_mode:
    description: State of each target before, and what it is to be.
    support: full
requirements:
  - boto3
"""

EXAMPLES = r"""
- name: Readmit the replica behind the load balancer
  trainyard.neuron.elb_targets:
    target_group_arn: "{{ llama_target_group }}"
    targets: [{id: 10.0.1.7, port: 8000}]
    state: ready
  delegate_to: localhost
"""

RETURN = r"""
targets:
  description: State of each target in the words of AWS, by C(id:port); C(unused) for one that is not registered.
  returned: always
  type: dict
  sample: {"10.0.1.7:8000": "healthy"}
out:
  description: Names of the targets that get nothing new because they are not registered (any more).
  returned: always
  type: list
  elements: str
arrived:
  description: Whether all of them are as wanted.
  returned: always
  type: bool
"""

import time
import traceback
from typing import Any, Callable, Dict, Sequence

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

BOTO3_ERROR = ""
try:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    boto3 = None  # type: ignore[assignment]
    BOTO3_ERROR = traceback.format_exc()

POLL_S = 2.0
OUT = ("unused", "draining")
HEALTHY = "healthy"
ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "target_group_arn": {"type": "str", "required": True},
    "targets": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "id": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "name": {"type": "str"},
        },
    },
    "state": {"type": "str", "choices": ["ready", "seen"], "required": True},
    "timeout_s": {"type": "float", "default": 900},
    "region": {"type": "str"},
}
Target = Dict[str, Any]


class Group:
    """One target group.

    Args:
        client: boto3's ``elbv2`` client.
        arn: the group.
        sleep: replaces ``time.sleep``.
        clock: replaces ``time.monotonic``.
    """

    def __init__(
        self,
        client: Any,
        arn: str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.arn = arn
        self.sleep = sleep
        self.clock = clock

    def states(self, targets: Sequence[Target]) -> Dict[str, str]:
        """State of each target by ``id:port``, in AWS's words."""
        wanted = [{"Id": target["id"], "Port": target["port"]} for target in targets]
        answer = self.client.describe_target_health(TargetGroupArn=self.arn, Targets=wanted)
        return {
            "{0}:{1}".format(row["Target"]["Id"], row["Target"]["Port"]): str(row["TargetHealth"]["State"])
            for row in answer["TargetHealthDescriptions"]
        }

    def register(self, targets: Sequence[Target]) -> None:
        """Send to targets as soon as they are healthy."""
        rows = [{"Id": target["id"], "Port": target["port"]} for target in targets]
        self.client.register_targets(TargetGroupArn=self.arn, Targets=rows)

    def wait(self, targets: Sequence[Target], timeout_s: float) -> Dict[str, str]:
        """The targets' states when all are healthy, or the time is over."""
        deadline = self.clock() + timeout_s
        while True:
            found = self.states(targets)
            if all(state == HEALTHY for state in found.values()) or self.clock() >= deadline:
                return found
            self.sleep(POLL_S)


def name(target: Target) -> str:
    """A target as AWS and this module name it."""
    return "{0}:{1}".format(target["id"], target["port"])


def steer(group: Group, wanted: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Carry out and say who is out."""
    result = carry_out(group, wanted, check_mode)
    out = [target for target in wanted["targets"] if result["targets"][name(target)] in OUT]
    return {**result, "out": sorted(target.get("name") or name(target) for target in out)}


def carry_out(group: Group, wanted: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Move the targets and wait; the module's result, with ``failed`` where they did not arrive."""
    targets, state = wanted["targets"], wanted["state"]
    before = group.states(targets)
    changing = [target for target in targets if state == "ready" and before[name(target)] in OUT]
    result: Dict[str, Any] = {"changed": bool(changing), "targets": before, "arrived": True, "msg": ""}
    result["diff"] = [
        {"before_header": name(target), "before": before[name(target)] + "\n", "after": state + "\n"}
        for target in changing
    ]
    if check_mode or state == "seen":
        return result
    if changing:
        group.register(changing)
    result["targets"] = group.wait(targets, wanted["timeout_s"])
    late = sorted("{0} is {1}".format(key, seen) for key, seen in result["targets"].items() if seen != HEALTHY)
    if late:
        said = "after {0:g} s: {1}; wanted {2}".format(wanted["timeout_s"], ", ".join(late), HEALTHY)
        result.update(failed=True, arrived=False, msg=said)
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if boto3 is None:
        module.fail_json(msg=missing_required_lib("boto3"), exception=BOTO3_ERROR)
    arn = module.params["target_group_arn"]
    region = module.params["region"] or arn.split(":")[3]
    try:
        group = Group(boto3.client("elbv2", region_name=region), arn)
        result = steer(group, module.params, module.check_mode)
    except (BotoCoreError, ClientError) as error:
        module.fail_json(msg="{0}: {1}".format(arn, error), arrived=False)
    if not module._diff:
        result.pop("diff")
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
