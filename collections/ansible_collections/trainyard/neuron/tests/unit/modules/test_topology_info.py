# SPDX-License-Identifier: Apache-2.0
"""The module runs against a neuron-ls that prints what the real one does, and against hosts that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.modules import topology_info

DEVICE = {
    "neuron_device": 0,
    "bdf": "cc:00.0",
    "cpu_affinity": "0-1",
    "numa_node": "-1",
    "connected_to": [],
    "nc_count": 4,
    "logical_neuroncore_config": 2,
    "memory_size": 103079215104,
    "neuroncore_ids": [0, 1, 2, 3],
    "neuron_processes": [],
}


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        topology_info.main()
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def neuron_ls(tmp_path: Path) -> Any:
    """Return a function that writes a neuron-ls of some behaviour and returns its path."""

    def write(body: str) -> str:
        path = tmp_path / "neuron-ls"
        path.write_text("#!/bin/sh\n" + body, encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return write


def test_a_host_tells_its_devices_in_the_planners_shape(capsys: pytest.CaptureFixture[str], neuron_ls: Any) -> None:
    path = neuron_ls(f"cat <<'END'\n{json.dumps([DEVICE])}\nEND\n")
    result = run(capsys, neuron_ls=path, instance_type="trn2.3xlarge")
    assert (result["available"], result["reason"], result["changed"]) == (True, "", False)
    topology = result["topology"]
    assert topology["instance_type"] == "trn2.3xlarge"
    assert topology["devices"][0]["cores"] == [0, 1, 2, 3]
    assert topology["hbm_bytes_per_core"] == 24 << 30
    assert topology["cpu_count"] >= 1
    assert topology["memory_bytes"] > 1 << 20
    assert result["kernel"]


def test_the_type_comes_from_the_header_of_neuron_ls_where_nothing_else_tells(
    capsys: pytest.CaptureFixture[str], neuron_ls: Any
) -> None:
    devices = [{**DEVICE, "neuron_device": at, "nc_count": 2, "memory_size": 34359738368} for at in range(16)]
    for device in devices:
        del device["logical_neuroncore_config"], device["neuroncore_ids"]
    body = f"""
[ "$1" = --json-output ] || {{ echo 'instance-type: trn1n.32xlarge'; exit 0; }}
cat <<'END'
{json.dumps(devices)}
END
"""
    assert run(capsys, neuron_ls=neuron_ls(body))["topology"]["instance_type"] == "trn1n.32xlarge"


def test_a_host_without_tools_is_reported_and_still_tells_its_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, neuron_ls="/nowhere/neuron-ls")
    assert (result["available"], result.get("failed", False)) == (False, False)
    assert "/nowhere/neuron-ls is not installed" in result["reason"]
    assert result["topology"]["devices"] == []
    assert result["topology"]["online_cpus"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'no driver' >&2; exit 1", "ended with 1: no driver"),
        ("echo '+---+'", "printed no JSON"),
        ("echo '[]'", "names no device"),
    ],
)
def test_tools_that_fail_are_reported_with_what_they_said(
    capsys: pytest.CaptureFixture[str], neuron_ls: Any, body: str, said: str
) -> None:
    result = run(capsys, neuron_ls=neuron_ls(body))
    assert result["available"] is False
    assert said in result["reason"]


def test_a_call_that_fails_because_another_runs_is_made_again(
    capsys: pytest.CaptureFixture[str], neuron_ls: Any, tmp_path: Path
) -> None:
    body = f"if mkdir {tmp_path}/first 2>/dev/null; then exit 1; fi\necho '{json.dumps([DEVICE])}'\n"
    assert run(capsys, neuron_ls=neuron_ls(body))["available"] is True


def test_devices_that_cannot_be_understood_fail_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str], neuron_ls: Any
) -> None:
    result = run(capsys, neuron_ls=neuron_ls("""echo '[{"device": 0}]'"""))
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
