# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.filter.artifact_jobs import artifact_jobs


def artifact(digest: str, host: str) -> dict[str, object]:
    return {
        "digest": digest,
        "path": f"/data/artifacts/{digest}",
        "inputs": {"tp": 32},
        "argv": ["compile"],
        "environment": {},
        "work_dir": f"/data/compile/{digest}",
        "mode": "run",
        "generation": "nxdi_v0",
        "compile_host": host,
        "weights_path": "/data/weights/m",
        "runtime": "venv",
        "image": None,
    }


def test_each_artifact_is_compiled_by_one_host_and_fetched_by_the_others() -> None:
    artifacts = [artifact("a", "h1"), artifact("b", "h2")]
    for host, compiled, fetched in (("h1", ["a"], ["b"]), ("h2", ["b"], ["a"]), ("h3", [], ["a", "b"])):
        assert [job["id"] for job in artifact_jobs(artifacts, host, "compile")] == compiled
        assert [job["id"] for job in artifact_jobs(artifacts, host, "fetch")] == fetched


def test_an_artifact_of_an_image_is_compiled_in_it() -> None:
    """The same engine options as the replica's: no entry point, no health check, the unit's control group."""
    wanted = {**artifact("a" * 64, "h1"), "runtime": "container", "image": "r/n@sha256:1", "environment": {"A": "1"}}
    (job,) = artifact_jobs([wanted], "h1", "compile")
    argv = job["spec"]["argv"]
    assert argv[:2] == ["podman", "run"] and argv[-2:] == ["r/n@sha256:1", "compile"]
    assert argv[argv.index("--entrypoint") + 1] == "" and "--no-healthcheck" in argv and "--privileged" not in argv
    volumes = [argv[index + 1] for index, word in enumerate(argv) if word == "--volume"]
    staging = f"/data/artifacts/.{'a' * 64}.partial"
    assert argv[argv.index("--user") + 1] == "{compile_user}"
    assert argv[argv.index("--cap-drop") + 1] == "ALL" and "--cap-add" not in argv
    assert volumes == [
        "/data/weights/m:/data/weights/m:ro",
        f"{staging}:{staging}:rw",
        f"/data/compile/{'a' * 64}:/data/compile/{'a' * 64}:rw",
    ]
    names = [argv[index + 1] for index, word in enumerate(argv) if word == "--env"]
    assert names == ["A", "BASE_COMPILE_WORK_DIR", "HOME"]
    (with_docker,) = artifact_jobs([wanted], "h1", "compile", container_engine="docker")
    assert with_docker["spec"]["argv"][0] == "docker" and "--cgroups" not in with_docker["spec"]["argv"]


def test_mode_must_be_known() -> None:
    with pytest.raises(ValueError, match="not compile, fetch or store"):
        artifact_jobs([], "h1", "both")


@pytest.mark.parametrize(
    ("mode", "network", "given"),
    [("run", "none", "none"), ("run", "no_metadata", "host"), ("run", "full", "host"), ("warm_up", "none", "host")],
)
def test_a_compiler_in_a_container_has_no_network_unless_it_is_asked_for_its_health(
    mode: str, network: str, given: str
) -> None:
    wanted = {
        **artifact("a" * 64, "h1"),
        "runtime": "container",
        "image": "r/n@sha256:1",
        "environment": {},
        "mode": mode,
    }
    (job,) = artifact_jobs([wanted], "h1", "compile", network=network)
    argv = job["spec"]["argv"]
    assert argv[argv.index("--network") + 1] == given
