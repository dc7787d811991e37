# SPDX-License-Identifier: Apache-2.0
"""Preflight of stand-in hosts that each have a trouble: all of it in one go, a line each, and nothing changed.

The hosts' clocks and kernels are this machine's: a host with a wrong clock, or with an old Python, is one whose Python
says so of itself. They have no disks of their own; those of tests/vm have.
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


#: A Python that says something else of itself, or of the time, whatever asks it.
SAYS = "python3 -c 'import sys; print(\"/etc/python%d.%d/sitecustomize.py\" % sys.version_info[:2])'"
#: A kernel that was updated, and the headers did not follow; nothing else can be asked of the driver then.
NEWER_KERNEL = f"""
cp -a {NEURON_LS} {NEURON_LS}.hidden
printf '#!/bin/sh\\necho no driver for this kernel >&2\\nexit 1\\n' > {NEURON_LS}
mkdir -p /lib/modules/$(uname -r)/build && mv /lib/modules/$(uname -r)/build /lib/modules/$(uname -r)/build.hidden
"""
OLDER_KERNEL = (
    f"mv {NEURON_LS}.hidden {NEURON_LS}; mv /lib/modules/$(uname -r)/build.hidden /lib/modules/$(uname -r)/build"
)
#: A system whose own HAProxy is that of Ubuntu 22.04, and no other is to be had.
OLD_HAPROXY = """
mkdir -p /srv/old && cd /etc/apt
printf '%s\\n' 'Package: haproxy' 'Version: 2.4.30-0ubuntu0.22.04.2' 'Architecture: all' > /srv/old/Packages
echo 'Filename: ./x' >> /srv/old/Packages
echo 'deb [trusted=yes] file:/srv/old ./' > sources.list.d/old.list
printf '%s\\n' 'Package: haproxy' 'Pin: version 2.4.*' 'Pin-Priority: 1001' > preferences.d/old
alone='-o Dir::Etc::SourceList=sources.list.d/old.list -o Dir::Etc::SourceParts=-'
apt-get update -qq $alone -o APT::Get::List-Cleanup=0
"""
NEW_HAPROXY = """
cd /etc/apt && rm -rf preferences.d/old sources.list.d/old.list /srv/old /var/lib/apt/lists/_srv_old*
"""


def test_each_trouble_of_system_kernel_clock_and_network_is_one_line(lab: Lab) -> None:
    """An old HAProxy, a driver without headers, a clock, an old Python, a full volume, no way to the router."""
    try:
        lab.on("lab-1", OLD_HAPROXY)
        lab.on("lab-2", NEWER_KERNEL)
        late = "import time; there = time.time; time.time = lambda: there() - 600"
        lab.on("lab-3", f"echo '{late}' >> $({SAYS})")
        lab.on("lab-4", f"echo 'import platform; platform.python_version = lambda: \"3.8.10\"' >> $({SAYS})")
        lab.fault("lab-5", "disk-full")
        lab.fault("lab-6", "network-cut", "--peer", "lab-1")
        code, output, seconds = preflight(lab, book="site.yml")
        assert code == 2, output
        expected = {
            "lab-1": ["load_balancer_package", "2.4.30", "needs HAProxy 2.6 or newer"],
            "lab-2": ["driver", "no driver for this kernel", "linux-headers-", "dkms autoinstall"],
            "lab-3": ["clock", "s behind this controller", "timedatectl set-ntp true"],
            "lab-4": ["ansible_python_interpreter", "3.8.10", "3.9 is needed"],
            "lab-5": ["trainyard_data_dir", "has 0 GiB for weights", "at least 1"],
        }
        for host, words in expected.items():
            lines = [line for line in told(output, host) if not line.startswith("network")]
            assert len(lines) == 1, (host, output)
            for word in (*words, "Fix: "):
                assert word in lines[0]
        # A way has two ends, and it is named once, by the one that goes it.
        (way,) = [line for line in told(output, "lab-1") if line.startswith("network")]
        assert "is not reached from here" in way
        assert lab.address("lab-6") in way
        assert told(output, "lab-6") == []
        assert "Provision" not in output
        assert seconds < 90
    finally:
        lab.on("lab-1", NEW_HAPROXY)
        lab.on("lab-2", OLDER_KERNEL)
        for host in ("lab-3", "lab-4"):
            lab.on(host, f"sed -i '/lambda/d' $({SAYS})")
        for host in ("lab-5", "lab-6"):
            lab.fault(host, "clear")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"trainyard_data_dir": "/home/ubuntu/data"}, ["trainyard_data_dir", "/home"]),
        ({"trainyard_address": "203.0.113.7"}, ["trainyard_address", "203.0.113.7"]),
        (
            {"trainyard_results_dir": "/etc/hostname/results"},
            ["trainyard_results_dir", "cannot be written", "controller"],
        ),
        (
            {"trainyard_data_dir": "/srv/data", "nvme_raid_when_no_disks": "fail"},
            ["no instance-store disk", "nvme_raid_when_no_disks: directory"],
        ),
    ],
    ids=["a protected home", "another host's address", "no place for reports", "no disk"],
)
def test_what_a_variable_asks_of_a_host_that_has_it_not_is_one_line(
    lab: Lab, variables: dict[str, str], words: list[str]
) -> None:
    """Of a host that serves and routes, so that no other is at the end of a way."""
    own = Path(lab.folder) / "own.json"
    own.write_text(json.dumps({"all": {"hosts": {"lab-1": variables}}}))
    lab.inventories.append(str(own))
    try:
        code, output, seconds = preflight(lab, "--limit", "lab-1", book="site.yml")
    finally:
        del lab.inventories[1:]
    assert code == 2, output
    lines = re.findall(r"^ *- (.*)$", output, re.MULTILINE)
    assert len(lines) == 1, output
    for word in (*words, "Fix: "):
        assert word in lines[0]
    assert "Provision" not in output
    assert seconds < 60


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
        (
            {"trainyard_overrides": {"tiny-llama": {"model": {"repo": "{{ lab_model_repo }}-gated"}}}},
            ["is gated", "accept its licence at"],
        ),
        (
            {
                "trainyard_overrides": {"tiny-llama": {"sdk_release": "2.26.1"}},
                "neuron_venv_pip_index": "",
                "neuron_venv_package_source": "https://apt.repos.neuron.amazonaws.com/no-such",
            },
            ["neuron_venv_package_source", "Neuron's packages", "is not there"],
        ),
        (
            {
                "trainyard_overrides": {
                    "tiny-llama": {"model": {"source": "s3", "uri": "s3://{{ lab_bucket }}/none", "revision": "v1"}}
                }
            },
            ["model.uri", "nothing below it"],
        ),
        (
            {"benchmark_client": "llmperf", "benchmark_llmperf_source": "https://github.com/no/such"},
            ["benchmark_llmperf_source", "LLMPerf's source", "is not there"],
        ),
    ):
        code, output, _ = preflight(lab, *limit, "-e", json.dumps(variables))
        assert code == 2, output
        # Of hosts that share a problem, it is told once.
        found = re.findall(r"^ *- [^:]+: (.*)$", output, re.MULTILINE)
        assert len([line for line in found if all(word in line for word in words)]) == 1, output


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
