# SPDX-License-Identifier: Apache-2.0
"""Preflight of stand-in hosts that each have a trouble: all of it in one go, a line each, and nothing changed.

The hosts' clocks, disks and kernels are this machine's and cannot be broken for one of them; what is said of those is
judged in the unit tests, over what real hosts print.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("preflight")]

HOSTS = 6
NEURON_LS = "/opt/aws/neuron/bin/neuron-ls"
PLACES = "/etc /data /var/lib/trainyard /usr/local"
SEEN = f"find {PLACES} -newer /run/asked -type f ! -path '*/trainyard/roll/*' 2>/dev/null | sort | head"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("preflight", HOSTS) as made:
        yield made


def preflight(lab: Lab, *more: str, book: str = "playbooks/preflight.yml") -> tuple[int, str, float]:
    """A run as a person sees it: exit code, output, seconds."""
    environment = {**lab.environment, "ANSIBLE_STDOUT_CALLBACK": "trainyard.neuron.people", "COLUMNS": "400"}
    began = time.monotonic()
    done = subprocess.run(
        lab.command(book, *more), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def told(output: str, host: str) -> list[str]:
    """The problems of one host, a line each."""
    return re.findall(rf"^ *- {host}: (.*)$", output, re.MULTILINE)


def test_hosts_without_a_trouble_pass_in_seconds(lab: Lab) -> None:
    code, output, seconds = preflight(lab)
    assert code == 0, output
    assert seconds < 60, "six hosts on one busy machine"


def test_each_host_s_trouble_is_one_line_and_nothing_is_changed(lab: Lab) -> None:
    hidden = f"{NEURON_LS}.hidden"
    lab.on("lab-1", "apt-cache policy haproxy >/dev/null; touch /run/asked")
    # Of the router: another program on a replica's port. Of the others: no driver, no sudo, no Python, no host.
    lab.on("lab-1", "systemd-run --unit=other-server python3 -m http.server 8001 --bind 0.0.0.0")
    lab.on("lab-2", f"touch /run/asked; mv {NEURON_LS} {hidden}; printf '#!/bin/sh\\necho no driver >&2\\nexit 1\\n'"
                    f" > {NEURON_LS}; chmod 755 {NEURON_LS}")  # fmt: skip
    lab.on("lab-3", "touch /run/asked; mkdir /run/sudoers.off; mv /etc/sudoers.d/* /run/sudoers.off/; touch /run/asked")
    lab.on("lab-4", "touch /run/asked")
    try:
        extra = {
            "lab-4": {"ansible_python_interpreter": "/usr/bin/no-python"},
            "lab-5": {"ansible_host": "192.0.2.55", "ansible_ssh_timeout": 3},
            "lab-6": {"model_weights_hub_endpoint": "http://no-such-hub.invalid", "trainyard_data_dir": "/data"},
        }
        broken = Path(lab.folder) / "broken.json"
        broken.write_text(json.dumps({"all": {"hosts": extra}}))
        lab.inventories.append(str(broken))
        code, output, seconds = preflight(lab)
        assert code == 2, output
        assert "nothing was changed" in output
        expected = {
            "lab-1": ["port = 8001", "other-server.service listens"],
            "lab-2": ["driver", "no driver"],
            "lab-3": ["ansible_become", "sudo refuses"],
            "lab-4": ["ansible_python_interpreter", "no module runs there"],
            "lab-5": ["cannot be asked", "--limit"],
        }
        for host, words in expected.items():
            lines = told(output, host)
            assert len(lines) == 1, (host, output)
            for word in (*words, "Fix: "):
                assert word in lines[0]
        assert seconds < 90
        code, output, _ = preflight(lab, book="site.yml")
        assert code == 2, output
        assert "Provision" not in output
        assert lab.on("lab-1", SEEN) == ""
        # What is there of the run is its number in the book of locks, and it holds none.
        assert json.loads(lab.on("lab-1", "cat /var/lib/trainyard/roll/state.json"))["holder"] is None
        del lab.inventories[1:]
        # A limit is said, and so is who is left behind.
        code, output, _ = preflight(lab, "--limit", "lab-4,lab-6")
        assert code == 0, output
        assert "--limit: 4 of 6 hosts were not asked" in output
        code, output, _ = preflight(lab, "--limit", "lab-3,lab-6", "-e", '{"trainyard_as_far_as_possible": true}')
        assert code == 0, output
        assert "lab-3 is left behind" in output
    finally:
        del lab.inventories[1:]
        lab.on("lab-2", f"mv {hidden} {NEURON_LS}")
        lab.on("lab-1", "systemctl stop other-server")


def test_sources_are_asked_from_the_host_that_needs_them(lab: Lab) -> None:
    others = [name for name in (f"lab-{number}" for number in range(1, HOSTS + 1)) if name != "lab-3"]
    limit = ["--limit", ",".join(others)]
    for variables, words in (
        ({"model_weights_hub_endpoint": "http://no-such-hub.invalid"}, ["model_weights_hub_endpoint", "name server"]),
        ({"model_compile_store": "s3://no-such-bucket/x"}, ["model_compile_store", "NoSuchBucket"]),
        (
            {"trainyard_overrides": {"tiny-llama": {"model": {"repo": "{{ lab_model_repo }}", "revision": "f" * 40}}}},
            ["is not there", "model.revision"],
        ),
    ):
        code, output, _ = preflight(lab, *limit, "-e", json.dumps(variables))
        assert code == 2, output
        found = [line for host in others for line in told(output, host)]
        assert len(found) == 1, output
        for word in words:
            assert word in found[0]


def test_status_says_of_whom_nothing_is_known_and_ends_in_failure(lab: Lab) -> None:
    code, output, _ = preflight(lab, "--limit", "lab-1,lab-6", book="playbooks/status.yml")
    assert code == 0, output
    away = Path(lab.folder) / "away.json"
    away.write_text(json.dumps({"all": {"hosts": {"lab-6": {"ansible_host": "192.0.2.55", "ansible_ssh_timeout": 3}}}}))
    lab.inventories.append(str(away))
    try:
        code, output, _ = preflight(lab, "--limit", "lab-1,lab-6", book="playbooks/status.yml")
    finally:
        del lab.inventories[1:]
    assert code != 0
    assert "lab-6" in output
    assert "Could not be asked" in output


def test_a_fleet_that_serves_passes_with_its_own_units_on_its_ports(lab: Lab) -> None:
    limit = ["--limit", "lab-1"]
    lab.play("site.yml", "--skip-tags", "benchmark", *limit)
    code, output, seconds = preflight(lab, *limit)
    assert code == 0, output
    assert seconds < 60
