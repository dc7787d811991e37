# SPDX-License-Identifier: Apache-2.0
"""Start and end of the capacity block that a host of `aws_ec2.yml` is in, as EC2 says them now."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict

from ansible import constants
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.refusals import explain

#: An answer is kept so long in the run's own directory, seconds: many hosts of one block ask once.
KEPT_S = 60.0
BLOCK = "capacity-block"


class AskError(ValueError):
    """EC2 could not be asked, or refused; with what helps."""


def times_of(variables: Mapping[str, Any]) -> Dict[str, str]:
    """What EC2 says of a host's block: `id`, `start` and `end` in ISO form; empty for a host that is in none.

    Args:
        variables: the host's, with `capacity_reservation_id` and `placement.region` as `amazon.aws.aws_ec2` gives them.

    Raises:
        AskError: EC2 cannot be asked.
    """
    reservation = str(variables.get("capacity_reservation_id") or "")
    if not reservation:
        return {}
    return kept(str((variables.get("placement") or {}).get("region") or ""), reservation)


def kept(region: str, reservation: str) -> Dict[str, str]:
    """What EC2 said of a reservation within the last minute, or says now."""
    digest = hashlib.sha256("{0} {1}".format(region, reservation).encode()).hexdigest()[:32]
    path = Path(constants.DEFAULT_LOCAL_TMP, "trainyard-block-{0}.json".format(digest))
    try:
        row = json.loads(path.read_bytes())
        if 0 <= time.time() - row["asked_at"] < KEPT_S:
            return dict(row["said"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never asked, or half of it is there
    said = ask(region, reservation)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name("{0}.{1}".format(path.name, os.getpid()))
    new.write_text(json.dumps({"asked_at": time.time(), "said": said}), encoding="utf-8")
    new.replace(path)
    return said


def ask(region: str, reservation: str) -> Dict[str, str]:
    """Ask EC2 for a reservation; empty where it is no block.

    Raises:
        AskError: EC2 cannot be asked, or refuses.
    """
    doing = "asking when {0} ends".format(reservation)
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise AskError("{0} needs boto3 where ansible-core is: {1}".format(doing, error)) from error
    try:
        client = boto3.client("ec2", region_name=region or None)
        rows = client.describe_capacity_reservations(CapacityReservationIds=[reservation])["CapacityReservations"]
    except ClientError as error:
        said = error.response.get("Error", {})
        raise AskError(explain(said.get("Code", ""), said.get("Message", ""), doing)) from error
    except BotoCoreError as error:
        raise AskError("{0}: {1}".format(doing, error)) from error
    row = rows[0] if rows else {}
    if row.get("ReservationType") != BLOCK or "EndDate" not in row:
        return {}
    start = iso(row["StartDate"]) if "StartDate" in row else ""
    return {"id": reservation, "start": start, "end": iso(row["EndDate"])}
