# SPDX-License-Identifier: Apache-2.0
"""What a host says of itself to Prometheus: each part, and what it does with files that somebody else wrote."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book, Claim, Fence, Moment
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import exposition
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import devices, exporter, replicas
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.page import SERIES, Page

NOW_S = 1_800_000_000.0
LINE = "neuron: NEURON_HW_ERR={} instance-id=i-1 hostname=h nd-id={} nc-id=0 serial-num=5a action=TERMINATE_INSTANCE"
ENTRY = {
    "name": "d-0",
    "deployment": "d",
    "cores": "0-15",
    "release": "new",
    "sdk_release": "2.27.0",
    "artifact": "a" * 12,
}


def samples(page: Page) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus writes them."""
    found = {}
    for name, labels, value in exposition.samples(page.text()):
        said = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        found[f"{name}{{{said}}}" if said else name] = value
    return found


def device(sysfs: Path, index: int, **counters: str) -> Path:
    folder = sysfs / devices.CLASS / f"neuron{index}"
    for name, value in counters.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")
    return folder


def said_of_devices(sysfs: Path) -> dict[str, float]:
    page = Page()
    devices.say_devices(page, devices.folders(sysfs))
    return samples(page)


def test_devices_are_told_by_their_counters(tmp_path: Path) -> None:
    core = "neuron_core{}__stats__other_info__reset_fail_count__total"
    counters = {"stats__hardware__sram_ecc_uncorrected": "3", core.format(0): "1", core.format(1): "2"}
    device(tmp_path, 10, **counters, health_status__unhealthy_components="hbm, pcie")
    device(tmp_path, 2, stats__hardware__mem_ecc_uncorrected="0", health_status__unhealthy_components="none")
    (tmp_path / devices.CLASS / "neuron_else").mkdir()
    assert said_of_devices(tmp_path) == {
        "trainyard_neuron_devices": 2,
        "trainyard_neuron_ecc_events_total{device=2,kind=mem_uncorrected}": 0,
        "trainyard_neuron_ecc_events_total{device=10,kind=sram_uncorrected}": 3,
        "trainyard_neuron_device_unhealthy{component=any,device=2}": 0,
        "trainyard_neuron_device_unhealthy{component=any,device=10}": 1,
        "trainyard_neuron_device_unhealthy{component=hbm,device=10}": 1,
        "trainyard_neuron_device_unhealthy{component=pcie,device=10}": 1,
        "trainyard_neuron_reset_failures_total{device=10}": 3,
    }


def test_a_host_without_the_driver_has_no_devices(tmp_path: Path) -> None:
    assert said_of_devices(tmp_path) == {"trainyard_neuron_devices": 0}


def test_no_counter_leads_elsewhere_or_waits(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("42\n", encoding="utf-8")
    hardware = device(tmp_path, 0, stats__hardware__sram_ecc_corrected="-1") / "stats/hardware"
    (hardware / "mem_ecc_uncorrected").symlink_to(secret)
    os.mkfifo(hardware / "sram_ecc_uncorrected")
    (hardware / "mem_ecc_corrected").write_text("9" * 5000, encoding="utf-8")
    (hardware / "mem_ecc_repairable_uncorrected").write_text("\N{ARABIC-INDIC DIGIT ONE}", encoding="utf-8")
    assert said_of_devices(tmp_path) == {"trainyard_neuron_devices": 1}


def counted(log: devices.KernelLog, *indexes: int) -> dict[str, float]:
    page = Page()
    log.say(page, indexes)
    return {key.partition("{")[2].rstrip("}"): value for key, value in samples(page).items() if value}


def test_each_line_of_the_kernel_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "kernel.log"
    path.write_text(
        "1.0 " + LINE.format("HBM_UNCORRECTABLE_ERROR", 3) + "\nusb 1-1: new device\n2.0 neuron: NEURON_", "utf-8"
    )
    log = devices.KernelLog(path)
    log.look()
    log.look()
    assert counted(log) == {"device=3,kind=HBM_UNCORRECTABLE_ERROR": 1}
    with path.open("a", encoding="utf-8") as file:
        file.write("HW_ERR=SOMETHING_NEW nd-id=4\n")
    # Another process goes on where this one was, and so counts no line a second time.
    later = devices.KernelLog(path)
    later.go_on(json.loads(json.dumps(log.to_dict())))
    later.look()
    assert counted(later) == {"device=3,kind=HBM_UNCORRECTABLE_ERROR": 1, "device=4,kind=OTHER": 1}
    # A new file in its place is read from its beginning.
    path.rename(tmp_path / "kernel.log.1")
    path.write_text(LINE.format("DMA_ERROR", 0) + "\n", encoding="utf-8")
    later.look()
    assert counted(later)["device=0,kind=DMA_ERROR"] == 1


def test_every_kind_is_told_of_every_device_before_it_ever_comes(tmp_path: Path) -> None:
    page = Page()
    devices.KernelLog(tmp_path / "none").say(page, [0, 1])
    assert len(samples(page)) == 2 * len(devices.HARDWARE_ERRORS)
    assert set(samples(page).values()) == {0}


def test_records_of_the_kernels_device_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the device each read is a record; one that a program wrote is no word of the kernel's."""
    line = LINE.format("DMA_ERROR", 5)
    records: list[bytes | OSError] = [
        f"3,100,7,-;{line}\n SUBSYSTEM=neuron\n".encode(),
        OSError(32, "Broken pipe"),
        f"11,101,8,-;{line}\n".encode(),
        f"3,102,9,-;{line}\n".encode(),
        BlockingIOError(),
    ]
    log = devices.KernelLog(tmp_path / "kmsg", place=[100])

    def read(descriptor: int, size: int) -> bytes:
        found = records.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(devices.os, "read", read)
    for taken in log._of_device(0):
        log._take(taken)
    assert counted(log) == {"device=5,kind=DMA_ERROR": 1}, "100 was counted before, 101 is of facility 1"
    assert log.place == [102]


@pytest.mark.parametrize("kept", [{}, {"place": 5, "counts": []}, {"place": [1], "counts": [["3"]]}, {"counts": {}}])
def test_a_broken_memory_is_none(kept: dict[str, Any], tmp_path: Path) -> None:
    log = devices.KernelLog(tmp_path / "kernel.log")
    log.go_on(kept)
    assert (log.place, log.counts) == ([], {})


@pytest.fixture
def host(tmp_path: Path) -> replicas.Replicas:
    """A host with one replica, as role vllm_endpoint lays it out."""
    places = replicas.Places(
        tmp_path / "vllm",
        tmp_path / "run",
        tmp_path / "probe",
        tmp_path / "fence.json",
        tmp_path / "fence.nft",
    )
    for folder in (places.root / "current", places.runtime / "d-0", places.probe):
        folder.mkdir(parents=True)
    (places.root / "current/d-0.json").write_text(json.dumps(ENTRY), encoding="utf-8")
    clock = Moment("boot", 1000.0)
    made = replicas.Replicas(places, book=Book(tmp_path / "roll", lambda: clock, lambda: NOW_S))
    made.units = lambda _names: {"d-0": {"ActiveState": "active", "NRestarts": "2"}}
    return made


def said(host: replicas.Replicas, monotonic_s: float = 500.0) -> dict[str, float]:
    page = Page()
    host.say(page, NOW_S, monotonic_s)
    host.say_fence(page, NOW_S)
    host.say_roll(page)
    return samples(page)


def of(name: str) -> str:
    return f"trainyard_{name}{{deployment=d,replica=d-0}}"


def test_a_replica_is_told_with_what_it_runs(host: replicas.Replicas) -> None:
    (host.places.runtime / "d-0/replica.json").write_text('{"release": "old"}', encoding="utf-8")
    (host.places.probe / "d-0.json").write_text("{}", encoding="utf-8")
    os.utime(host.places.probe / "d-0.json", (NOW_S, NOW_S - 2))
    found = said(host)
    info = "artifact_digest=aaaaaaaaaaaa,cores=0-15,deployment=d,release=new,replica=d-0,sdk=2.27.0"
    assert found[f"trainyard_replica_info{{{info}}}"] == 1
    assert found["trainyard_replica_state{deployment=d,replica=d-0,state=active}"] == 1
    assert found["trainyard_replica_state{deployment=d,replica=d-0,state=failed}"] == 0
    assert found[of("replica_restarts_total")] == 2
    assert found[of("drift")] == 1
    assert found[of("probe_alive")] == 1
    os.utime(host.places.probe / "d-0.json", (NOW_S, NOW_S - 20))
    (host.places.runtime / "d-0/replica.json").write_text('{"release": "new"}', encoding="utf-8")
    assert (said(host)[of("drift")], said(host)[of("probe_alive")]) == (0, 0)


def test_a_start_is_told_with_its_phase_and_how_long_the_last_one_took(host: replicas.Replicas) -> None:
    unit = {"ExecMainStartTimestampMonotonic": "100000000", "ActiveEnterTimestampMonotonic": "160000000"}
    host.units = lambda _names: {"d-0": {**unit, "ActiveState": "active"}}
    assert said(host)[of("replica_start_seconds")] == 60
    (host.places.probe / "d-0.json").write_text('{"progress": "loading weights 3/8"}', encoding="utf-8")
    unit["ExecMainStartTimestampMonotonic"] = "460000000"
    unit["StateChangeTimestampMonotonic"] = "470000000"
    host.units = lambda _names: {"d-0": {**unit, "ActiveState": "activating", "SubState": "start-post"}}
    found = said(host)
    assert found[of("replica_starting_seconds")] == 40
    assert found[of("replica_start_seconds")] == 60, "the one before"
    assert found["trainyard_replica_phase{deployment=d,phase=loading weights,replica=d-0}"] == 1


@pytest.mark.parametrize("step", ["auto-restart", "start-pre"])
def test_a_start_that_waits_does_not_count_from_the_process_before(host: replicas.Replicas, step: str) -> None:
    """Of one that served for days, systemd still has that process: nobody is called for a start of days."""
    times = {"ExecMainStartTimestampMonotonic": "1000000", "StateChangeTimestampMonotonic": "497000000"}
    host.units = lambda _names: {"d-0": {**times, "ActiveState": "activating", "SubState": step}}
    assert said(host)[of("replica_starting_seconds")] == 3


def test_what_a_server_wrote_says_nothing_but_words_that_there_are(host: replicas.Replicas, tmp_path: Path) -> None:
    host.units = lambda _names: {"d-0": {"ActiveState": "activating"}}
    probe, running = host.places.probe / "d-0.json", host.places.runtime / "d-0/replica.json"
    secret = tmp_path / "secret"
    secret.write_text('{"release": "old", "progress": "compiling"}', encoding="utf-8")
    told = "trainyard_replica_phase{{deployment=d,phase={},replica=d-0}}"
    for text in ('{"progress": "x\\"} 1\\nup 0"}', "[" * 100000, '{"progress": 5}', "\x00"):
        probe.write_text(text, encoding="utf-8")
        running.write_text(text, encoding="utf-8")
        found = said(host)
        assert found[told.format("starting")] == 1
        assert found[of("drift")] == 0
    for path in (probe, running):
        path.unlink()
        path.symlink_to(secret)
    found = said(host)
    assert found[told.format("starting")] == 1, "a link is not followed"
    assert found[of("drift")] == 0


def test_the_fence_is_closed_while_somebody_watches_it(host: replicas.Replicas) -> None:
    assert "trainyard_fence_closed" not in said(host), "there is no fence here"
    host.places.fence_rules.write_text("", encoding="utf-8")
    closed = []
    for row in (
        {"at": NOW_S - 5, "problem": ""},
        {"at": NOW_S - 5, "problem": "gone"},
        {"at": NOW_S - 60},
        {"at": "x"},
        [],
    ):
        host.places.fence.write_text(json.dumps(row), encoding="utf-8")
        closed.append(said(host)["trainyard_fence_closed"])
    host.places.fence.unlink()
    assert [*closed, said(host)["trainyard_fence_closed"]] == [1, 0, 0, 0, 0, 0]


def test_a_roll_and_what_it_left_are_told(host: replicas.Replicas) -> None:
    assert said(host)["trainyard_lock_held{verb=}"] == 0
    move = {"name": "d-0", "was": "old", "release": "new", "admit": True}
    holder = host.book.take(Claim("run-1", "me@here", 1, "redeploy", "p", 60.0), [move])
    found = said(host)
    assert found["trainyard_lock_held{verb=redeploy}"] == 1
    assert found["trainyard_roll_in_progress"] == 1
    assert found[of("roll_left_behind")] == 0, "it is at it"
    host.book.free(Fence("run-1", holder.number))
    found = said(host)
    assert found["trainyard_roll_in_progress"] == 0
    assert found[of("roll_left_behind")] == 1
    host.book.take(Claim("run-2", "me@here", 1, "provision", "p", 60.0))
    assert said(host)["trainyard_roll_in_progress"] == 0, "nothing is out for that"
    host.book.clock = lambda: Moment("boot", 2000.0)
    assert said(host)["trainyard_lock_held{verb=}"] == 0, "its time is over"


def settings(tmp_path: Path, **more: Any) -> exporter.Settings:
    told = {"sysfs": str(tmp_path / "sys"), "kernel_log": str(tmp_path / "kernel.log"), "mounts": [str(tmp_path)]}
    return exporter.settings_of(json.dumps({**told, **more}))


def looked(tmp_path: Path, host: replicas.Replicas, **more: Any) -> tuple[exporter.Exporter, list[str]]:
    folder = tmp_path / "page"
    folder.mkdir(exist_ok=True)
    made, lines = exporter.Exporter(settings(tmp_path, **more), folder, host, lambda: NOW_S), list[str]()
    made.look(lines.append)
    return made, lines


def test_a_part_that_fails_is_named_and_the_others_are_told(tmp_path: Path, host: replicas.Replicas) -> None:
    def dead(names: list[str]) -> dict[str, replicas.Unit]:
        raise OSError("systemd does not answer")

    host.units = dead
    made, lines = looked(tmp_path, host, mounts=[str(tmp_path), str(tmp_path / "gone")])
    page = made.page.decode()
    assert 'trainyard_exporter_part_failed{part="replicas"} 1.0' in page
    assert 'trainyard_exporter_part_failed{part="filesystems"} 1.0' in page
    assert 'trainyard_exporter_part_failed{part="roll"} 0.0' in page
    assert f'trainyard_filesystem_used_ratio{{mount="{tmp_path}"}} 0.' in page
    assert lines[0] == "replicas cannot be looked at: systemd does not answer"
    made.look(lines.append)
    assert len(lines) == 2, "each problem is told once"


def test_the_next_process_goes_on_from_what_this_one_knew(tmp_path: Path, host: replicas.Replicas) -> None:
    (tmp_path / "kernel.log").write_text(LINE.format("DMA_ERROR", 1) + "\n", encoding="utf-8")
    host.starts_s["d-0"] = 33.0
    first, _ = looked(tmp_path, host)
    (tmp_path / "kernel.log").unlink()
    host.starts_s.clear()
    again, lines = looked(tmp_path, host)
    for made in (first, again):
        assert 'trainyard_neuron_hw_errors_total{device="1",kind="DMA_ERROR"} 1.0' in made.page.decode()
        assert 'trainyard_replica_start_seconds{deployment="d",replica="d-0"} 33.0' in made.page.decode()
    assert lines == []
    written = tmp_path / "page/trainyard.prom"
    assert written.read_bytes() == again.page
    assert written.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("end", "seconds"),
    [("2027-01-15T08:00:00", NOW_S), ("2027-01-15T08:00:00Z", NOW_S), ("2027-01-15T17:00:00+09:00", NOW_S)],
)
def test_the_end_of_a_block_is_told(tmp_path: Path, host: replicas.Replicas, end: str, seconds: float) -> None:
    made, _ = looked(tmp_path, host, capacity_block_end=end)
    assert f"trainyard_capacity_block_end_timestamp_seconds {seconds!r}" in made.page.decode()


def test_the_price_of_a_host_is_told_where_it_is_known(tmp_path: Path, host: replicas.Replicas) -> None:
    made, _ = looked(tmp_path, host, price_per_host_hour_usd=35.7608)
    assert "trainyard_price_per_host_hour_usd 35.7608" in made.page.decode()
    made, _ = looked(tmp_path, host)
    assert "trainyard_price_per_host_hour_usd" not in made.page.decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "it is no JSON"),
        ("[]", "no settings by name"),
        ('{"prot": 1}', "prot is no word that is known, meant is perhaps port"),
        ('{"port": "9401", "period_s": true}', "port is '9401', wanted is a whole number from 0; period_s is True"),
        ('{"capacity_block_end": "tomorrow"}', "capacity_block_end is 'tomorrow', wanted is an ISO time"),
        ('{"period_s": 0}', "period_s is 0, wanted are 1 to 3600"),
    ],
)
def test_settings_that_cannot_be_are_refused(text: str, why: str) -> None:
    with pytest.raises(exporter.ExporterError, match="run the serve playbook for this host") as caught:
        exporter.settings_of(text)
    assert why in str(caught.value)


def test_only_declared_series_can_be_said() -> None:
    with pytest.raises(KeyError):
        Page().say("trainyard_else", 1)
    assert all(name.endswith("_total") == (kind == "counter") for name, (kind, _about) in SERIES.items())


def test_labels_cannot_end_a_line() -> None:
    page = Page()
    page.say("trainyard_lock_held", 1, verb='x"} 1\nup{a="\\' + "y" * 500)
    lines = page.text().splitlines()
    assert len(lines) == 3
    assert len(lines[-1]) < 260


@pytest.fixture
def served(tmp_path: Path, host: replicas.Replicas) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made, _ = looked(tmp_path, host, port=port, address="127.0.0.1")
    server = exporter.serve(made)
    yield made, port
    server.shutdown()
    server.server_close()


def asked(port: int, path: str) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    link.request("GET", path)
    answer = link.getresponse()
    return answer.status, answer.read()


def test_the_page_is_served_and_nothing_else(served: Any) -> None:
    made, port = served
    assert asked(port, "/metrics") == (200, made.page)
    assert asked(port, "/etc/passwd")[0] == 404
    with pytest.raises(exporter.ExporterError, match=r"`ss -ltnp` names who has it"):
        exporter.serve(made)


def test_a_client_that_says_nothing_holds_nobody_up_for_long(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _made, port = served
    monkeypatch.setattr(exporter._Handler, "timeout", 0.3)
    with socket.create_connection(("127.0.0.1", port)):
        assert asked(port, "/metrics")[0] == 200
