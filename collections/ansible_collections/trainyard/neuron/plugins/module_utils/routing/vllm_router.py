# SPDX-License-Identifier: Apache-2.0
"""Which replicas vllm-router chooses among, changed while it runs: its streams go on, and what it remembers stays.

Calls are those of vllm-router 0.1 (``/list_workers``, ``/add_worker``, ``/remove_worker``).
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import List, Sequence, Tuple

from .haproxy import TIMEOUT_S, RouterError

MOST_BYTES = 1 << 22
"""Of an answer; a list of a thousand workers has a hundredth of it."""


def set_workers(base: str, wanted: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Bring the workers of the vllm-router at ``base`` to a list of addresses; those added, and those removed.

    The new come first, so that there is always one to choose.

    Raises:
        RouterError: it does not answer, or refuses; what was done until then stays.
    """
    answer = _call("GET", base + "/list_workers")
    try:
        known: List[str] = [str(url) for url in json.loads(answer)["urls"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RouterError("{0}/list_workers answers no list of workers: {1!r:.200}".format(base, answer)) from error
    added = [url for url in wanted if url not in known]
    removed = [url for url in known if url not in wanted]
    for verb, urls in (("add", added), ("remove", removed)):
        for url in urls:
            _call("POST", "{0}/{1}_worker?{2}".format(base, verb, urllib.parse.urlencode({"url": url})))
    return added, removed


def _call(method: str, url: str) -> bytes:
    request = urllib.request.Request(url, method=method)  # noqa: S310 (an address of this host)
    try:
        # What a host asks of itself goes by no proxy.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(MOST_BYTES)
            return data
    except urllib.error.HTTPError as error:
        raise RouterError("{0} {1}: {2}".format(method, url, error.read(300).decode("utf-8", "replace"))) from error
    except (OSError, http.client.HTTPException) as error:
        said = "{0}: {1}; `systemctl status 'trainyard-vllm-router@*'` says more"
        raise RouterError(said.format(url, error)) from error
