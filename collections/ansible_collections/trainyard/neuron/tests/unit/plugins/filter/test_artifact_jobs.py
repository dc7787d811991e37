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
    }


def test_each_artifact_is_compiled_by_one_host_and_fetched_by_the_others() -> None:
    artifacts = [artifact("a", "h1"), artifact("b", "h2")]
    for host, compiled, fetched in (("h1", ["a"], ["b"]), ("h2", ["b"], ["a"]), ("h3", [], ["a", "b"])):
        assert [job["id"] for job in artifact_jobs(artifacts, host, "compile")] == compiled
        assert [job["id"] for job in artifact_jobs(artifacts, host, "fetch")] == fetched


def test_mode_must_be_known() -> None:
    with pytest.raises(ValueError, match="not compile or fetch"):
        artifact_jobs([], "h1", "both")
