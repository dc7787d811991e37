# SPDX-License-Identifier: Apache-2.0
"""ansible-builder makes the execution environment, and ansible-navigator finds in it what a run needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.packaged.environment import Image

pytestmark = pytest.mark.lab


def test_the_image_has_the_collection_and_what_it_needs(built: Image) -> None:
    found: dict[str, dict[str, Any]] = json.loads(built.execute("ansible-galaxy collection list --format json"))
    assert {"trainyard.neuron", "amazon.aws", "ansible.posix"} <= {name for rows in found.values() for name in rows}
    assert built.execute("python3 -c 'import boto3, pydantic; print(1)'").strip() == "1"


def test_the_image_knows_the_playbooks_of_the_collection_and_what_they_do(built: Image) -> None:
    said = built.execute("ansible-playbook trainyard.neuron.site -i localhost, --list-tasks")
    assert "trainyard/neuron/playbooks/site.yml" in said
    assert "Give the fleet's lock back" in said
