# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import job_units
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey"


class Systemd:
    """Stands in for systemctl and ssh-keygen: starting a unit runs what the test says the job does."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.active: set[str] = set()
        self.on_start = lambda: None

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "ssh-keygen":
            Path(f"{argv[-1]}.pub").write_text(f"{KEY}\n")
            return 0, "", ""
        self.calls.append(argv[1:])
        if argv[1] == "is-active":
            return 0, "active\n" if argv[2] in self.active else "inactive\n", ""
        if argv[1] == "start":
            self.on_start()
        return 0, "Result=exit-code\nExecMainStatus=1\n" if argv[1] == "show" else "", ""

    @property
    def started(self) -> list[str]:
        return [argv[-1] for argv in self.calls if argv[0] == "start"]


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def units(systemd: Systemd, tmp_path: Path) -> job_units.JobUnits:
    return job_units.JobUnits(systemd, job_units.Paths(tmp_path / "jobs", tmp_path / "log", tmp_path / "run"))


def wanted(tmp_path: Path, **spec: Any) -> dict[str, Any]:
    return {"kind": "weights", "id": "m-1", "path": str(tmp_path / "m"), "inputs": {"revision": "1"}, "spec": spec}


def make(entry: dict[str, Any], **inputs: Any) -> None:
    staging = manifest.staging_of(Path(entry["path"]))
    staging.mkdir()
    (staging / "f").write_text("x")
    described = manifest.build(staging, "weights", entry["id"], {**entry["inputs"], **inputs}, {})
    manifest.publish(staging, Path(entry["path"]), described)


def test_complete_result_costs_no_call_of_systemctl(
    units: job_units.JobUnits, systemd: Systemd, tmp_path: Path
) -> None:
    entry = wanted(tmp_path)
    make(entry)
    assert units.describe(entry).complete
    assert systemd.calls == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: (path / "f").unlink(), "f: missing"),
        (lambda path: (path / "f").write_text("longer"), "f: 6 bytes, manifest says 1"),
        (lambda path: (path / "manifest.json").unlink(), "half made: no manifest.json"),
    ],
)
def test_spoiled_result_is_not_complete(units: job_units.JobUnits, tmp_path: Path, spoil: Any, problem: str) -> None:
    entry = wanted(tmp_path)
    make(entry)
    spoil(Path(entry["path"]))
    assert units.describe(entry).problems == [problem]


def test_result_of_other_inputs_is_not_complete(units: job_units.JobUnits, tmp_path: Path) -> None:
    entry = wanted(tmp_path)
    make(entry, revision="2")
    assert units.describe(entry).problems == ["made from other inputs: revision differ"]


def test_result_counts_only_when_it_is_in_the_wanted_store(units: job_units.JobUnits, tmp_path: Path) -> None:
    entry = wanted(tmp_path, store="s3://fleet/a")
    make(entry)
    assert units.describe(entry).problems == ["not known to be in s3://fleet/a"]
    job.stored_note(Path(entry["path"])).write_text("s3://fleet/a\n")
    assert units.describe(entry).complete


def test_start_writes_what_the_program_reads(units: job_units.JobUnits, systemd: Systemd, tmp_path: Path) -> None:
    entry = wanted(tmp_path, endpoint="http://hub")
    units.start(entry)
    assert systemd.started == ["trainyard-weights@m-1.service"]
    assert job.load_spec("weights", "m-1", tmp_path / "jobs") == {
        "kind": "weights",
        "id": "m-1",
        "path": entry["path"],
        "inputs": {"revision": "1"},
        "endpoint": "http://hub",
    }


def test_failure_tells_cause_state_and_next_step_with_the_log(units: job_units.JobUnits, tmp_path: Path) -> None:
    entry = wanted(tmp_path)
    units.start(entry)
    (tmp_path / "run").mkdir()
    report = {"state": "failed", "cause": "the disk is full", "left": "partial", "next": "free space"}
    (tmp_path / "run" / "weights-m-1.json").write_text(json.dumps(report))
    (tmp_path / "log" / "weights-m-1.log").write_text("".join(f"line {number}\n" for number in range(40)))
    failure = units.failure(entry)
    assert (failure["cause"], failure["left"], failure["next"]) == ("the disk is full", "partial", "free space")
    assert failure["log_tail"][-1] == "line 39"
    assert len(failure["log_tail"]) == job_units.TAIL_LINES


def test_job_that_was_killed_without_a_report_still_has_a_cause(units: job_units.JobUnits, tmp_path: Path) -> None:
    units.start(wanted(tmp_path))
    assert "ended without a result (Result=exit-code ExecMainStatus=1)" in units.failure(wanted(tmp_path))["cause"]


def test_key_is_made_for_a_job_that_asks_another_host_and_goes_with_it(
    units: job_units.JobUnits, tmp_path: Path
) -> None:
    entry = wanted(tmp_path, sender={"host": "h1", "address": "10.0.0.1", "path": "/data/m", "turn": 0})
    state = job_units.State(entry, ["absent"])
    assert units.introduction(state)["public_key"] == ""
    units.start(entry)
    met = units.introduction(state)
    assert (met["job"], met["public_key"], met["sender"]["host"]) == ("weights-m-1", KEY, "h1")
    Path(met["note"]).write_text("{}")
    assert units.introduction(state) == {}
    units.start(entry)
    # The unit that runs was started with h1, whatever a later run would choose.
    other = wanted(tmp_path, sender={"host": "h2", "address": "10.0.0.2", "path": "/data/m", "turn": 0})
    assert units.introduction(job_units.State(other, ["absent"], running=True)) == met
    units.remove(entry)
    assert not Path(met["note"]).parent.exists()


def test_job_with_no_sender_has_no_key(units: job_units.JobUnits, tmp_path: Path) -> None:
    units.start(wanted(tmp_path))
    assert units.introduction(job_units.State(wanted(tmp_path), ["absent"])) == {}
    assert not (tmp_path / "run").exists()


def test_span_is_when_the_program_worked(units: job_units.JobUnits, tmp_path: Path) -> None:
    entry = wanted(tmp_path, sender={"host": "h1"})
    assert units.span(entry) == {}
    units.start(entry)
    (tmp_path / "run" / "weights-m-1.json").write_text('{"state": "done", "began": 10.0, "ended": 20.0}')
    assert units.span(entry) == {
        "kind": "weights",
        "id": "m-1",
        "began": 10.0,
        "ended": 20.0,
        "weights": "",
        "sender": "h1",
    }


def test_wait_ends_when_the_unit_ends(units: job_units.JobUnits, systemd: Systemd, tmp_path: Path) -> None:
    entry = wanted(tmp_path)
    systemd.active.add("trainyard-weights@m-1.service")
    state = units.describe(entry)
    assert state.running
    make(entry)
    systemd.active.clear()
    assert [found.complete for found in units.wait([state], seconds=60)] == [True]


def test_removal_takes_result_half_made_result_and_records(
    units: job_units.JobUnits, systemd: Systemd, tmp_path: Path
) -> None:
    entry = wanted(tmp_path)
    units.start(entry)
    make(entry)
    manifest.staging_of(Path(entry["path"])).mkdir()
    systemd.active.add("trainyard-weights@m-1.service")
    assert len(units.traces(entry)) == 3
    units.remove(entry)
    assert units.traces(entry) == []
    assert ["stop", "trainyard-weights@m-1.service"] in systemd.calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a/b"}, "cannot be part of a unit name"),
        ({"id": ""}, "cannot be part of a unit name"),
        ({"path": "data/m"}, "is not absolute"),
    ],
)
def test_jobs_that_no_unit_can_do_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job_units.check([{**wanted(tmp_path), **change}])


def test_two_jobs_for_one_directory_are_refused(tmp_path: Path) -> None:
    entry = wanted(tmp_path)
    with pytest.raises(ValueError, match="share the path"):
        job_units.check([entry, {**entry, "id": "m-2"}])
