# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import artifact, job, manifest, progress, weights


@pytest.fixture
def result(tmp_path: Path) -> Path:
    root = tmp_path / "result"
    (root / "weights").mkdir(parents=True)
    (root / "model.pt").write_bytes(b"traced")
    (root / "weights" / "tp0.safetensors").write_bytes(b"\0" * 1000)
    return root


def made(root: Path) -> dict[str, object]:
    return manifest.build(root, "artifact", "d", {"tp": 32}, {"on": "lab-1"})


def test_published_directory_is_complete_and_describes_itself(result: Path, tmp_path: Path) -> None:
    described = made(result)
    final = tmp_path / "final"
    manifest.publish(result, final, described)
    assert not result.exists()
    found = manifest.read(final)
    assert found == described
    assert [entry["path"] for entry in found["files"]] == ["model.pt", "weights/tp0.safetensors"]
    assert manifest.full_problems(final, found) == []


def test_publishing_leaves_the_clients_bookkeeping_behind(result: Path, tmp_path: Path) -> None:
    (result / ".cache" / "huggingface").mkdir(parents=True)
    (result / ".cache" / "huggingface" / "x.metadata").write_text("etag")
    described = made(result)
    assert all(not entry["path"].startswith(".cache") for entry in described["files"])
    manifest.publish(result, tmp_path / "final", described)
    assert sorted(path.name for path in (tmp_path / "final").iterdir()) == ["manifest.json", "model.pt", "weights"]


def test_each_kind_of_damage_is_named(result: Path) -> None:
    described = made(result)
    (result / "model.pt").write_bytes(b"TRACED")
    assert manifest.quick_problems(result, described) == []
    assert [manifest.entry_path(line) for line in manifest.full_problems(result, described)] == ["model.pt"]
    (result / "model.pt").write_bytes(b"short")
    (result / "weights" / "tp0.safetensors").unlink()
    assert manifest.quick_problems(result, described) == [
        "model.pt: 5 bytes, manifest says 6",
        "weights/tp0.safetensors: missing",
    ]


def test_manifest_that_was_tampered_with_is_refused(result: Path) -> None:
    described = made(result)
    described["files"][0]["sha256"] = "0" * 64
    with pytest.raises(manifest.ManifestError, match="not the one that was written"):
        manifest.parse(manifest.dump(described), "m")


def text_of(**changes: object) -> str:
    """A manifest of one file, with changes; None leaves a key out."""
    files: object = changes.pop("files", [{"path": "a", "size": 1, "sha256": "0" * 64}])
    whole = {"version": 1, "kind": "artifact", "id": "d", "inputs": {}, "made": {}, "files": files, "files_digest": "x"}
    if isinstance(files, list) and all(isinstance(entry, dict) for entry in files):
        whole["files_digest"] = manifest.files_digest(files)
    return json.dumps({key: value for key, value in {**whole, **changes}.items() if value is not None})


def test_the_manifest_that_the_next_tests_spoil_is_one() -> None:
    assert manifest.parse(text_of(), "m")["files"][0]["path"] == "a"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b", "a\nb", "", "x" * 300])
def test_file_names_that_leave_the_directory_or_hide_are_refused(name: str) -> None:
    with pytest.raises(manifest.ManifestError, match=r"m lists files that are refused: "):
        manifest.parse(text_of(files=[{"path": name, "size": 1, "sha256": "0" * 64}]), "m")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "1", '{"version": 1}', '{"version": 2, "files": []}', "nonsense", "[" * 100_000),
        *(text_of(**{key: None}) for key in ("version", "kind", "id", "inputs", "made", "files_digest")),
        *(text_of(**{key: 7}) for key in ("kind", "id", "inputs", "made", "files", "files_digest")),
        text_of(files=[7]),
        text_of(files=[{"path": "a", "size": 1, "sha256": "0" * 63}]),
        text_of(files=[{"path": "a", "size": "1", "sha256": "0" * 64}]),
        text_of(files=[{"path": "a", "size": -1, "sha256": "0" * 64}]),
        text_of(files=[{"path": "a", "size": 1, "sha256": "0" * 64}] * 2),
        text_of()[:-20],
        text_of() + "\0" * 100,
    ],
)
def test_what_is_no_manifest_is_said_to_be_none(text: str) -> None:
    with pytest.raises(manifest.ManifestError, match=r"^m[: ]"):
        manifest.parse(text, "m")


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"\xff\xfe", b"{"])
def test_a_manifest_file_that_a_power_cut_left_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / manifest.NAME).write_bytes(content)
    with pytest.raises(manifest.ManifestError, match=r"manifest\.json: not a manifest"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"{", text_of(inputs=None).encode(), text_of(kind=7).encode()])
@pytest.mark.parametrize(("kind", "command"), [("weights", "mv "), ("artifact", "rm -r ")])
def test_a_result_whose_manifest_broke_is_left_as_it_is_with_what_to_do(
    result: Path, tmp_path: Path, content: bytes, kind: str, command: str
) -> None:
    (result / manifest.NAME).write_bytes(content)
    before = {path: path.read_bytes() for path in result.rglob("*") if path.is_file()}
    spec = {"id": "x", "path": str(result), "inputs": {}, "does": "compile"}
    with pytest.raises(job.JobError, match=r"manifest\.json: .* is lost") as caught:
        {"weights": weights.run, "artifact": artifact.run}[kind](
            spec, progress.Progress(tmp_path / "r" / "report.json")
        )
    assert caught.value.left == "all files there are as they were"
    assert caught.value.next_step.startswith(f"`{command}{result}")
    assert {path: path.read_bytes() for path in result.rglob("*") if path.is_file()} == before
    assert not manifest.staging_of(result).exists()


def test_links_are_no_content(result: Path) -> None:
    (result / "link").symlink_to("/etc/hostname")
    with pytest.raises(manifest.ManifestError, match="symbolic link"):
        made(result)


def test_directory_without_a_manifest_is_half_made(result: Path, tmp_path: Path) -> None:
    assert manifest.read(result) is None
    assert manifest.read(tmp_path / "absent") is None


def test_digest_of_files_depends_on_names_and_sums_alone() -> None:
    one = [{"path": "a", "size": 1, "sha256": "1" * 64}, {"path": "b", "size": 1, "sha256": "2" * 64}]
    assert manifest.files_digest(one) == manifest.files_digest(list(reversed(one)))
    assert manifest.files_digest(one) != manifest.files_digest([{**one[0], "path": "c"}, one[1]])


def test_git_hash_is_gits(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello\n")
    assert manifest.git_blob_hash(path) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_content_is_on_its_disk_before_it_has_its_name(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a complete-looking directory of empty files."""
    final = tmp_path / "final"
    seen: list[bool] = []
    monkeypatch.setattr(manifest.os, "sync", lambda: seen.append(final.exists()))
    manifest.publish(result, final, manifest.build(result, "weights", "x", {}, {}))
    assert (seen, final.is_dir()) == ([False], True)
