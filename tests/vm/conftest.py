# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.machine import Drive, Machine, image, install_tools


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that is not started yet: the module's `DISKS` instance-store disks, and a disk of another kind."""
    install_tools()
    folder: Path = tmp_path_factory.mktemp("vm")
    serials = [f"AWS1234567890ABCDE{number}" for number in range(request.module.DISKS)]
    drives = [Drive(serial, folder / f"{serial}.img").blank() for serial in [*serials, "OTHER0"]]
    made = Machine(image(), folder, drives)
    yield made
    made.kill()
    shutil.rmtree(folder, ignore_errors=True)
