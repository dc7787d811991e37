# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.machine import Drive, Machine, image

#: As fast as the throttled drives of the striping test may be, bytes per second.
THROTTLE = 10_000_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with four instance-store disks and a disk of another kind, not started yet."""
    missing = [
        name for name in ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs") if shutil.which(name) is None
    ]
    if missing:
        pytest.fail(
            f"the virtual machine needs {', '.join(missing)}: "
            "install qemu-system-x86, qemu-utils, mmdebstrap and e2fsprogs"
        )
    folder: Path = tmp_path_factory.mktemp("vm")
    serials = [f"AWS1234567890ABCDE{number}" for number in range(4)]
    drives = [Drive(serial, folder / f"{serial}.img").blank() for serial in [*serials, "OTHER0"]]
    made = Machine(image(), folder, drives)
    yield made
    made.kill()
    shutil.rmtree(folder, ignore_errors=True)
