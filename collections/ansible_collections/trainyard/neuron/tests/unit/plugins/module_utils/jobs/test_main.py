# SPDX-License-Identifier: Apache-2.0
"""The program that a unit runs, to its end: status, report, and what is left on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, program, progress
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import tensors

WEIGHTS = tensors(5_000_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(WEIGHTS)
    return root


@pytest.fixture
def final(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the job `m` is to put what is in `source`."""
    path = tmp_path / "data" / "m"
    inputs = {"repo": "a/b", "revision": "v", "source": "path", "uri": str(source), "exclude": []}
    spec = {"kind": "weights", "id": "m", "path": str(path), "inputs": inputs}
    (tmp_path / "weights-m.json").write_text(json.dumps(spec))
    loaded = job.load_spec
    monkeypatch.setattr(job, "load_spec", lambda kind, identifier: loaded(kind, identifier, tmp_path))
    monkeypatch.setattr(progress, "RUN_DIR", tmp_path / "run")
    return path


def report(tmp_path: Path) -> dict[str, Any]:
    return progress.read(tmp_path / "run" / "weights-m.json")


def test_job_that_is_done_says_when_it_worked(final: Path, tmp_path: Path) -> None:
    assert program.main(["weights", "m"]) == 0
    said = report(tmp_path)
    assert (said["state"], said["bytes"]) == ("done", len(WEIGHTS) + 2)
    assert 0 <= said["ended"] - said["began"] < 60
    assert manifest.read(final)


def test_disk_that_fills_up_is_said_and_nothing_half_made_has_the_final_name(
    final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = manifest.staging_of(final)
    staging.mkdir(parents=True)
    # The file system takes no more when the large file comes.
    (staging / ".model.safetensors.partial").symlink_to("/dev/full")
    assert program.main(["weights", "m"]) == 1
    said = report(tmp_path)
    assert said["state"] == "failed"
    assert "the disk is full" in said["cause"]
    assert said["next"] == "free space, then run again to resume"
    assert "FAILED: the disk is full" in capsys.readouterr().out
    assert not final.exists()
    (staging / ".model.safetensors.partial").unlink()
    kept = (staging / "config.json").stat().st_ino
    assert program.main(["weights", "m"]) == 0
    assert (final / "config.json").stat().st_ino == kept
