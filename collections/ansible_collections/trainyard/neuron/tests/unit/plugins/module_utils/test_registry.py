# SPDX-License-Identifier: Apache-2.0
"""What a registry is asked, and what of its answers is believed."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import registry

REFERENCE = "public.ecr.aws/neuron/vllm:1.0"
MANIFEST = json.dumps({"schemaVersion": 2}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
CHALLENGE = 'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="repository:neuron/vllm:pull"'


class World:
    """A registry: answers by address, and what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, []

    def urlopen(self, request: urllib.request.Request, timeout: float) -> Any:
        assert timeout
        self.asked.append((request.full_url, request.headers.get("Authorization")))
        kind = "token" if "/token/" in request.full_url else "named" if request.headers.get("Authorization") else "open"
        answer = self.answers[kind]
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)


def refused(code: int, challenge: str = "") -> urllib.error.HTTPError:
    headers = Message()
    headers["WWW-Authenticate"] = challenge
    return urllib.error.HTTPError("https://x", code, "no", headers, None)


def test_a_public_registry_gives_anybody_a_token_and_the_digest_is_that_of_the_bytes() -> None:
    world = World(open=refused(401, CHALLENGE), token=b'{"token": "abc"}', named=MANIFEST)
    assert registry.digest_of(REFERENCE, world) == DIGEST
    manifest = "https://public.ecr.aws/v2/neuron/vllm/manifests/1.0"
    assert [url.split("?")[0] for url, _ in world.asked] == [manifest, "https://public.ecr.aws/token/", manifest]
    assert "scope=repository%3Aneuron%2Fvllm%3Apull" in world.asked[1][0]
    assert world.asked[2][1] == "Bearer abc"


def test_a_registry_that_asks_nobody_for_a_token_is_asked_once() -> None:
    world = World(open=MANIFEST)
    assert registry.digest_of("mirror:5000/neuron/vllm:1.0", world) == DIGEST
    assert [url for url, _ in world.asked] == ["https://mirror:5000/v2/neuron/vllm/manifests/1.0"]


@pytest.mark.parametrize(
    ("world", "said"),
    [
        (World(open=refused(404)), "public.ecr.aws answers 404 no for neuron/vllm:1.0"),
        (World(open=refused(401)), "gives neuron/vllm to nobody without credentials"),
        (World(open=refused(401, CHALLENGE.replace("https", "http"))), "to nobody without credentials"),
        (World(open=refused(401, CHALLENGE), token=b"[]"), "gives no token"),
        (World(open=refused(401, CHALLENGE), token=b'{"token": "a b"}'), "gives no token"),
        (World(open=refused(401, CHALLENGE), token=b"<html>"), "public.ecr.aws cannot be asked"),
        (World(open=urllib.error.URLError("no route")), "public.ecr.aws cannot be asked: no route"),
        (World(open=b"x" * (registry.MOST_BYTES + 1)), "its answer has more than"),
    ],
)
def test_what_is_no_answer_is_said(world: World, said: str) -> None:
    found = registry.asked([REFERENCE], world)[REFERENCE]
    assert set(found) == {"error"}
    assert said in found["error"]


@pytest.mark.parametrize(
    "reference", ["neuron/vllm:1.0", "public.ecr.aws/neuron/vllm", "a.b/c@sha256:0", "a.b/c:d e", "-o.b/../c:1"]
)
def test_what_is_no_reference_asks_nobody(reference: str) -> None:
    with pytest.raises(registry.RegistryError, match="is no registry/name:tag"):
        registry.digest_of(reference, World())


def test_a_registry_that_speaks_no_http_is_told_as_such() -> None:
    with pytest.raises(registry.RegistryError, match="cannot be asked: 220 a mail server"):
        registry.digest_of(REFERENCE, World(open=http.client.BadStatusLine("220 a mail server")))
