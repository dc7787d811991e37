# SPDX-License-Identifier: Apache-2.0
"""`trainyard upgrade` of two stand-in hosts under load: other packages and driver, a reboot, and no failed request.

The hosts have the environments of both SDK releases, as an image would bring them; the system packages come from the
lab's repository, first those of the old release, then those of the new one. One lab goes through its life in the order
of the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

from tests.roll.conftest import LabFleet, own_fleet
from tests.stand_in import Lab, powered
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("upgrade")]

OLD, NEW = "2.23.0", "2.24.1"
HOSTS = ("lab-1", "lab-2")
SHOW = "dpkg-query --show --showformat '${Package} ${db:Status-Want} ${Version}\\n' 'aws-neuronx-*'"
BOOTED = "systemctl show --property=UserspaceTimestamp --value"
STARTED = "systemctl show --property=Id,ActiveState,ActiveEnterTimestamp 'vllm@*' haproxy.service | sort"
SETTINGS = {
    "neuron_venv_package_source": "{{ lab_apt_url }}",
    "neuron_venv_package_key": "{{ lab_apt_url }}/key.asc",
    "trainyard_redeploy": {"canary_s": 10, "soak_s": 1, "drain_deadline_s": 120},
}
TO_NEW = {"trainyard_overrides": {"tiny-llama": {"sdk_release": NEW}}}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    folder = tmp_path_factory.mktemp("upgrades")
    with own_fleet("upgrade", 2, folder, SETTINGS, "--sdk-release", OLD, "--sdk-release", NEW) as made:
        yield made


def packages(lab: Lab, host: str, release: str) -> None:
    """The host has the release's packages, and keeps upgrades from them."""
    found = lab.on(host, SHOW)
    for name, version in find_release(release).packages.items():
        assert f"{name} hold {version}" in found, found


def upgrade(lab: Lab, *more: str) -> subprocess.CompletedProcess[str]:
    """`trainyard upgrade` of the whole lab to the newer release, as a person runs it."""
    environment = {name: value for name, value in lab.environment.items() if name != "ANSIBLE_STDOUT_CALLBACK"}
    words = ["trainyard", "upgrade", "-i", "inventory/lab", "-e", json.dumps({**SETTINGS, **TO_NEW}), *more]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_hosts_change_their_sdk_one_after_the_other_with_a_reboot_and_no_request_fails(
    lab: Lab, fleet: LabFleet
) -> None:
    for host in HOSTS:
        packages(lab, host, OLD)
    before, booted = fleet.running(), {host: lab.on(host, BOOTED) for host in HOSTS}
    # The one that routes is not rebooted: its kernel lets go of the driver.
    lab.fault("lab-2", "driver-held")
    url = f"http://{lab.router_address}:8080"
    with fleet.load(url, closed=4, rate=0.5) as account, powered(lab, "lab-2") as power:
        run = upgrade(lab)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Upgraded: lab-1, lab-2." in run.stdout
    assert power == ["lab-2 rebooted"]
    assert account["sent"] > 50
    assert (account["failed"], account["truncated"]) == (0, 0), account["errors"]
    for host in HOSTS:
        packages(lab, host, NEW)
    assert [lab.on(host, BOOTED) != booted[host] for host in HOSTS] == [False, True]
    after = fleet.running()
    assert after.keys() == before.keys()
    assert all(release and release != before[name] for name, release in after.items())
    assert fleet.in_rotation() == set(before)


def test_a_second_upgrade_does_nothing(lab: Lab) -> None:
    before = [lab.on(host, STARTED) for host in HOSTS]
    run = upgrade(lab)
    assert run.returncode == 0, run.stdout[-6000:]
    recaps = re.findall(r"^lab-\d+ +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", run.stdout, re.MULTILINE)
    assert len(recaps) == 2 * len(HOSTS)
    assert set(recaps) == {"0"}, run.stdout[-6000:]
    assert run.stdout.count("Nothing to roll") == len(HOSTS)
    assert [lab.on(host, STARTED) for host in HOSTS] == before


def test_a_router_is_not_rebooted_under_its_streams(lab: Lab, fleet: LabFleet) -> None:
    """What reboots the host that routes would cut every stream, and nobody was asked."""
    lab.fault("lab-1", "driver-held")
    words = {**SETTINGS, "trainyard_overrides": {"tiny-llama": {"sdk_release": OLD}}}
    booted = lab.on("lab-1", BOOTED)
    run = upgrade(lab, "--host", "lab-1", "-e", json.dumps(words))
    assert run.returncode == 1
    assert "is a router" in run.stdout, run.stdout[-4000:]
    assert lab.on("lab-1", BOOTED) == booted
    assert {name for name in fleet.in_rotation() if "lab-2" in name} == {"lab-2:tiny-llama-0", "lab-2:tiny-llama-1"}
