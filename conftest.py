# SPDX-License-Identifier: Apache-2.0
"""What all tests share, the collection's and the toolkit's."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# An example takes what the machine lets it take: what must be quick says so itself, in processor time.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")


def _finds_collections() -> bool:
    loaded = sys.modules.get("ansible.utils.collection_loader")
    return loaded is not None and loaded.AnsibleCollectionConfig.collection_finder is not None


@pytest.fixture(autouse=True)
def _import_as_before() -> Iterator[None]:
    """Undo what opening an inventory changes in this process: how the collection is imported from then on."""
    before = _finds_collections()
    yield
    if not before and _finds_collections():
        from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

        _AnsibleCollectionFinder._remove()
        if "trainyard.plan_command" in sys.modules:
            sys.modules["trainyard.plan_command"].open_inventory.cache_clear()
