# SPDX-License-Identifier: Apache-2.0
"""What a run starts with is left alone by Python's garbage collector; what it makes itself is still collected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COLLECTIONS = Path(__file__).resolve().parents[7]

# In a process of its own: the collector is set for all of it.
SCRIPT = """
import gc, weakref
from ansible.plugins.loader import callback_loader, filter_loader, init_plugin_loader, test_loader

init_plugin_loader()

class Cycle:
    def __init__(self):
        self.itself = self

loaded = Cycle()
assert any(found is loaded for found in gc.get_objects())
assert not filter_loader._cached_non_collection_wrappers
assert callback_loader.get("trainyard.neuron.garbage_collection")
print("filters and tests:", *(bool(loader._cached_non_collection_wrappers) for loader in (filter_loader, test_loader)))
print("looked at:", any(found is loaded for found in gc.get_objects()))

ended = []
for _ in range(200_000):
    cycle = Cycle()
    if not ended:
        weakref.finalize(cycle, ended.append, True)
print("collected:", bool(ended))
"""


def test_the_start_is_left_alone_the_rest_is_collected_and_workers_find_filters_loaded() -> None:
    found_by = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=found_by, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["filters and tests: True True", "looked at: False", "collected: True"]
