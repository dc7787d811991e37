# SPDX-License-Identifier: Apache-2.0
"""For tests that roll a lab of their own: they say in `both` what it is."""

from __future__ import annotations

import pytest

from tests.roll.conftest import LabFleet
from tests.stand_in import Lab


@pytest.fixture(scope="module")
def lab(both: tuple[Lab, LabFleet]) -> Lab:
    return both[0]


@pytest.fixture(scope="module")
def fleet(both: tuple[Lab, LabFleet]) -> LabFleet:
    return both[1]


@pytest.fixture(scope="module")
def url(lab: Lab) -> str:
    """Where clients ask."""
    return f"http://{lab.router_address}:8080"
