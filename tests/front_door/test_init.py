# SPDX-License-Identifier: Apache-2.0
"""Two more bare hosts of the scenario's lab, each of which serves, routes and measures, as both sources have it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.front_door.whole import MODELS, Door, lab_of

pytestmark = pytest.mark.lab

HOSTS = {"llama-3-3-70b": "lab-4", "qwen3-32b": "lab-5"}


def test_init_then_site_serves_each_recipe_from_a_bare_host(tmp_path: Path) -> None:
    def whole(recipe: str) -> None:
        door = Door(lab_of("molecule-front-door"))
        door.begin(recipe, [HOSTS[recipe]], tmp_path / recipe)
        door.arrive(recipe, HOSTS[recipe])

    with ThreadPoolExecutor() as threads:
        assert list(threads.map(whole, MODELS)) == [None, None]
