# SPDX-License-Identifier: Apache-2.0
"""Packages as apt and dnf tell of them: output of dpkg 1.21, rpm 4.18 and dnf 4.14, recorded with empty packages."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages

APT, DNF = host_packages.MANAGERS["apt"], host_packages.MANAGERS["dnf"]
NAMES = ["aws-neuronx-dkms", "aws-neuronx-runtime-lib", "aws-neuronx-tools"]
WANTED = {"aws-neuronx-dkms": "2.21.37.0", "aws-neuronx-runtime-lib": "2.25.57.0", "aws-neuronx-tools": "2.23.9.0"}
SOURCE = host_packages.Source("https://packages.example/neuron", "https://packages.example/key", "noble")

DPKG = """\
aws-neuronx-dkms installed hold 2.21.37.0
aws-neuronx-runtime-lib installed install 2.24.1.0-0123abcd
aws-neuronx-tools config-files deinstall 2.20.0.0
"""
RPM = """\
aws-neuronx-dkms 2.21.37.0-dkms
aws-neuronx-runtime-lib 2.24.1.0_0123abcd-1
package aws-neuronx-tools is not installed
"""
VERSIONLOCK = """\
aws-neuronx-dkms-0:2.21.37.0-dkms.*
"""


def answers(**outputs: str) -> host_packages.Run:
    """A host whose commands print these outputs."""
    return lambda argv: (0, outputs[argv[0].replace("-", "_")], "")


def test_apt_tells_version_and_hold() -> None:
    found = APT.read(answers(dpkg_query=DPKG), NAMES)
    assert found == {
        "aws-neuronx-dkms": host_packages.Installed("2.21.37.0", held=True),
        "aws-neuronx-runtime-lib": host_packages.Installed("2.24.1.0-0123abcd"),
    }


def test_dnf_tells_version_and_lock() -> None:
    found = DNF.read(answers(rpm=RPM, dnf=VERSIONLOCK), NAMES)
    assert found == {
        "aws-neuronx-dkms": host_packages.Installed("2.21.37.0-dkms", held=True),
        "aws-neuronx-runtime-lib": host_packages.Installed("2.24.1.0_0123abcd-1"),
    }


@pytest.mark.parametrize(
    "found", [APT.read(answers(dpkg_query=DPKG), NAMES), DNF.read(answers(rpm=RPM, dnf=VERSIONLOCK), NAMES)]
)
def test_what_is_to_be_done_is_the_same_for_both(found: dict[str, host_packages.Installed]) -> None:
    changes = host_packages.changes(found, WANTED)
    assert changes.install == {"aws-neuronx-runtime-lib": "2.25.57.0", "aws-neuronx-tools": "2.23.9.0"}
    assert changes.hold == ("aws-neuronx-runtime-lib", "aws-neuronx-tools")
    assert host_packages.freed(found).free == ("aws-neuronx-dkms",)


def test_right_version_that_is_not_held_is_held_and_nothing_else() -> None:
    found = {"a": host_packages.Installed("1.0"), "b": host_packages.Installed("2.0", held=True)}
    changes = host_packages.changes(found, {"a": "1.0", "b": "2.0"})
    assert (changes.install, changes.hold) == ({}, ("a",))
    assert not host_packages.changes({"b": found["b"]}, {"b": "2.0"})


def by_name(steps: list[host_packages.Step]) -> dict[str, dict[str, Any]]:
    return {name.rpartition(".")[2]: values for name, values in steps}


def test_apt_is_told_exact_versions() -> None:
    assert by_name(APT.repository_steps(SOURCE))["deb822_repository"]["uris"] == ["https://packages.example/neuron"]
    argv = by_name(APT.install_steps({"aws-neuronx-tools": "2.23.9.0"}))["command"]["argv"]
    assert argv[2:4] == ["apt-get", "install"]
    assert argv[-1] == "aws-neuronx-tools=2.23.9.0*"
    assert APT.hold_steps(["a"], ["b"]) == [
        ("ansible.builtin.dpkg_selections", {"name": "a", "selection": "hold"}),
        ("ansible.builtin.dpkg_selections", {"name": "b", "selection": "install"}),
    ]
    assert by_name(APT.forget_steps())["deb822_repository"]["state"] == "absent"


def test_dnf_is_told_exact_versions_and_that_neurons_repository_hides_others() -> None:
    repository = by_name(DNF.repository_steps(SOURCE))["yum_repository"]
    assert (repository["priority"], repository["gpgcheck"]) == ("1", True)
    assert by_name(DNF.install_steps({"aws-neuronx-tools": "2.23.9.0"}))["dnf"]["name"] == [
        "aws-neuronx-tools-2.23.9.0*"
    ]
    assert DNF.hold_steps(["a"], ["b"]) == [
        ("community.general.dnf_versionlock", {"name": ["a"], "state": "present"}),
        ("community.general.dnf_versionlock", {"name": ["b"], "state": "absent"}),
    ]
    assert DNF.hold_steps([], []) == []
    assert by_name(DNF.forget_steps())["yum_repository"]["state"] == "absent"


def test_preferences_name_the_host_of_the_repository() -> None:
    text = APT.preferences(SOURCE)
    assert 'Pin: origin "packages.example"' in text
    assert text.index("Pin-Priority: 990") < text.index("Pin-Priority: -1")


def test_package_manager_is_the_one_that_is_there() -> None:
    assert host_packages.manager_of(lambda name: name if name == "rpm" else None) is DNF
    assert host_packages.manager_of(lambda name: name) is APT


UBUNTU = 'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'


def test_neurons_public_repository_is_known_by_system() -> None:
    apt = host_packages.Source(host_packages.PUBLIC).of_host(APT.public, UBUNTU)
    address = "https://apt.repos.neuron.amazonaws.com"
    assert apt == host_packages.Source(address, f"{address}/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB", "noble")
    dnf = host_packages.Source(host_packages.PUBLIC).of_host(DNF.public, "ID=amzn\n")
    assert (dnf.address, dnf.suite) == ("https://yum.repos.neuron.amazonaws.com", "")
    assert dnf.key.startswith("https://yum.repos.neuron.amazonaws.com/")
    assert host_packages.Source(address).of_host(APT.public, UBUNTU) == apt, "its address alone is enough as well"


def test_a_mirror_keeps_what_was_given_and_gets_no_key_of_somebody_else() -> None:
    mirror = host_packages.Source("https://mirror.example", "https://mirror.example/key", "jammy")
    assert mirror.of_host(APT.public, UBUNTU) == mirror
    assert host_packages.Source("https://mirror.example").of_host(APT.public, UBUNTU) == host_packages.Source(
        "https://mirror.example", "", "noble"
    )
    assert host_packages.Source().of_host(APT.public, UBUNTU) == host_packages.Source()
