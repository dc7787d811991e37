# SPDX-License-Identifier: Apache-2.0
"""Requests to S3 as AWS wants them signed (Signature Version 4), with the standard library alone.

A host has no boto3 before the first run; its first question to the store comes before that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.parse
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

Fetch = Callable[..., Tuple[int, bytes, Mapping[str, str]]]

METADATA = "http://169.254.169.254/latest"

_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    """Credentials of AWS; `token` is that of a session, `region` what else was found on the way."""

    access: str
    secret: str
    token: str = ""
    region: str = ""


def credentials(environment: Mapping[str, Any], fetch: Fetch) -> Optional[Keys]:
    """Return the credentials that a job on this host would have: of its environment, else of the instance.

    Args:
        environment: what the job is given.
        fetch: asks an address (`sources.fetch`).
    """
    given = {key: str(value) for key, value in environment.items()}
    if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
        return Keys(given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given.get("AWS_SESSION_TOKEN", ""))
    base = (given.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA[: -len("/latest")]).rstrip("/") + "/latest"
    try:
        _code, session, _headers = fetch(base + "/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        headers = {"X-aws-ec2-metadata-token": session.decode("ascii")}
        roles = base + "/meta-data/iam/security-credentials/"
        code, role, _headers = fetch(roles, headers)
        if code != 200:
            return None
        _code, text, _headers = fetch(roles + role.decode("utf-8").splitlines()[0], headers)
        found = json.loads(text)
        _code, region, _headers = fetch(base + "/meta-data/placement/region", headers)
        return Keys(found["AccessKeyId"], found["SecretAccessKey"], found["Token"], region.decode("ascii", "replace"))
    except Exception:  # noqa: BLE001 - whatever the metadata service does not say, there are no credentials then
        return None


@dataclass(frozen=True)
class Bucket:
    """A bucket as one host reaches it.

    Attributes:
        name: of the bucket.
        keys: credentials.
        endpoint: address of the service, empty for AWS's own.
        environment: of the job, whose region counts.
        region: where the bucket is, as far as it is known.
    """

    name: str
    keys: Keys
    endpoint: str = ""
    environment: Mapping[str, Any] = None  # type: ignore[assignment]
    region: str = ""

    def in_region(self, region: str) -> "Bucket":
        """Return the same bucket, asked in another region."""
        return replace(self, region=region)

    def _region(self) -> str:
        given = self.environment or {}
        named = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION")
        return self.region or str(named or "") or self.keys.region or "us-east-1"

    def send(self, fetch: Fetch, method: str, key: str, query: str) -> Tuple[int, bytes, Mapping[str, str]]:
        """Send a request without content to an object of the bucket; arguments as `signed`, returns as `fetch`."""
        region = self._region()
        endpoint = (self.endpoint or "https://s3.%s.amazonaws.com" % region).rstrip("/")
        path = "/%s/%s" % (self.name, urllib.parse.quote(key, safe="/-_.~"))
        # urllib names the host itself, as the signature has it.
        host = urllib.parse.urlsplit(endpoint).netloc
        headers = signed(method, host, path, query, region, self.keys, datetime.now(timezone.utc))
        return fetch("%s%s?%s" % (endpoint, path, query), headers, method, b"" if method == "POST" else None)


def signed(method: str, host: str, path: str, query: str, region: str, keys: Keys, now: datetime) -> Dict[str, str]:
    """Return the headers of a request without content.

    Args:
        method: of HTTP.
        host: with its port, where it has one.
        path: quoted.
        query: `name=value`, quoted; one of them.
        region: of the service.
        keys: credentials.
        now: the time, in UTC.
    """
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [method, path, query, *("%s:%s" % (name, headers[name]) for name in sorted(headers)), "", names, _EMPTY]
    )
    scope = "%s/%s/s3/aws4_request" % (day, region)
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + keys.secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
        keys.access,
        scope,
        names,
        signature,
    )
    return {name: value for name, value in headers.items() if name != "host"}
