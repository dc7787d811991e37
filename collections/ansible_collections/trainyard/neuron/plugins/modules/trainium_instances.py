#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Launch a fleet's hosts into a capacity block, once each, and end them by name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trainium_instances
short_description: Launch a fleet's hosts, once each, and end them by their ids
version_added: "0.2.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Hosts are known by the tags C(trainyard:fleet) and C(trainyard:host), and within EC2's delay of showing them by a
    client token that is made of the host, its words and the instances that had its name before. A run that was killed
    is gone on with, and no host is launched twice.
  - The type comes from the block. The subnet has to be in the block's zone, which is looked at before the first launch.
  - Metadata needs a session token, the root volume is encrypted, and an image is an id, so that a fleet stays what it
    was.
  - Hosts that are not wanted any more are named in RV(unwanted) and stay. O(state=absent) ends those that
    O(instance_ids) names.
options:
  fleet:
    description: Whose hosts they are, a name of yours.
    type: str
    required: true
  state:
    description: Whether the hosts are to be there, or the instances of O(instance_ids) to be ended.
    type: str
    choices: [present, absent]
    default: present
  hosts:
    description: The hosts that are wanted.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the host in the fleet.
        type: str
        required: true
      roles:
        description: Words of its tag C(trainyard), such as a deployment, C(router) and C(client).
        type: list
        elements: str
        required: true
  instance_ids:
    description: The instances to end; each has to carry the fleet's tag.
    type: list
    elements: str
    default: []
  reservation:
    description: Capacity block to launch into.
    type: str
  instance_type:
    description: Type of hosts that are in no block.
    type: str
  image_id:
    description: The AMI, by its id.
    type: str
  subnet_id:
    description: Where the hosts are.
    type: str
  security_group_ids:
    description: Of their interfaces.
    type: list
    elements: str
    default: []
  key_name:
    description: EC2 key pair; none where hosts are reached by SSM.
    type: str
    default: ""
  profile_arn:
    description: Instance profile of the hosts.
    type: str
    default: ""
  root_device:
    description: Name of the image's root volume.
    type: str
    default: /dev/sda1
  root_gib:
    description: Size of the root volume, in GiB; 512 at least.
    type: int
    default: 512
  efa:
    description: Give each network card an EFA interface; hosts that work together on one replica need it.
    type: bool
    default: false
  public_address:
    description: Give each host a public address; impossible with O(efa).
    type: bool
    default: false
  user_data:
    description: What a host runs at its first start.
    type: str
    default: ""
  wait_s:
    description: How long to wait until every host runs, or has ended.
    type: int
    default: 900
  answer_s:
    description:
      - How long to wait, once the hosts run, until each answers by SSH, at its private address or its public one.
      - V(0) does not ask, as for hosts that are reached by SSM.
    type: int
    default: 0
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says what would be launched or ended, and asks EC2 whether it would let it through.
    support: full
  diff_mode:
    description: Has none.
    support: none
"""

EXAMPLES = r"""
- name: Launch two hosts into the block
  trainyard.neuron.trainium_instances:
    region: us-east-2
    fleet: llama
    reservation: cr-1
    image_id: ami-1
    subnet_id: subnet-1
    security_group_ids: [sg-1]
    key_name: operator
    hosts:
      - {name: trn2-1, roles: [llama-3-3-70b, router]}
      - {name: trn2-2, roles: [llama-3-3-70b]}

- name: End one that is broken
  trainyard.neuron.trainium_instances:
    region: us-east-2
    fleet: llama
    state: absent
    instance_ids: [i-1]
"""

RETURN = r"""
instances:
  description: The fleet's instances that are there, after this.
  returned: always
  type: list
  elements: dict
  sample: [{"id": "i-1", "host": "trn2-1", "roles": ["router"], "state": "running", "address": "10.0.1.7"}]
launched:
  description: Names of the hosts that this run launched, or would launch.
  returned: always
  type: list
  elements: str
ended:
  description: Ids of the instances that this run ended, or would end.
  returned: always
  type: list
  elements: str
unwanted:
  description: Instances of the fleet whose host is not wanted.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import time
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple, Type

with contextlib.suppress(ImportError):  # AnsibleAWSModule says it
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import answers, instances
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.asking import attempt, may
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import (
    POLL_S,
    SHOWN_AFTER_S,
    Block,
    block_of,
    pages,
)

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "fleet": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "hosts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "roles": {"type": "list", "elements": "str", "required": True},
        },
    },
    "instance_ids": {"type": "list", "elements": "str", "default": []},
    "reservation": {"type": "str"},
    "instance_type": {"type": "str"},
    "image_id": {"type": "str"},
    "subnet_id": {"type": "str"},
    "security_group_ids": {"type": "list", "elements": "str", "default": []},
    "key_name": {"type": "str", "default": ""},
    "profile_arn": {"type": "str", "default": ""},
    "root_device": {"type": "str", "default": "/dev/sda1"},
    "root_gib": {"type": "int", "default": instances.LEAST_ROOT_GIB},
    "efa": {"type": "bool", "default": False},
    "public_address": {"type": "bool", "default": False},
    "user_data": {"type": "str", "default": ""},
    "wait_s": {"type": "int", "default": 900},
    "answer_s": {"type": "int", "default": 0},
}
Errors = Tuple[Type[Exception], ...]
LAUNCH_ATTEMPTS = 3
ELSEWHERE = (
    "host {0} answers at its public address alone: in aws_ec2.yml, have ansible_host be public_ip_address (compose)"
)


class Fleet:
    """The instances of one fleet.

    Args:
        client: boto3's ``ec2`` client.
        name: of the fleet.
        errors: botocore's exceptions.
        check_mode: whether nothing may be changed.
        sleep: replaces ``time.sleep``.
        clock: replaces ``time.monotonic``.
        ask: says why no SSH server answers at an address.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        errors: Errors,
        check_mode: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        ask: answers.Ask = answers.why_silent,
    ) -> None:
        self.client = client
        self.name = name
        self.errors = errors
        self.check_mode = check_mode
        self.sleep = sleep
        self.clock = clock
        self.ask = ask

    def find(self) -> List[instances.Instance]:
        """The instances that carry the fleet's tag, ended ones too, as long as EC2 shows them."""
        wanted = [{"Name": "tag:" + instances.FLEET_TAG, "Values": [self.name]}]
        rows = pages(self.client.describe_instances, "Reservations", Filters=wanted)
        return [instances.read(instance) for row in rows for instance in row["Instances"]]

    def launch(self, launch: instances.Launch, host: instances.Host, before: Sequence[str]) -> instances.Instance:
        """Launch one host; the instance of an earlier, killed run where there is one.

        A token whose instance has ended since belongs to the past: the host gets the next one.
        """
        before = list(before)
        for _attempt in range(LAUNCH_ATTEMPTS):
            answer = self.client.run_instances(**instances.request(launch, host, before))
            instance = instances.read(answer["Instances"][0])
            if self.is_alive(instance.id):
                return instance
            before.append(instance.id)
        raise instances.LaunchError(
            "host {0} was launched {1} times and ended each time: {2}. `aws ec2 describe-instances` says why in "
            "StateReason".format(host.name, LAUNCH_ATTEMPTS, ", ".join(before[-LAUNCH_ATTEMPTS:]))
        )

    def is_alive(self, identifier: str) -> bool:
        """Whether an instance that a launch answered with is there; one that EC2 does not show in time is not."""
        waited_s = 0.0
        while True:
            wanted = [{"Name": "instance-id", "Values": [identifier]}]
            rows = pages(self.client.describe_instances, "Reservations", Filters=wanted)
            found = [instances.read(instance) for row in rows for instance in row["Instances"]]
            if found or waited_s >= SHOWN_AFTER_S:
                return any(instance.state in instances.ALIVE for instance in found)
            self.sleep(POLL_S)
            waited_s += POLL_S

    def wait(self, ids: Sequence[str], goal: str, timeout_s: float) -> None:
        """Wait until instances are in a state.

        Raises:
            instances.LaunchError: the time is over, or an instance that was to run has ended.
        """
        deadline = self.clock() + timeout_s
        while ids:
            found = {instance.id: instance.state for instance in self.find() if instance.id in ids}
            gone = sorted(one for one, state in found.items() if state in ("terminated", "shutting-down"))
            if goal == "running" and gone:
                raise instances.LaunchError(
                    "{0} ended while it started: `aws ec2 describe-instances` says why in StateReason".format(
                        ", ".join(gone)
                    )
                )
            late = sorted(set(ids) - {one for one, state in found.items() if state == goal})
            if not late:
                return
            if self.clock() >= deadline:
                said = "after {0:g} s not {1}: {2}. Run again: what was launched is found by its tags"
                raise instances.LaunchError(said.format(timeout_s, goal, ", ".join(late)))
            self.sleep(POLL_S)

    def wait_for_answers(self, ids: Sequence[str], timeout_s: float) -> List[str]:
        """Wait until an SSH server answers on each instance; warnings of those that do so elsewhere than expected.

        Raises:
            instances.LaunchError: the time is over; with what is known of each, and what helps.
        """
        deadline = self.clock() + timeout_s
        while True:
            found = [instance for instance in self.find() if instance.id in ids]
            silent = answers.reasons([(one.id, (one.address, one.public_address)) for one in found], self.ask)
            if not silent:
                elsewhere = answers.reasons([(one.host, (one.address,)) for one in found], self.ask)
                return [ELSEWHERE.format(name) for name in sorted(elsewhere)]
            if self.clock() >= deadline:
                break
            self.sleep(POLL_S)
        checked = answers.checks(
            pages(self.client.describe_instance_status, "InstanceStatuses", InstanceIds=list(silent))
        )
        rows = [
            "{0} ({1}, {2}): {3}. EC2's checks of it: {4}".format(
                one.host, one.id, one.address or "no address", silent[one.id], checked.get(one.id) or "none yet"
            )
            for one in found
            if one.id in silent
        ]
        raise instances.LaunchError(
            "the hosts run and cost, and after {0:g} s no SSH server answers on {1} of {2}: {3}. Nothing was ended: "
            "mend it and run again, which launches nothing twice".format(
                timeout_s, len(silent), len(found), "; ".join(rows)
            )
        )


def hosts_of(rows: Sequence[Mapping[str, Any]]) -> List[instances.Host]:
    """The hosts of a task."""
    return [instances.Host(row["name"], tuple(row["roles"])) for row in rows]


def launch_of(given: Mapping[str, Any], block: Any) -> instances.Launch:
    """What a task launches.

    Raises:
        instances.LaunchError: words are missing, or contradict the block; all at once.
    """
    missing = [name for name in ("image_id", "subnet_id", "security_group_ids") if not given.get(name)]
    wrong = ["{0} is missing".format(name) for name in missing]
    instance_type = block.instance_type if block else given.get("instance_type") or ""
    if not instance_type:
        wrong.append("instance_type: hosts that are in no block need one")
    if block and given.get("instance_type") not in (None, "", block.instance_type):
        wrong.append(
            "instance_type: block {0} has {1}, not {2}".format(block.id, block.instance_type, given["instance_type"])
        )
    if wrong:
        raise instances.LaunchError("; ".join(wrong))
    return instances.Launch(
        fleet=given["fleet"],
        image_id=given["image_id"],
        instance_type=instance_type,
        reservation=block.id if block else "",
        subnet_id=given["subnet_id"],
        security_group_ids=tuple(given["security_group_ids"]),
        key_name=given["key_name"],
        profile_arn=given["profile_arn"],
        root_device=given["root_device"],
        root_gib=given["root_gib"],
        efa=given["efa"],
        public_address=given["public_address"],
        user_data=given["user_data"],
    )


def place_problems(client: Any, launch: instances.Launch, block: Block, wanted: int) -> List[str]:
    """Why a block cannot take these hosts now: it is not there yet, its zone is another, it is full."""
    found = []
    if block.state != "active":
        found.append(
            "block {0} is {1}; it can be launched into from {2:%Y-%m-%d %H:%M} UTC".format(
                block.id, block.state, block.start
            )
        )
    else:
        full = instances.slots_problem(wanted, block.free_count, block.id)
        found += [full] if full else []
    (subnet,) = client.describe_subnets(SubnetIds=[launch.subnet_id])["Subnets"]
    if subnet["AvailabilityZone"] != block.zone:
        found.append(
            "subnet {0} is in {1}, and block {2} in {3}".format(
                launch.subnet_id, subnet["AvailabilityZone"], block.id, block.zone
            )
        )
    return found


def present(fleet: Fleet, given: Mapping[str, Any]) -> Dict[str, Any]:
    """Bring the fleet's hosts to what is wanted.

    Raises:
        instances.LaunchError: they cannot be; nothing was launched.
    """
    block = block_of(fleet.client, given["reservation"]) if given.get("reservation") else None
    launch, hosts = launch_of(given, block), hosts_of(given["hosts"])
    problems = instances.problems(launch, hosts)
    change = instances.compare(launch, hosts, fleet.find())
    waited_s = 0.0
    # Slots that are taken may be those of a killed run's hosts, which EC2 shows only after a while.
    while block and block.free_count < len(change.launch) and block.state == "active" and waited_s < SHOWN_AFTER_S:
        fleet.sleep(POLL_S)
        waited_s += POLL_S
        change = instances.compare(launch, hosts, fleet.find())
    if block and change.launch:
        problems += place_problems(fleet.client, launch, block, len(change.launch))
    if problems:
        raise instances.LaunchError("; ".join(problems))
    launched, warnings = [host.name for host, _before in change.launch], []
    if fleet.check_mode:
        for host, before in change.launch:
            may(fleet.client.run_instances, fleet.errors, **instances.request(launch, host, before))
    else:
        # EC2 needs a while to show what it launched: these are waited for by their own ids.
        new = [fleet.launch(launch, host, before).id for host, before in change.launch]
        for identifier, roles in change.retag:
            tag = {"Key": instances.ROLES_TAG, "Value": " ".join(roles)}
            fleet.client.create_tags(Resources=[identifier], Tags=[tag])
        ids = new + [instance.id for instance in change.kept]
        fleet.wait(ids, "running", given["wait_s"])
        warnings = fleet.wait_for_answers(ids, given["answer_s"]) if given["answer_s"] else []
    return {
        "changed": bool(change.launch or change.retag),
        "launched": launched,
        "ended": [],
        "unwanted": [instance.as_dict() for instance in change.unwanted],
        **({"warnings": warnings} if warnings else {}),
    }


def absent(fleet: Fleet, given: Mapping[str, Any]) -> Dict[str, Any]:
    """End instances.

    Raises:
        instances.LaunchError: one of them is not the fleet's; none was ended.
    """
    found = {instance.id: instance for instance in fleet.find()}
    foreign = sorted(set(given["instance_ids"]) - set(found))
    if foreign:
        raise instances.LaunchError(
            "{0} carry no tag {1}={2}: none was ended".format(", ".join(foreign), instances.FLEET_TAG, fleet.name)
        )
    ending = sorted(one for one in set(given["instance_ids"]) if found[one].state in instances.ALIVE)
    if ending and fleet.check_mode:
        may(fleet.client.terminate_instances, fleet.errors, InstanceIds=ending)
    elif ending:
        fleet.client.terminate_instances(InstanceIds=ending)
        fleet.wait(ending, "terminated", given["wait_s"])
    return {"changed": bool(ending), "launched": [], "ended": ending, "unwanted": []}


def ensure(fleet: Fleet, given: Mapping[str, Any]) -> Dict[str, Any]:
    """The module's result."""
    result = (present if given["state"] == "present" else absent)(fleet, given)
    alive = [instance for instance in fleet.find() if instance.state in instances.ALIVE]
    return {**result, "instances": [row.as_dict() for row in sorted(alive, key=lambda row: (row.host, row.id))]}


def main() -> None:
    """Entry point."""
    module = AnsibleAWSModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        required_if=[("state", "absent", ["instance_ids"]), ("state", "present", ["hosts"])],
    )
    given, errors = module.params, (BotoCoreError, ClientError)

    def work() -> Dict[str, Any]:
        return ensure(Fleet(module.client("ec2"), given["fleet"], errors, module.check_mode), given)

    module.exit_json(**attempt(module.fail_json, "hosts of " + given["fleet"], errors, work))


if __name__ == "__main__":
    main()
