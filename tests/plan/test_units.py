# SPDX-License-Identifier: Apache-2.0
"""Seconds have one suffix in all that an inventory may say, and a word of old is refused with the one of now."""

from __future__ import annotations

import re

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Schema
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import CANARY, REDEPLOY

from trainyard.paths import ROOT

RENAMED = [
    (schema, word) for schema in (REDEPLOY, CANARY) for word in schema.fields if word.endswith("_s")
]  # those that were `_seconds`


def test_no_word_of_the_reference_ends_otherwise() -> None:
    words = re.findall(r"^\| `(\w+)`", (ROOT / "docs/reference.md").read_text(), flags=re.MULTILINE)
    assert "drain_deadline_s" in words
    assert [word for word in words if re.search(r"_(seconds?|secs?)$", word)] == []


@pytest.mark.parametrize(("schema", "word"), RENAMED, ids=[word for _schema, word in RENAMED])
def test_the_former_word_is_refused_with_the_one_of_now(schema: Schema, word: str) -> None:
    _values, problems = schema.read({f"{word}econds": 5})
    assert len(problems) == 1
    assert problems[0].rule == "is no field here"
    assert problems[0].fix == f"did you mean {word!r}?"
