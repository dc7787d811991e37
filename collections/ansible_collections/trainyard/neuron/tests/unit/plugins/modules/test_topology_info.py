# SPDX-License-Identifier: Apache-2.0
"""What the module tells of a host without Neuron tools, and how it reads the kernel's files.

What it makes of `neuron-ls` is tested on the lab's stand-in hosts.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.modules import topology_info


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        topology_info.main()
    return dict(json.loads(capsys.readouterr().out))


def test_a_host_without_tools_is_reported_and_still_tells_its_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, neuron_ls="/nowhere/neuron-ls")
    assert (result["available"], result.get("failed", False), result["changed"]) == (False, False, False)
    assert "/nowhere/neuron-ls is not installed" in result["reason"]
    assert result["topology"]["devices"] == []
    assert result["topology"]["online_cpus"]
    assert result["topology"]["cpu_count"] >= 1
    assert result["topology"]["memory_bytes"] > 1 << 20
    assert result["kernel"]


def test_devices_that_cannot_be_understood_fail_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology_info, "neuron_ls", lambda _path: ([{"device": 0}], ""))
    result = run(capsys)
    assert result["failed"] is True
    assert "cannot be understood" in result["msg"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('ID=ubuntu\nVERSION_ID="24.04"\n', "ubuntu-24.04"),
        ('ID="amzn"\nVERSION_ID="2023"\n', "amazon-linux-2023"),
        ('ID="rocky"\nVERSION_ID="9.4"\n', "rocky-9"),
        ("ID=debian\nVERSION_ID=12\n", "debian-12"),
        ("", ""),
    ],
)
def test_the_operating_system_is_named_as_the_sdk_table_names_it(text: str, name: str) -> None:
    assert topology_info.operating_system(text) == name


def test_memory_is_read_in_bytes() -> None:
    assert topology_info.memory_bytes("MemFree: 1 kB\n") is None
    assert topology_info.memory_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n") == 16384


# As a host with a bridge of containers shows it: subnets and broadcasts stand beside the addresses.
ROUTES = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /24 link UNICAST
        |-- 10.0.0.5
           /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 172.17.0.1
        /32 host LOCAL
Local:
        |-- 10.0.0.5
           /32 host LOCAL
"""
INTERFACES = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000005 02 40 00 80     ens5
fe800000000000000000000000000005 02 40 20 80     ens5
"""


def test_a_host_s_own_addresses_are_those_that_others_could_reach() -> None:
    assert topology_info.own_addresses(ROUTES, INTERFACES) == ["10.0.0.5", "172.17.0.1", "fd00::5"]
    assert topology_info.own_addresses("", "") == []


def test_registries_are_asked_only_of_images_that_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        topology_info.registry, "asked", lambda images: {image: {"digest": "sha256:0"} for image in images}
    )
    assert "images" not in run(capsys, neuron_ls="/nowhere/neuron-ls")
    asked = run(capsys, neuron_ls="/nowhere/neuron-ls", images=["a.b/c:1"])
    assert asked["images"] == {"a.b/c:1": {"digest": "sha256:0"}}
