# SPDX-License-Identifier: Apache-2.0
"""Which image a tag of a container registry names now, asked as a host that pulls would ask. Nothing is pulled."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterable, Optional

#: What a tag may name: an image, or a list of the images of several processors. Either has one digest.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

#: More than any manifest has, bytes, and how long a registry may take to answer, seconds.
MOST_BYTES = 4 << 20
TIMEOUT_S = 20

#: `registry/name:tag`, where the registry's name has a dot or a port.
REFERENCE = re.compile(
    r"((?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d+)?|[A-Za-z0-9-]+:\d+)/([a-z0-9][a-z0-9._/-]*):([A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)


class RegistryError(Exception):
    """A registry did not say which image a tag names; says what it answered."""


def digest_of(reference: str, opener: Any = urllib.request) -> str:
    """Return the digest, `sha256:...`, of what a tag names now.

    Args:
        reference: `registry/name:tag`.
        opener: what opens requests; its `urlopen` follows proxies of the environment.

    Raises:
        RegistryError: it is no such reference, the registry cannot be reached, has no such tag, or wants credentials.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError("%r is no registry/name:tag" % reference)
    registry, name, tag = match.groups()
    url = "https://%s/v2/%s/manifests/%s" % (registry, name, tag)
    try:
        try:
            body = _get(opener, url, None)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            body = _get(opener, url, _token(opener, registry, name, error.headers.get("WWW-Authenticate") or ""))
    except urllib.error.HTTPError as error:
        raise RegistryError("%s answers %d %s for %s:%s" % (registry, error.code, error.reason, name, tag)) from error
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RegistryError("%s cannot be asked: %s" % (registry, reason)) from error
    # Of the bytes themselves: what a header says of them need not be so.
    return "sha256:" + hashlib.sha256(body).hexdigest()


def _get(opener: Any, url: str, token: Optional[str]) -> bytes:
    headers = {"Accept": ", ".join(MANIFESTS)}
    if token:
        headers["Authorization"] = "Bearer " + token
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - an https address
    with opener.urlopen(request, timeout=TIMEOUT_S) as answer:
        body = bytes(answer.read(MOST_BYTES + 1))
    if len(body) > MOST_BYTES:
        raise ValueError("its answer has more than %d bytes" % MOST_BYTES)
    return body


def _token(opener: Any, registry: str, name: str, challenge: str) -> str:
    """Return the token that a public registry gives to anybody.

    Raises:
        RegistryError: it gives none.
    """
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.get("realm", "")
    if not challenge.lower().startswith("bearer ") or urllib.parse.urlsplit(realm).scheme != "https":
        raise RegistryError("%s gives %s to nobody without credentials" % (registry, name))
    query = {"scope": asked.get("scope") or "repository:%s:pull" % name}
    if asked.get("service"):
        query["service"] = asked["service"]
    request = urllib.request.Request("%s?%s" % (realm, urllib.parse.urlencode(query)))  # noqa: S310 - https, see above
    with opener.urlopen(request, timeout=TIMEOUT_S) as answer:
        found = json.loads(answer.read(MOST_BYTES))
    token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise RegistryError("%s gives no token for %s" % (registry, name))
    return token


def asked(references: Iterable[str], opener: Any = urllib.request) -> Dict[str, Dict[str, str]]:
    """Return for each reference its `digest`, or the `error` why it is not known."""
    found = {}
    for reference in references:
        try:
            found[reference] = {"digest": digest_of(reference, opener)}
        except RegistryError as error:
            found[reference] = {"error": str(error)}
    return found
