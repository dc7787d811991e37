# SPDX-License-Identifier: Apache-2.0
"""AWS accounts of tests: what moto keeps is its whole process's, buckets and instances of an earlier test with it."""

from __future__ import annotations

import sys


def empty_account() -> None:
    """Take away all that moto keeps in this process and what the lab taught it, where it was asked for anything."""
    if "lab.services.blocks" in sys.modules:
        sys.modules["lab.services.blocks"].uninstall()
    if "moto" in sys.modules:
        from moto.moto_api._internal import moto_api_backend

        moto_api_backend.reset()
