# SPDX-License-Identifier: Apache-2.0
"""Devices that healing took out: written on the host, and over with the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import devices, quarantine
from ansible_collections.trainyard.neuron.plugins.modules import device_quarantine


def device(sysfs: Path, index: int, serial: str, **counters: int) -> None:
    folder = sysfs / devices.CLASS / f"neuron{index}"
    for name, value in {
        "info/serial_number": serial,
        **{f"stats/hardware/{key}": counters[key] for key in counters},
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for index in range(4):
        device(tmp_path, index, f"s{index}", mem_ecc_uncorrected=0, mem_ecc_repairable_uncorrected=0)
    return tmp_path


def take_out(path: Path, sysfs: Path, index: int) -> None:
    params = {"state": "out", "device": index, "finding": "UncorrectableECC", "fence": {"run": "r1"}}
    quarantine.write(device_quarantine.wanted(params, quarantine.read(path), quarantine.serials(sysfs)), path)


def test_a_device_is_out_until_another_one_is_in_its_place(tmp_path: Path, sysfs: Path) -> None:
    path = tmp_path / "state" / "devices.json"
    assert quarantine.out_of_plan(path, sysfs) == []
    take_out(path, sysfs, 2)
    assert quarantine.out_of_plan(path, sysfs) == [2]
    look = quarantine.look(path, sysfs)[2]
    assert (look.out, look.replaced) == (True, False)
    device(sysfs, 2, "another")
    assert quarantine.out_of_plan(path, sysfs) == []
    look = quarantine.look(path, sysfs)[2]
    assert (look.out, look.replaced) == (False, True)


def test_an_entry_is_made_once_and_lifted_alone(tmp_path: Path, sysfs: Path) -> None:
    path = tmp_path / "state" / "devices.json"
    take_out(path, sysfs, 2)
    first = quarantine.read(path)
    take_out(path, sysfs, 2)
    assert quarantine.read(path) == first
    take_out(path, sysfs, 3)
    assert (first[0].run, first[0].serial, first[0].finding) == ("r1", "s2", "UncorrectableECC")
    lifted = device_quarantine.wanted(
        {"state": "lifted", "device": 2}, quarantine.read(path), quarantine.serials(sysfs)
    )
    assert [entry.device for entry in lifted] == [3]


def test_what_is_wrong_with_a_device_is_what_no_working_one_has(tmp_path: Path, sysfs: Path) -> None:
    device(sysfs, 1, "s1", mem_ecc_uncorrected=2, mem_ecc_corrected=500)
    device(sysfs, 2, "s2", mem_ecc_repairable_uncorrected=1)
    seen = tmp_path / "state.json"
    seen.write_text(
        json.dumps({"kernel": {"counts": [["3", "DMA_ERROR", 4], ["", "OTHER", 1], ["0", "DMA_ERROR", 0]]}})
    )
    looks = quarantine.look(tmp_path / "none.json", sysfs, seen)
    assert {index: (look.sick, look.repairable) for index, look in looks.items()} == {
        0: ((), False),
        1: (("mem_uncorrected 2",), False),
        2: (("mem_repairable_uncorrected 1",), True),
        3: (("DMA_ERROR 4",), False),
    }


def test_a_driver_that_tells_no_serial_numbers_ends_no_entry(tmp_path: Path, sysfs: Path) -> None:
    path = tmp_path / "state" / "devices.json"
    take_out(path, sysfs, 2)
    (sysfs / devices.CLASS / "neuron2/info/serial_number").unlink()
    assert quarantine.out_of_plan(path, sysfs) == [2]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 2, "devices": []}', '{"version": 1, "devices": [{"device": -1}]}'],
)
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing is put on a device of which nobody knows whether it is out."""
    path = tmp_path / "devices.json"
    path.write_text(text)
    with pytest.raises(quarantine.QuarantineError, match="trainyard_quarantined_devices"):
        quarantine.read(path)


def test_devices_are_looked_at_where_the_exporter_does(tmp_path: Path) -> None:
    configuration = tmp_path / "exporter.json"
    assert quarantine.sysfs_of(configuration) == Path("/sys")
    configuration.write_text('{"sysfs": "/run/elsewhere/sys"}')
    assert quarantine.sysfs_of(configuration) == Path("/run/elsewhere/sys")
    configuration.write_text('{"sysfs": "relative"}')
    assert quarantine.sysfs_of(configuration) == Path("/sys")
