# SPDX-License-Identifier: Apache-2.0
"""The execution environment's image, built once for all that is run in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packaged.environment import Image, built_in


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with built_in(tmp_path_factory.mktemp("environment")) as made:
        yield made
