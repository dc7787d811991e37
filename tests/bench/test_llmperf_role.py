# SPDX-License-Identifier: Apache-2.0
"""What can be said of the patches without LLMPerf's source."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source

from bench import llmperf_digests

ROLE = Path(__file__).parents[2] / "roles/llmperf_patched"


def test_the_patched_tree_s_digest_was_computed_for_these_patches() -> None:
    known = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert known["__llmperf_patched_inputs_digest"] == llmperf_digests.inputs_digest(), "run bench/llmperf_digests.py"


def test_patches_have_reasons_and_do_not_overlap() -> None:
    patches = yaml.safe_load((ROLE / "files/patches.yml").read_text())
    edits = patched_source.edits_of(patches)
    assert all(len(edit.was) == 12 for edit in edits if edit.last >= edit.first)
    assert len({patch["name"] for patch in patches}) == len(patches)
