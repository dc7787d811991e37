# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.filter.job_senders import job_senders
from ansible_collections.trainyard.neuron.plugins.filter.weights_jobs import weights_jobs

PLANNED = {"host": "h1", "address": "10.0.0.1", "path": "/data/m", "turn": 2}


def look(number: int, has: bool) -> dict[str, Any]:
    paths = {"m": f"/d{number}/m"} if has else {}
    return {"done": list(paths), "missing": [] if has else ["m"], "paths": paths, "address": f"10.0.0.{number}"}


def jobs(sender: Any) -> list[dict[str, Any]]:
    return [{"id": "m", "spec": {"endpoint": "", "sender": sender}}]


def test_new_fleet_goes_by_the_plan() -> None:
    found = {f"h{number}": look(number, False) for number in (1, 2, 3)}
    assert job_senders(jobs(PLANNED), "h3", found) == jobs(PLANNED)
    assert job_senders(jobs(None), "h1", found) == jobs(None)


def test_host_that_joins_gets_it_from_one_that_has_it_even_if_the_plan_names_it_first() -> None:
    found = {"h0": look(0, False), "h1": look(1, True), "h2": look(2, True)}
    (job,) = job_senders(jobs(None), "h0", found)
    assert job["spec"]["sender"] == {"host": "h1", "address": "10.0.0.1", "path": "/d1/m", "turn": 0}


def test_hosts_that_have_it_share_the_work() -> None:
    found = {f"h{number}": look(number, number < 3) for number in range(5)}
    senders = {name: job_senders(jobs(PLANNED), name, found)[0]["spec"]["sender"]["host"] for name in ("h3", "h4")}
    assert senders == {"h3": "h0", "h4": "h1"}


def test_run_over_one_host_alone_goes_by_the_plan() -> None:
    assert job_senders(jobs(PLANNED), "h9", {"h9": look(9, False), "h8": {"skipped": True}}) == jobs(PLANNED)


def test_job_that_does_not_go_from_host_to_host_stays_as_it_is() -> None:
    plain = [{"id": "m", "spec": {"endpoint": ""}}]
    assert job_senders(plain, "h0", {"h0": look(0, False), "h1": look(1, True)}) == plain


def test_only_the_sources_that_are_named_are_asked_once() -> None:
    model = {"id": "m", "path": "/d/m", "repo": "a/b", "revision": "r", "sender": PLANNED}
    for source, once in (("huggingface", True), ("s3", False)):
        (job,) = weights_jobs([{**model, "source": source}], fan_out=["huggingface"])
        assert ("sender" in job["spec"]) is once
