# SPDX-License-Identifier: Apache-2.0
"""What all tests share, the collection's and the toolkit's."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.accounts import empty_account

# An example takes what the machine lets it take: what must be quick says so itself, in processor time.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")


def _finds_collections() -> bool:
    loaded = sys.modules.get("ansible.utils.collection_loader")
    return loaded is not None and loaded.AnsibleCollectionConfig.collection_finder is not None


@pytest.fixture(autouse=True, scope="module")
def _own_account() -> None:
    """Begin each file with an empty AWS account, whatever ran before it in this process."""
    empty_account()


@pytest.fixture(autouse=True)
def _import_as_before() -> Iterator[None]:
    """Undo what opening an inventory changes in this process: how the collection is imported from then on.

    Likewise boto3's session, which keeps the credentials that it found first.
    """
    before = _finds_collections()
    yield
    if "boto3" in sys.modules:
        sys.modules["boto3"].DEFAULT_SESSION = None
    if not before and _finds_collections():
        from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

        _AnsibleCollectionFinder._remove()
        if "trainyard.plan_command" in sys.modules:
            sys.modules["trainyard.plan_command"]._opened.cache_clear()
