# SPDX-License-Identifier: Apache-2.0
"""What the modules of capacity blocks share: words of a search, and one way in which they fail."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Callable, Dict, Mapping, Tuple, Type, TypeVar

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import BlockError
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.instances import LaunchError
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import (
    OfferError,
    Wish,
    moment_of,
    money_of,
    problems_of,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.refusals import explain

WISH_SPEC: Dict[str, Dict[str, Any]] = {
    "instance_type": {"type": "str"},
    "instance_count": {"type": "int", "default": 1},
    "hours": {"type": "int"},
    "earliest_start": {"type": "str"},
    "latest_end": {"type": "str"},
    "budget": {"type": "str"},
}
Result = TypeVar("Result")


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(timezone.utc)


def wish_of(given: Mapping[str, Any]) -> Wish:
    """What a task searches for.

    Raises:
        OfferError: no offer can meet it; all reasons at once.
    """
    missing = [name for name in ("instance_type", "hours") if not given.get(name)]
    if missing:
        raise OfferError("a search needs {0}".format(" and ".join(missing)))
    wish = Wish(
        instance_type=given["instance_type"],
        instance_count=given["instance_count"],
        hours=given["hours"],
        earliest_start=moment_of(given["earliest_start"], "earliest_start") if given.get("earliest_start") else None,
        latest_end=moment_of(given["latest_end"], "latest_end") if given.get("latest_end") else None,
        budget=money_of(given["budget"], "budget") if given.get("budget") else None,
    )
    found = problems_of(wish)
    if found:
        raise OfferError("; ".join(found))
    return wish


def attempt(
    fail: Callable[..., Any], doing: str, errors: Tuple[Type[Exception], ...], work: Callable[[], Result]
) -> Result:
    """Do work with EC2; what goes wrong ends the module in one line.

    Args:
        fail: the module's ``fail_json``.
        doing: what is tried, as ``buying cbo-1``.
        errors: botocore's exceptions.
        work: to be done.
    """
    try:
        return work()
    except (OfferError, BlockError, LaunchError) as error:
        fail(msg=str(error))
    except errors as error:
        answer = getattr(error, "response", None) or {}
        said = answer.get("Error") or {}
        # Without an answer (no network, no credentials) the exception's own words are all there is.
        fail(msg=explain(str(said.get("Code", "")), str(said.get("Message", error)), doing), code=said.get("Code"))
    raise AssertionError("fail_json returned")


def may(client_call: Callable[..., Any], errors: Tuple[Type[Exception], ...], **asked: Any) -> None:
    """Ask EC2 whether a call would be let through, without making it.

    Raises:
        botocore.exceptions.ClientError: it would not.
    """
    try:
        client_call(DryRun=True, **asked)
    except errors as error:
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code")
        if code != "DryRunOperation":
            raise
