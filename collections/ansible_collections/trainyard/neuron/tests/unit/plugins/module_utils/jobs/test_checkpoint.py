# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository are fetched, and what is found missing or cut of those that were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import checkpoint, job, manifest, progress, weights
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import tensors
from hypothesis import given, settings
from hypothesis import strategies as st

#: What repositories hold, and what of it is the checkpoint. The listings are those of their hub, shortened.
REPOSITORIES: dict[str, tuple[list[str], list[str]]] = {
    "meta-llama/Llama-3.3-70B-Instruct": (
        ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"],
        ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"],
    ),
    "mistralai/Mistral-7B-Instruct-v0.3": (
        [
            "config.json",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json",
            "params.json",
            "tekken.json",
        ],
        ["consolidated.safetensors"],
    ),
    "mistralai/Mistral-Large": (
        ["config.json", "model-00001-of-00001.safetensors"],
        ["consolidated-00001-of-00001.safetensors", "consolidated.safetensors.index.json"],
    ),
    "openai/gpt-oss-20b": (
        ["chat_template.jinja", "config.json", "model-00000-of-00002.safetensors"],
        ["metal/model.bin", "original/model.safetensors", "original/dtypes.json"],
    ),
    "google-bert/bert-base-uncased": (
        ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"],
        *[["flax_model.msgpack", "pytorch_model.bin", "pytorch_model.bin.index.json", "rust_model.ot", "tf_model.h5"]],
    ),
    "with onnx and gguf beside": (
        ["config.json", "model.safetensors"],
        ["onnx/model.onnx", "onnx/model.onnx_data", "model-Q4_K_M.gguf", "training_args.bin", "optimizer.pt"],
    ),
    "with programs": (["config.json", "model.safetensors"], ["modeling_x.py", "kernels/x.so", "configuration_x.py"]),
    "only in the authors' form": (["consolidated.safetensors", "params.json"], []),
}


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_one_copy_of_the_weights_is_fetched_and_nothing_that_runs(repository: str) -> None:
    wanted, beside = REPOSITORIES[repository]
    kept, out = checkpoint.select([*beside, *wanted], [], [])
    assert kept == sorted(wanted)
    assert sorted(out) == sorted(beside)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["config.json", "pytorch_model.bin"], r"pickles \(pytorch_model\.bin\).*model\.trust: \[pickle\]"),
        (["config.json", "consolidated.00.pth"], r"pickles \(consolidated\.00\.pth\)"),
        (["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], "pickles"),
        (["config.json", "model-Q4_K_M.gguf"], "no weights: no safetensors file, only model-Q4_K_M.gguf"),
        (["config.json", "README.md"], "no weights: no safetensors file, only README.md, config.json"),
        (["config.json", "original/model.safetensors"], "no weights"),
        ([], "no weights: no safetensors file, and no other"),
    ],
)
def test_a_repository_without_weights_that_may_be_loaded_is_refused(names: list[str], why: str) -> None:
    with pytest.raises(checkpoint.UnwantedError, match=why):
        checkpoint.select(names, [], [])


def test_what_the_deployment_allows_is_fetched() -> None:
    assert checkpoint.select(["pytorch_model.bin"], [], ["pickle"])[0] == ["pytorch_model.bin"]
    assert checkpoint.select(["a.py", "m.safetensors"], [], ["remote_code"])[0] == ["a.py", "m.safetensors"]
    assert checkpoint.select(["m.safetensors", "pytorch_model.bin"], [], ["pickle"])[0] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("name", "out"),
    [("original/a.txt", True), ("original/deep/a", True), ("config.json", False), ("x/original/a", False)],
)
def test_exclusion(name: str, out: bool) -> None:
    assert (name in checkpoint.select([name, "m.safetensors"], ["original/*"], [])[1]) is out


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    root = tmp_path / "whole"
    root.mkdir()
    (root / "config.json").write_text("{}")
    placed = {}
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        (root / name).write_bytes(tensors(4000, [f"layer.{number}", f"bias.{number}"]))
        placed |= {f"layer.{number}": name, f"bias.{number}": name}
    index(root, placed)
    return root


FIRST = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def index(root: Path, placed: object) -> None:
    (root / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def look(root: Path) -> list[str]:
    return checkpoint.problems(root, manifest.list_files(root))


def test_a_whole_checkpoint_is_whole(whole: Path) -> None:
    assert look(whole) == []


def rewrite(whole: Path, change: Any) -> None:
    """Change the header of the first shard and leave its length right."""
    content = (whole / FIRST).read_bytes()
    length = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + length])
    change(document)
    text = json.dumps(document).encode()
    (whole / FIRST).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


SPOILED: dict[str, tuple[Any, str]] = {
    "a shard is not there": (lambda root: (root / FIRST).unlink(), f"it names {FIRST}, which is not there"),
    "a shard is cut": (lambda root: (root / FIRST).write_bytes((root / FIRST).read_bytes()[:-1]), f"{FIRST}: cut: "),
    "cut in its header": (
        lambda root: (root / FIRST).write_bytes((root / FIRST).read_bytes()[:40]),
        "within its header",
    ),
    "empty": (lambda root: (root / FIRST).write_bytes(b""), f"{FIRST}: no safetensors file, it has 0 bytes"),
    "longer": (
        lambda root: (root / FIRST).write_bytes((root / FIRST).read_bytes() + b"x"),
        f"{FIRST}: longer than its header says",
    ),
    "a page of an error": (lambda root: (root / FIRST).write_text("<html>not found</html>" * 9), "no safetensors file"),
    "zeros": (lambda root: (root / FIRST).write_bytes(bytes(4000)), "its header is no JSON"),
    "a pointer": (
        lambda root: (root / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"{FIRST}: a Git LFS pointer",
    ),
    "a tokenizer that is a pointer": (
        lambda root: (root / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "tokenizer.json: a Git LFS pointer",
    ),
    "a tensor that its shard lacks": (
        lambda root: index(root, {"layer.1": FIRST, "more": FIRST}),
        f"{FIRST} lacks 1 tensor(s) that it names, for example 'more'",
    ),
    "a shard elsewhere": (
        lambda root: index(root, {"a": "../x.safetensors"}),
        "it names '../x.safetensors', which is refused",
    ),
    "no index": (lambda root: (root / INDEX).write_text("{"), f"{INDEX}: no index of shards"),
    "an index of another form": (lambda root: index(root, ["a"]), f"{INDEX}: no index of shards"),
    "an index of numbers": (lambda root: index(root, {"a": 1}), f"{INDEX}: no index of shards"),
    "numbers without an index": (
        lambda root: ((root / INDEX).unlink(), (root / FIRST).unlink()),
        f"{FIRST}: not there (1 of 2 are)",
    ),
    "a tensor of another size": (
        lambda root: rewrite(root, lambda header: header["layer.1"].update(shape=[7])),
        f"{FIRST}: its header is wrong about 'layer.1'",
    ),
    "offsets backwards": (
        lambda root: rewrite(root, lambda header: header["layer.1"].update(data_offsets=[9, 3])),
        "its header is wrong about 'layer.1'",
    ),
    "no offsets": (
        lambda root: rewrite(root, lambda header: header["layer.1"].pop("data_offsets")),
        "its header is wrong about 'layer.1'",
    ),
    "a tensor that is a number": (
        lambda root: rewrite(root, lambda header: header.update({"layer.1": 7})),
        "its header is wrong about 'layer.1'",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_missing_or_cut_is_named(whole: Path, how: str) -> None:
    spoil, why = SPOILED[how]
    spoil(whole)
    assert any(why in line for line in look(whole)), look(whole)


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=64)
    | st.builds(lambda text: len(text).to_bytes(8, "little") + text, st.binary(max_size=64))
)
def test_no_content_of_a_file_is_too_much(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    try:
        assert isinstance(checkpoint.header(path), dict)
    except ValueError as error:
        assert str(error)


def spec(source: Path, final: Path, **inputs: Any) -> dict[str, Any]:
    wanted = {"repo": "a/b", "revision": "main", "source": "path", "uri": str(source), "exclude": []}
    return {"id": "a-b-main", "path": str(final), "inputs": {**wanted, **inputs}}


@pytest.fixture
def report(tmp_path: Path) -> progress.Progress:
    return progress.Progress(tmp_path / "report.json")


@pytest.mark.parametrize("how", [name for name in SPOILED if name != "numbers without an index"])
def test_the_job_refuses_what_is_not_whole_and_takes_it_once_it_is(
    whole: Path, tmp_path: Path, report: progress.Progress, how: str
) -> None:
    kept = {path.name: path.read_bytes() for path in whole.iterdir()}
    SPOILED[how][0](whole)
    final = tmp_path / "data" / "main"
    with pytest.raises(job.JobError, match="is not whole"):
        weights.run(spec(whole, final), report)
    assert not final.exists()
    for path in whole.iterdir():
        path.unlink()
    for name, content in kept.items():
        (whole / name).write_bytes(content)
    assert {entry["path"] for entry in weights.run(spec(whole, final), report)["files"]} == set(kept)


def test_programs_and_copies_do_not_come(
    whole: Path, tmp_path: Path, report: progress.Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_x.X"}}))
    (whole / "modeling_x.py").write_text("import os")
    (whole / "pytorch_model.bin").write_bytes(b"pickle")
    described = weights.run(spec(whole, tmp_path / "data" / "main"), report)
    assert not {"modeling_x.py", "pytorch_model.bin"} & {entry["path"] for entry in described["files"]}
    said = capsys.readouterr().out
    assert "left out: pytorch_model.bin: the weights again, in another format" in said
    assert "config.json asks for programs that are not here: modeling_x.X" in said
    trusting = weights.run(spec(whole, tmp_path / "data" / "trusting", trust=["remote_code"]), report)
    assert "modeling_x.py" in {entry["path"] for entry in trusting["files"]}


def test_another_program_s_manifest_is_no_manifest_and_not_fetched(
    whole: Path, tmp_path: Path, report: progress.Progress
) -> None:
    (whole / "manifest.json").write_text(json.dumps({"name": "a web page", "icons": []}))
    final = tmp_path / "data" / "main"
    described = weights.run(spec(whole, final), report)
    assert manifest.read(final) == described


@pytest.mark.parametrize(
    ("kind", "repo", "why"),
    [("artifact", "a/b", "describes 'the artifact x', not weights"), ("weights", "c/d", "describes 'weights of c/d'")],
)
def test_the_manifest_of_something_else_is_refused(
    whole: Path, tmp_path: Path, report: progress.Progress, kind: str, repo: str, why: str
) -> None:
    described = manifest.build(whole, kind, "x", {"repo": repo}, {})
    (whole / "manifest.json").write_text(manifest.dump(described))
    with pytest.raises(job.JobError, match=why):
        weights.run(spec(whole, tmp_path / "data" / "main"), report)


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b'{"version": 1, "files_digest": ""}', b"{"])
def test_a_manifest_that_was_cut_is_named_with_what_is_lost_and_what_to_do(
    whole: Path, tmp_path: Path, report: progress.Progress, content: bytes
) -> None:
    (whole / "manifest.json").write_bytes(content)
    before = sorted(path.name for path in whole.iterdir())
    with pytest.raises(job.JobError, match=r"manifest\.json: not a manifest .* their sums, is lost") as caught:
        weights.run(spec(whole, tmp_path / "data" / "main"), report)
    assert "remove that file alone" in caught.value.next_step
    assert sorted(path.name for path in whole.iterdir()) == before


def test_pinned_content_with_programs_is_refused_unless_they_are_allowed(
    whole: Path, tmp_path: Path, report: progress.Progress
) -> None:
    (whole / "modeling_x.py").write_text("import os")
    described = manifest.build(whole, "weights", "x", {"repo": "a/b"}, {})
    (whole / "manifest.json").write_text(manifest.dump(described))
    pinned = described["files_digest"]
    with pytest.raises(job.JobError, match=r"programs \(modeling_x\.py\)"):
        weights.run(spec(whole, tmp_path / "data" / "one", revision=pinned), report)
    allowed = spec(whole, tmp_path / "data" / "two", revision=pinned, trust=["remote_code"])
    assert weights.run(allowed, report)["files_digest"] == pinned
