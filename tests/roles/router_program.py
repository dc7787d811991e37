# SPDX-License-Identifier: Apache-2.0
"""The HAProxy that tests of the router run."""

from __future__ import annotations

import pytest

from tests.programs import program

HAPROXY = program("haproxy", "haproxy")
needs_haproxy = pytest.mark.skipif(not HAPROXY, reason="haproxy is not installed, and its packages cannot be had")
