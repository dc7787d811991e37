# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, progress, transfer, weights
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import tensors

FIRST, SECOND = tensors(5000, fill=b"1"), tensors(7000, fill=b"2")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "original").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "model-00001.safetensors").write_bytes(FIRST)
    (root / "model-00002.safetensors").write_bytes(SECOND)
    (root / "original" / "consolidated.00.pth").write_bytes(b"3" * 9000)
    return root


@pytest.fixture
def report(tmp_path: Path) -> progress.Progress:
    return progress.Progress(tmp_path / "report.json")


def spec(source: Path, final: Path, **inputs: Any) -> dict[str, Any]:
    wanted = {"repo": "a/b", "revision": "main", "source": "path", "uri": str(source), "exclude": ["original/*"]}
    return {"id": "a-b-main", "path": str(final), "inputs": {**wanted, **inputs}}


def test_directory_appears_whole_with_a_manifest_and_without_what_is_excluded(
    source: Path, tmp_path: Path, report: progress.Progress
) -> None:
    final = tmp_path / "data" / "a" / "b" / "main"
    wanted = spec(source, final)
    described = weights.run(wanted, report)
    assert [entry["path"] for entry in described["files"]] == [
        "config.json",
        "model-00001.safetensors",
        "model-00002.safetensors",
    ]
    assert job.complete_problems(final, wanted["inputs"]) == []
    assert list(final.parent.iterdir()) == [final]


def test_second_run_reads_and_writes_nothing(source: Path, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / "main"
    wanted = spec(source, final)
    first = weights.run(wanted, report)
    shutil.rmtree(source)
    assert weights.run(wanted, report) == first


def test_interrupted_copy_goes_on_with_what_it_has(source: Path, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / "main"
    staging = manifest.staging_of(final)
    staging.mkdir(parents=True)
    shutil.copyfile(source / "model-00001.safetensors", staging / "model-00001.safetensors")
    before = (staging / "model-00001.safetensors").stat().st_ino
    weights.run(spec(source, final), report)
    assert (final / "model-00001.safetensors").stat().st_ino == before


def test_wrong_file_is_fetched_again_alone(source: Path, tmp_path: Path, report: progress.Progress) -> None:
    files = [entry for entry in manifest.describe_files(source) if not entry["path"].startswith("original/")]
    described = {"version": 1, "kind": "weights", "id": "x", "inputs": {}, "made": {}, "files": files}
    described["files_digest"] = manifest.files_digest(files)
    manifest.write_atomically(source / manifest.NAME, manifest.dump(described))
    final = tmp_path / "data" / "main"
    staging = manifest.staging_of(final)
    staging.mkdir(parents=True)
    for entry in files:
        shutil.copyfile(source / entry["path"], staging / entry["path"])
    (staging / "model-00002.safetensors").write_bytes(b"X" * len(SECOND))
    untouched = (staging / "model-00001.safetensors").stat().st_ino
    weights.run(spec(source, final), report)
    assert (final / "model-00002.safetensors").read_bytes() == SECOND
    assert (final / "model-00001.safetensors").stat().st_ino == untouched


def test_source_that_is_itself_damaged_is_refused(source: Path, tmp_path: Path, report: progress.Progress) -> None:
    described = manifest.build(source, "weights", "x", {}, {})
    manifest.write_atomically(source / manifest.NAME, manifest.dump(described))
    (source / "config.json").write_text("[]")
    final = tmp_path / "data" / "main"
    with pytest.raises(job.JobError, match=r"do not match their sums, for example config\.json"):
        weights.run(spec(source, final, exclude=[]), report)
    assert not final.exists()


def test_content_digest_as_revision_is_enforced(source: Path, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / "main"
    right = weights.run(spec(source, final), report)["files_digest"]
    pinned = spec(source, tmp_path / "data" / "pinned", revision=right)
    assert weights.run(pinned, report)["files_digest"] == right
    with pytest.raises(job.JobError, match="the deployment pins 0000"):
        weights.run(spec(source, tmp_path / "data" / "other", revision="0" * 64), report)


def test_too_little_room_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, report: progress.Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4000))
    final = tmp_path / "data" / "main"
    with pytest.raises(job.JobError, match=r"needs 12\.\d kB on .*, 4\.0 kB are free"):
        weights.run(spec(source, final), report)
    assert list((tmp_path / "data").iterdir()) == []


def test_half_made_directory_under_the_final_name_is_completed(
    source: Path, tmp_path: Path, report: progress.Progress
) -> None:
    final = tmp_path / "data" / "main"
    final.mkdir(parents=True)
    shutil.copyfile(source / "config.json", final / "config.json")
    wanted = spec(source, final)
    assert job.complete_problems(final, wanted["inputs"]) == ["half made: no manifest.json"]
    weights.run(wanted, report)
    assert job.complete_problems(final, wanted["inputs"]) == []


class Listed:
    """A source that states names and sizes alone, as a bucket without a manifest does."""

    name = "s3://bucket/m"

    def __init__(self, size: int, *strays: str) -> None:
        self.size = size
        self.strays = strays
        self.forgot: list[str] = []

    def expected(self) -> list[dict[str, Any]]:
        return [{"path": "config.json", "size": self.size}]

    def fetch(self, staging: Path, expected: list[dict[str, Any]]) -> None:  # noqa: ARG002 - the interface
        for name in ("config.json", *self.strays):
            (staging / name).write_text("{}")

    def forget(self, staging: Path, name: str) -> None:
        self.forgot.append(name)
        (staging / name).unlink()


def test_a_file_that_is_cut_is_refused_where_no_sum_is_stated(tmp_path: Path, report: progress.Progress) -> None:
    cut = Listed(5)
    with pytest.raises(job.JobError, match=r"config\.json: 2 bytes instead of 5"):
        transfer.bring(cut, tmp_path / "staging", "m", report)
    assert cut.forgot == ["config.json"] * (1 + transfer.REPAIRS)


def test_what_the_source_does_not_list_does_not_stay(tmp_path: Path, report: progress.Progress) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "of-an-earlier-revision.safetensors").write_text("x")
    files = transfer.bring(Listed(2, "more.json"), staging, "m", report)
    assert [entry["path"] for entry in files] == ["config.json"]
    assert sorted(path.name for path in staging.iterdir()) == ["config.json"]
