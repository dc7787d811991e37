# SPDX-License-Identifier: Apache-2.0
"""What clients can make a server log, and what a server can leave in its directory: neither ends nor tells anything."""

from __future__ import annotations

import pytest

from tests.attack.conftest import MODEL, REPLICAS, SECRET, SECRET_FILE, Fleet, Streams

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("attack")]

NAME = REPLICAS[0]


def names(fleet: Fleet) -> list[str]:
    """Models that nobody serves, called like what the loader says, alone and at the beginning of a line."""
    artifact = fleet.entry(NAME)["artifact_path"]
    said = [
        "Unable to find precompiled artifacts",
        f"Unable to find precompiled artifacts from {artifact}. Recompiling...",
        f"Failed to load the model from {artifact} Recompiling...",
        f"WARNING 09-14 02:23:18 neuronx_distributed.py:244] Failed to load the model from {artifact} Recompiling...",
    ]
    return said + [f"x\n{text}\n" for text in said] + ["Unable to find precompiled artifacts " * 1000]


def test_a_model_named_like_the_loaders_words_ends_nothing(steady: Fleet) -> None:
    before = steady.starts()
    with Streams(steady) as streams:
        asked = [steady.completion(model=name) for name in names(steady)]
        for name in REPLICAS:
            assert set(steady.ask_replica(name, asked)) == {404}
        answers = [steady.ask(model=name) for name in names(steady)]
        prompts = [steady.ask(prompt=name) for name in names(steady)[:-1]]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.status_code for answer in prompts} == {200}
    assert streams.cut == []
    assert steady.starts() == before
    for name in REPLICAS:
        assert "Unable to find precompiled artifacts" in steady.journal(name), "nothing was logged: no attack at all"
    assert "precompiled" not in steady.on("journalctl --unit=trainyard-probe.service --output=cat --no-pager")


def test_no_prompt_stands_in_a_journal(steady: Fleet) -> None:
    word = "pr0mpt-nobody-else-writes"
    assert steady.ask(prompt=word).status_code == 200
    for name in REPLICAS:
        steady.ask_replica(name, [steady.completion(prompt=word)])
        assert word not in steady.journal(name)


@pytest.mark.parametrize("file", ["ended", "gate.json", "replica.json", "pid", "stopping", "loading"])
def test_a_link_to_a_file_of_roots_tells_nothing_of_it_when_the_replica_stops(steady: Fleet, file: str) -> None:
    link = f"/run/vllm/{NAME}/{file}"
    steady.on(f"runuser -u vllm -- ln -sfn {SECRET_FILE} {link} && test -L {link}")
    steady.on("sleep 2")  # the probe looks once a second
    status = "/usr/local/lib/trainyard/replica status"
    seen = [steady.on(status), steady.on(f"systemctl stop vllm@{NAME}.service; systemctl status vllm@{NAME} || true")]
    seen += steady.show(NAME, "StatusText", "Result")
    seen += [steady.journal(NAME), steady.on("cat /run/trainyard-probe/*"), steady.on(f"{status} {NAME}")]
    assert not any(SECRET in text for text in seen)
    assert steady.on(f"cat {SECRET_FILE}") == SECRET, "it was written through the link"
    # An attack of many starts is not what the unit's limit is to be told of.
    steady.on(f"systemctl reset-failed vllm@{NAME}.service; systemctl start vllm@{NAME}.service")


def test_the_search_would_find_the_secret(steady: Fleet) -> None:
    steady.on(f"systemd-cat --identifier=control cat {SECRET_FILE}; journalctl --sync")
    assert SECRET in steady.on("journalctl --identifier=control --all --output=export --no-pager")


def test_what_ended_a_replica_is_told_by_its_own_user_and_reaches_the_units_status(steady: Fleet) -> None:
    user = steady.on("id -u vllm")
    steady.lab.fault("lab-1", "engine-crash", "--replica", NAME)
    told = "ended by the standing probe: its engine"
    look = f"systemctl show -P StatusText vllm@{NAME}.service"
    steady.on(f"timeout 60 sh -c 'until {look} | grep -q \"{told}\"; do sleep 0.2; done'")
    steady.settled()
    rows = f"journalctl --unit=vllm@{NAME}.service --output=json --no-pager | grep '{told}'"
    assert f'"_UID":"{user}"' in steady.on(rows).replace(" ", "")
    assert MODEL in steady.ask().text
