# SPDX-License-Identifier: Apache-2.0
"""What EC2 has scheduled for a fleet's instances, as `describe_instance_status` says it: retirement, a reboot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.refusals import explain
from ansible_collections.trainyard.neuron.plugins.plugin_utils.ec2_blocks import AskError

#: After these the instance is gone, or its instance store is.
ENDS = ("instance-retirement", "instance-stop")
#: EC2 shows an event for days after it is over.
OVER = ("[Completed]", "[Canceled]")
MOST_IDS = 100


@dataclass(frozen=True)
class Event:
    """Something that EC2 will do to an instance.

    Attributes:
        host: its name in the inventory.
        instance: its id.
        id: of the event.
        code: EC2's word.
        at: not before, with a time zone.
    """

    host: str
    instance: str
    id: str
    code: str
    at: datetime

    def line(self) -> str:
        """The event for people, with what to do."""
        said = "EC2 has %s scheduled for %s (%s), not before %s" % (self.code, self.host, self.instance, iso(self.at))
        if self.code in ENDS:
            said += ": replace the host before (playbooks/launch.yml with another, then site.yml), and have it leave"
            return said + " (playbooks/evacuate.yml -e trainyard_only=%s)" % self.host
        return said + ": drain its replicas before, and see that they come back (playbooks/status.yml)"


def instances_of(hostvars: Mapping[str, Mapping[str, Any]]) -> Dict[str, Dict[str, str]]:
    """The hosts that `amazon.aws.aws_ec2` found: region to instance id to host."""
    found: Dict[str, Dict[str, str]] = {}
    for host, variables in hostvars.items():
        instance, region = variables.get("instance_id"), (variables.get("placement") or {}).get("region")
        if instance and region:
            found.setdefault(str(region), {})[str(instance)] = host
    return found


def read(rows: Sequence[Mapping[str, Any]], hosts: Mapping[str, str]) -> List[Event]:
    """Read the events of EC2's answer that are still to come, the first of them first."""
    found: List[Event] = []
    for row in rows:
        for event in row.get("Events") or []:
            if event.get("NotBefore") is None or str(event.get("Description", "")).startswith(OVER):
                continue
            instance, code = str(row["InstanceId"]), str(event.get("Code", ""))
            identifier = str(event.get("InstanceEventId") or "%s %s" % (instance, code))
            found.append(Event(hosts[instance], instance, identifier, code, event["NotBefore"]))
    return sorted(found, key=lambda event: (event.at, event.host, event.id))


def ask(instances: Mapping[str, Mapping[str, str]]) -> List[Event]:
    """Ask EC2 what it has scheduled.

    Raises:
        AskError: EC2 cannot be asked, or refuses.
    """
    if not instances:
        return []
    doing = "asking what EC2 has scheduled"
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise AskError("{0} needs boto3 where ansible-core is: {1}".format(doing, error)) from error
    found: List[Event] = []
    try:
        for region, hosts in instances.items():
            client = boto3.client("ec2", region_name=region)
            for ids in _parts(sorted(hosts)):
                answer = client.describe_instance_status(InstanceIds=list(ids), IncludeAllInstances=True)
                found += read(answer["InstanceStatuses"], hosts)
    except ClientError as error:
        said = error.response.get("Error", {})
        raise AskError(explain(said.get("Code", ""), said.get("Message", ""), doing)) from error
    except BotoCoreError as error:
        raise AskError("{0}: {1}".format(doing, error)) from error
    return found


def _parts(ids: List[str]) -> List[Tuple[str, ...]]:
    return [tuple(ids[at : at + MOST_IDS]) for at in range(0, len(ids), MOST_IDS)]
