# SPDX-License-Identifier: Apache-2.0
"""What `trainyard.neuron.topology_info` tells of a stand-in host: each type, tools old and new, their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.modules import topology_info

from lab.neuron_sim import faults
from tests.lab.sim_support import SimHost


def told(capsys: pytest.CaptureFixture[str], host: SimHost, **arguments: Any) -> dict[str, Any]:
    path = str(host.config.path("/opt/aws/neuron/bin/neuron-ls"))
    with patch_module_args({"neuron_ls": path, **arguments}), pytest.raises(SystemExit):
        topology_info.main()
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("kind", "lnc", "release", "devices", "cores", "core_gib"),
    [
        ("trn2.48xlarge", 2, "2.23.0", 16, 4, 24),
        ("trn2.48xlarge", 1, "2.27.0", 16, 8, 12),
        ("trn2.3xlarge", 2, "2.27.0", 1, 4, 24),
        ("trn1.32xlarge", 1, "2.23.0", 16, 2, 16),
        ("inf2.48xlarge", 1, "2.23.0", 12, 2, 16),
    ],
)
def test_a_host_tells_its_devices_in_the_planners_shape(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    kind: str,
    lnc: int,
    release: str,
    devices: int,
    cores: int,
    core_gib: int,
) -> None:
    """The type is in the header of `neuron-ls` where neither the driver's files nor the firmware tell it."""
    with SimHost(tmp_path, instance_type=kind, logical_nc_config=lnc, sdk_releases=[release]) as host:
        result = told(capsys, host)
    assert (result["available"], result["reason"], result["changed"]) == (True, "", False)
    topology = result["topology"]
    assert (topology["instance_type"], len(topology["devices"])) == (kind, devices)
    assert topology["devices"][-1]["cores"] == list(range((devices - 1) * cores, devices * cores))
    assert topology["hbm_bytes_per_core"] == core_gib << 30


def test_a_host_whose_driver_is_not_loaded_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SimHost(tmp_path) as host:
        device = host.config.path("/dev/neuron0")
        device.unlink()
        result = told(capsys, host)
        device.touch()
    assert (result["available"], result.get("failed", False)) == (False, False)
    assert "no Neuron device found; is the driver (aws-neuronx-dkms) installed?" in result["reason"]


def test_a_call_that_fails_beside_another_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SimHost(tmp_path) as host:
        faults.inject(host.config, "neuron-ls-collision")
        assert host.neuron_ls().returncode == 1, "the fault does what it says"
        faults.inject(host.config, "neuron-ls-collision")
        assert told(capsys, host)["available"] is True
        assert faults.active(host.config) == []
