# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest, store, weights
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs.progress import Progress
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import tensors

boto3 = pytest.importorskip("boto3")
moto = pytest.importorskip("moto")

DIGEST = "cd" * 32


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="fleet")
        yield


@pytest.fixture
def made(tmp_path: Path) -> Path:
    root = tmp_path / "made"
    (root / "weights").mkdir(parents=True)
    (root / "model.pt").write_bytes(b"graph")
    (root / "weights" / "tp0.safetensors").write_bytes(b"\1" * 100_000)
    return root


def test_artifact_goes_there_and_back(made: Path, tmp_path: Path) -> None:
    shared = store.open_store("s3://fleet/artifacts/")
    assert shared.manifest(DIGEST) is None
    described = manifest.build(made, "artifact", DIGEST, {}, {})
    counted: list[int] = []
    shared.put(DIGEST, made, described, counted.append)
    assert sum(counted) == 100_005
    assert shared.manifest(DIGEST) == described
    assert shared.digests() == [DIGEST]
    target = tmp_path / "back"
    shared.get(DIGEST, "weights/tp0.safetensors", target, counted.append)
    assert target.read_bytes() == b"\1" * 100_000
    shared.remove(DIGEST)
    assert shared.digests() == []
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="fleet")


def test_upload_that_was_cut_off_is_not_there(made: Path) -> None:
    boto3.client("s3").put_object(Bucket="fleet", Key=f"artifacts/{DIGEST}/model.pt", Body=b"graph")
    shared = store.open_store("s3://fleet/artifacts")
    assert shared.manifest(DIGEST) is None
    assert shared.digests() == []


def test_missing_bucket_is_an_error_and_not_an_empty_store() -> None:
    with pytest.raises(store.StoreError, match="NoSuchBucket"):
        store.open_store("s3://nobody/artifacts").manifest(DIGEST)


def test_weights_come_from_s3(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "more/notes.txt": b"x", "model.safetensors": tensors(100_000)}
    for name, content in files.items():
        boto3.client("s3").put_object(Bucket="fleet", Key=f"models/m/{name}", Body=content)
    inputs = {"repo": "a/b", "revision": "v1", "source": "s3", "uri": "s3://fleet/models/m", "exclude": []}
    final = tmp_path / "data" / "v1"
    described = weights.run({"id": "x", "path": str(final), "inputs": inputs}, Progress(tmp_path / "report.json"))
    assert {entry["path"]: (final / entry["path"]).read_bytes() for entry in described["files"]} == files
    assert manifest.full_problems(final, described) == []


@pytest.fixture(params=["s3", "path"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    (tmp_path / "store").mkdir()
    return store.open_store({"s3": "s3://fleet/artifacts", "path": str(tmp_path / "store")}[request.param])


def test_lock_has_one_owner_until_it_is_given_back(any_store: store.S3Store) -> None:
    assert any_store.holder(DIGEST) is None
    assert any_store.lock(DIGEST, "h1") is None
    assert any_store.lock(DIGEST, "h2") == "h1"
    assert any_store.lock(DIGEST, "h1") is None
    any_store.unlock(DIGEST, "h2")
    assert any_store.holder(DIGEST) == "h1"
    any_store.unlock(DIGEST, "h1")
    assert any_store.lock(DIGEST, "h2") is None


def test_lock_of_a_host_that_died_expires(any_store: store.S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_S", -1.0)
    assert any_store.lock(DIGEST, "h1") is None
    monkeypatch.undo()
    assert any_store.holder(DIGEST) is None
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    assert any_store.lock(DIGEST, "h2") is None
    assert any_store.lock(DIGEST, "h1") == "h2"


def test_of_two_that_see_no_lock_one_gets_it(any_store: store.S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(any_store, store.S3Store):
        monkeypatch.setattr(any_store, "_locked_by", lambda _digest: (None, {"IfNoneMatch": "*"}))
    else:
        sees, turns = any_store._last, iter(range(3))
        monkeypatch.setattr(any_store, "_last", lambda digest: (0, "") if next(turns) < 2 else sees(digest))
    assert any_store.lock(DIGEST, "h1") is None
    assert any_store.lock(DIGEST, "h2") is not None


def test_an_ended_lock_goes_to_one_of_those_who_come_for_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stands between looking and taking for a moment, as on a file system across a network."""
    (tmp_path / "shared").mkdir()
    read = store._read

    def slowly(path: Path) -> str:
        text = read(path)
        time.sleep(random.uniform(0, 0.003))  # noqa: S311 (any moment will do)
        return text

    monkeypatch.setattr(store, "_read", slowly)
    for turn in range(25):
        with monkeypatch.context() as ended:
            ended.setattr(store, "LOCK_S", -1.0)
            store.open_store(str(tmp_path / "shared")).lock(DIGEST, f"dead-{turn}")
        together, told = threading.Barrier(6), {}

        def come(name: str, together: threading.Barrier = together, told: dict[str, str | None] = told) -> None:
            shared = store.open_store(str(tmp_path / "shared"))
            together.wait()
            told[name] = shared.lock(DIGEST, name)

        threads = [threading.Thread(target=come, args=(f"h{index}-{turn}",)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [name for name, holder in told.items() if holder is None]
        assert {holder for holder in told.values() if holder} == {winner}
        store.open_store(str(tmp_path / "shared")).unlock(DIGEST, winner)


def test_a_host_that_slept_between_looking_and_taking_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    late, other = (store.open_store(str(tmp_path / "shared")) for _ in range(2))
    sees, stale = late._last, [late._last(DIGEST)]
    assert [other.lock(DIGEST, "h2") for _ in range(4)] == [None] * 4
    monkeypatch.setattr(late, "_last", lambda digest: stale.pop() if stale else sees(digest))
    assert late.lock(DIGEST, "h1") == "h2"
    assert other.holder(DIGEST) == "h2"
    assert other.lock(DIGEST, "h2") is None


def test_a_host_that_slept_while_giving_a_lock_back_takes_nobodys_away(
    any_store: store.S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the lock as its own, sleeps until that has ended, and goes on when another host compiles."""
    look = "_locked_by" if isinstance(any_store, store.S3Store) else "_last"
    with monkeypatch.context() as soon:
        soon.setattr(store, "LOCK_S", 0.5)
        assert any_store.lock(DIGEST, "h1") is None
    sees = getattr(any_store, look)
    seen = sees(DIGEST)
    assert any_store.holder(DIGEST) == "h1"
    time.sleep(0.6)
    assert any_store.lock(DIGEST, "h2") is None
    stale = [(("h1", seen[1]) if look == "_locked_by" else (seen[0], store.lock_text("h1")))]
    monkeypatch.setattr(any_store, look, lambda digest: stale.pop() if stale else sees(digest))
    any_store.unlock(DIGEST, "h1")
    assert stale == [], "it did not look"
    assert any_store.holder(DIGEST) == "h2"
    assert any_store.lock(DIGEST, "h3") == "h2"


@pytest.mark.parametrize("request_number", [1, 2, 3])
def test_between_no_two_requests_of_giving_a_lock_back_can_another_hosts_be_taken_away(request_number: int) -> None:
    """The host sleeps before a request until its lock has ended and another host compiles."""
    mine, other = (store.open_store("s3://fleet/artifacts") for _ in range(2))
    assert mine.lock(DIGEST, "h1") is None
    asked = []

    def sleep(**_: object) -> None:
        asked.append(request_number)
        if len(asked) == request_number:
            other._client.put_object(
                Bucket="fleet", Key=f"artifacts/{DIGEST}.lock", Body=store.lock_text("h2").encode()
            )

    mine._client.meta.events.register("before-call.s3", sleep)
    mine.unlock(DIGEST, "h1")
    assert other.holder(DIGEST) == ("h2" if len(asked) >= request_number else None)


def test_locked_digest_is_no_artifact_yet(any_store: store.S3Store) -> None:
    any_store.lock(DIGEST, "h1")
    assert any_store.manifest(DIGEST) is None
    assert any_store.digests() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"owner": "me", "expires": %s}' % ("9" * 400), '{"owner": 1}']
)
def test_a_lock_that_nobody_wrote_is_nobodys(text: str) -> None:
    assert store.lock_holder(text) is None
