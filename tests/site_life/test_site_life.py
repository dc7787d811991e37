# SPDX-License-Identifier: Apache-2.0
"""The end of the whole run's scenario: where its secrets are, and whether check mode told the truth of what followed.

Run by `molecule test --scenario-name site`, after the tests of what the run promises, with secrets planted.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests import planted
from tests.attack.test_teardown_on_a_lab import OURS_THAT_STAY
from tests.site_life.look import FILE, HOSTS, look
from tests.stand_in import Lab
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

PLANTED = ROOT / "molecule" / "site" / "planted"
SITE, TEARDOWN = ("site.yml", "--skip-tags=benchmark"), ("playbooks/teardown.yml",)

#: Where a secret has to be, for what needs it to have it: the hosts' files, and the users in whose processes it is.
NEEDED: dict[str, dict[str, list[str]]] = {
    "replica key": {
        "file": ["400 /etc/vllm/releases/ID/api-key", "600 /etc/haproxy/trainyard/upstream.map"],
        # vLLM takes its key from its environment, which its own user and root can read.
        "environment": ["vllm"],
    },
    "hub token": {"file": ["600 /etc/trainyard/credentials/weights.json"]},
    "store secret": {
        "file": ["600 /etc/trainyard/credentials/artifact.json", "600 /etc/trainyard/credentials/weights.json"]
    },
}


def secrets() -> dict[str, str]:
    """What the scenario's inventory has in the place of an operator's secrets."""
    given = yaml.safe_load((PLANTED / "group_vars" / "all.yml").read_text(encoding="utf-8"))
    return {
        "replica key": given["vllm_endpoint_api_key"],
        "hub token": given["model_weights_hub_token"],
        "store secret": given["trainyard_aws_environment"]["AWS_SECRET_ACCESS_KEY"],
    }


@pytest.fixture(scope="module")
def lab() -> Lab:
    made = Lab(os.environ.get("TRAINYARD_LAB", "none"), inventories=["inventory/lab", str(PLANTED)])
    if not (made.folder / FILE).is_file():
        pytest.fail("run by molecule: molecule test --scenario-name site")
    return made


@pytest.fixture(scope="module")
def said(lab: Lab) -> Iterator[list[str]]:
    """All that Ansible printed."""
    lines: list[str] = []
    yield lines


def changes(run: dict[str, Any]) -> list[tuple[str, str]]:
    """The tasks that changed something with their hosts, in their order."""
    return [
        (task["task"]["name"], host)
        for play in run["plays"]
        for task in play["tasks"]
        for host, result in sorted(task["hosts"].items())
        if result.get("changed")
    ]


def play(lab: Lab, said: list[str], *arguments: str) -> list[tuple[str, str]]:
    document, output = lab.printed(*arguments, "--diff", "-vvv")
    said.append(output)
    return changes(document)


@pytest.mark.parametrize("name", NEEDED)
def test_a_secret_is_where_it_is_needed_and_nowhere_else(lab: Lab, name: str) -> None:
    # The first host is the router as well.
    assert planted.places(lab, HOSTS[0], secrets()[name]) == NEEDED[name]


def test_the_search_finds_a_secret_in_each_kind_of_place(lab: Lab) -> None:
    word = "pl4nted-control-of-the-search"
    output = planted.plant(lab, HOSTS[1], word)
    try:
        found = planted.places(lab, HOSTS[1], word)
    finally:
        planted.take_away(lab, HOSTS[1])
    assert set(found) == {"file", "journal", "unit", "command line", "environment"}
    assert "600 /var/tmp/left-behind" in found["file"]
    assert "root" in found["environment"]
    assert "sh" in found["command line"]
    assert planted.printed(["nothing", output], word) == [""]


def test_a_removal_does_what_check_mode_foretold(lab: Lab, said: list[str]) -> None:
    foretold = play(lab, said, *TEARDOWN, "--check")
    assert foretold != []
    assert play(lab, said, *TEARDOWN, "--check") == foretold, "check mode changed something"
    assert play(lab, said, *TEARDOWN) == foretold
    assert play(lab, said, *TEARDOWN) == []


@pytest.mark.parametrize("host", HOSTS)
def test_a_removal_leaves_what_the_documentation_lists(lab: Lab, host: str) -> None:
    before = json.loads((lab.folder / FILE).read_text(encoding="utf-8"))[host]
    after = look(lab, host)
    added = {kind: set(after[kind]) - set(before[kind]) for kind in ("files", "users", "groups", "units", "packages")}
    packages = " ".join(sorted(added["packages"]))
    of_packages = set(lab.on(host, f"dpkg --listfiles {packages} || true").splitlines()) if packages else set()
    words = ("trainyard", "vllm", "haproxy", "fence", "/data")
    ours = [path for path in added["files"] - of_packages if any(word in path for word in words)]
    assert [path for path in ours if not any(fnmatch.fnmatch(path, glob) for glob in OURS_THAT_STAY)] == []
    for kind in ("users", "groups", "units", "packages"):
        assert not {name for name in added[kind] if any(word in name for word in words)}, kind
    assert "trainyard" not in after["rules"]
    for name, secret in secrets().items():
        # The journal has none either, of all that was done here.
        assert planted.places(lab, host, secret) == {}, name


def test_a_run_does_what_check_mode_foretold_and_prints_no_secret(lab: Lab, said: list[str]) -> None:
    foretold = play(lab, said, *SITE, "--check")
    assert foretold != []
    assert play(lab, said, *SITE) == foretold
    assert play(lab, said, *SITE, "--check") == []
    assert len(said) == 7
    for name, secret in secrets().items():
        assert planted.printed(said, secret) == [], name
