# SPDX-License-Identifier: Apache-2.0
"""What EC2's refusals mean and what helps. A code that is not known here is shown as EC2 says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict


@dataclass(frozen=True)
class Refusal:
    """A kind of refusal.

    Args:
        cause: what is wrong, in the words of an operator.
        remedy: what to do.
        passes: whether waiting alone may help.
    """

    cause: str
    remedy: str
    passes: bool = False


_CLOCK = Refusal("this machine's clock is not EC2's", "set the clock (timedatectl set-ntp true) and run again")
_CREDENTIALS = Refusal(
    "the credentials are not valid here", "look at `aws sts get-caller-identity`: another profile, or a new session"
)
_PERMISSION = Refusal(
    "these credentials may not do that",
    "the policies of docs/iam say which call needs which; buying has a policy of its own",
)
_BUSY = Refusal("EC2 answers too many calls of this account", "run again in a minute", passes=True)
_NO_CAPACITY = Refusal(
    "no instance is free there",
    "a block that has just begun gives its hosts within minutes, one whose host was terminated when that has ended",
    passes=True,
)
_QUOTA = Refusal("the account's quota is used up", "ask for more in Service Quotas, or end what is not needed")

KNOWN: Dict[str, Refusal] = {
    "RequestExpired": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "InvalidSignatureException": _CLOCK,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "AuthFailure": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "OptInRequired": Refusal("the account has not been enabled for this region", "enable it in the account's settings"),
    "PendingVerification": Refusal("EC2 still looks at this account", "wait for its mail", passes=True),
    "UnauthorizedOperation": _PERMISSION,
    "AccessDenied": _PERMISSION,
    "AccessDeniedException": _PERMISSION,
    "RequestLimitExceeded": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "Unavailable": _BUSY,
    "InternalError": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InsufficientInstanceCapacity": _NO_CAPACITY,
    "InsufficientCapacity": _NO_CAPACITY,
    "ReservationCapacityExceeded": Refusal(
        "the block has fewer free slots than hosts are asked for",
        "ask for fewer, or end hosts in it first: a slot is free when its host is terminated",
        passes=True,
    ),
    "VcpuLimitExceeded": _QUOTA,
    "InstanceLimitExceeded": _QUOTA,
    "CapacityReservationLimitExceeded": _QUOTA,
    "InvalidSubnetID.NotFound": Refusal("there is no such subnet", "look at the region and the subnet's id"),
    "InvalidAMIID.NotFound": Refusal("there is no such image", "an image's id belongs to one region"),
    "InvalidCapacityReservationId.NotFound": Refusal("there is no such block", "look at the region and the id"),
    "InvalidCapacityBlockOfferingId.NotFound": Refusal("the offer is gone", "search again and confirm another"),
    "IdempotentParameterMismatch": Refusal(
        "this launch was asked for before with other words", "the words of a host that was launched stay what they were"
    ),
}


def explain(code: str, message: str, doing: str) -> str:
    """Say what a refusal means.

    Args:
        code: EC2's code.
        message: EC2's words, always shown.
        doing: what was tried, such as ``buying cb-1``.
    """
    known = KNOWN.get(code)
    if known is None:
        return "{0}: EC2 refused with {1}: {2}".format(doing, code or "no code", message)
    return "{0}: {1} ({2}: {3}). {4}".format(
        doing, known.cause, code, message, known.remedy[:1].upper() + known.remedy[1:]
    )
