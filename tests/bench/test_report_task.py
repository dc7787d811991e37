# SPDX-License-Identifier: Apache-2.0
"""The task that makes a run's report hands each limit on, by Ansible itself."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.report.runs import record, summary_of

from trainyard.paths import ROOT


def reported(folder: Path, **arguments: Any) -> dict[str, Any]:
    """What the task says of a run whose first replica served 16 of 20 requests, and of which one failed."""
    rows = [record(index) for index in range(20)]
    rows[3].update(outcome="failed", http_status=500, error="no", ttft_s=None, e2e_s=None, output_tokens=None)
    summary = summary_of(20)
    counters = summary["repeats"][0]["counters"]
    for name, served in (("lab-1:tiny-0", 16), ("lab-1:tiny-1", 4)):
        counters[name]["after"]["requests"] = counters[name]["before"]["requests"] + served
    run = folder / "one"
    (run / "repeat-0").mkdir(parents=True)
    (run / "repeat-0/requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "run.json").write_text(json.dumps(summary))
    with tarfile.open(folder / "one.tar.gz", "w:gz") as tar:
        tar.add(run, "one")
    given = {"archive": str(folder / "one.tar.gz"), "provenance": "simulated", "replicas": [], **arguments}
    argv = ["ansible", "localhost", "-i", "localhost,", "-m", "trainyard.neuron.benchmark_report"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [*argv, "-a", json.dumps(given)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(yaml.safe_load(done.stdout.partition("=>")[2]))


@pytest.mark.parametrize(
    ("limits", "errors"),
    [
        ({"failed_limit": 0.1}, set()),
        ({}, {"failed_requests"}),
        ({"failed_limit": 0.1, "balance_limit": 1.5}, {"imbalance"}),
        ({"failed_limit": 0.1, "balance_limit": 1.7}, set()),
    ],
)
def test_what_may_fail_and_how_uneven_it_may_be_decides_whether_a_run_is_sound(
    tmp_path: Path, limits: dict[str, float], errors: set[str]
) -> None:
    said = reported(tmp_path, **limits)
    assert {flag["code"] for flag in said["flags"] if flag["severity"] == "error"} == errors
    assert said["sound"] == (not errors)
