# SPDX-License-Identifier: Apache-2.0
"""``neuron-ls`` says what the real one says, in the shape of the installed tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.sim_support import SimHost

Make = Callable[..., SimHost]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A host with these settings, made once."""
    made: dict[str, SimHost] = {}

    def host(**settings: object) -> SimHost:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = SimHost(tmp_path_factory.mktemp("host"), **settings)
        return made[key]

    return host


def test_json_before_tools_2_25_has_no_core_ids_and_no_numa(make: Make) -> None:
    """neuron-ls guide at SDK 2.23.0; release notes of 2.25.0 add the fields."""
    first = make(sdk_releases=["2.23.0"]).devices()[0]
    assert first == {
        "neuron_device": 0,
        "bdf": "cc:00.0",
        "connected_to": [12, 3, 4, 1],
        "nc_count": 4,
        "logical_neuroncore_config": 2,
        "memory_size": 103079215104,
        "neuron_processes": [],
    }


def test_json_from_tools_2_25_has_core_ids_and_a_textual_numa_node(make: Make) -> None:
    """neuron-ls guide at SDK 2.27.0: numa_node is a string."""
    devices = make(sdk_releases=["2.27.0"]).devices()
    assert devices[15]["neuroncore_ids"] == [60, 61, 62, 63]
    assert devices[0]["numa_node"] == "1" and devices[0]["cpu_affinity"] == "48-95,144-191"
    assert devices[4]["numa_node"] == "0" and devices[4]["cpu_affinity"] == "0-47,96-143"


def test_text_has_the_header_of_the_instance(make: Make) -> None:
    """neuron-ls guide: instance type, instance id, logical core configuration."""
    lines = make().neuron_ls().stdout.splitlines()
    assert lines[0] == "instance-type: trn2.48xlarge"
    assert lines[1].startswith("instance-id: i-")
    assert lines[2] == "logical-neuroncore-config: 2"


def test_table_of_2_23_is_the_guides_table(make: Make) -> None:
    """The guide's own rows, character by character."""
    text = make().neuron_ls().stdout
    assert "| NEURON | NEURON | NEURON |   CONNECTED   |   PCI   |\n" in text
    assert "| DEVICE | CORES  | MEMORY |    DEVICES    |   BDF   |\n" in text
    assert "| 10     | 4      | 96 GB  | 6, 9, 14, 11  | 85:00.0 |\n" in text


def test_table_of_2_27_is_the_guides_table(make: Make) -> None:
    """The guide's own row, character by character."""
    text = make(sdk_releases=["2.27.0"]).neuron_ls().stdout
    assert "| DEVICE | CORES  | CORE IDS | MEMORY |    DEVICES    |     BDF      |   AFFINITY    | NODE |\n" in text
    assert "| 5      | 4      | 20-23    | 96 GB  | 1, 4, 9, 6    | 0000:58:00.0 | 0-47,96-143   | 0    |\n" in text


def test_processes_appear_in_table_and_json(make: Make) -> None:
    """neuron-ls guide: pid, shortened command, runtime version; JSON shortens too."""
    with make() as host:
        host.serve_v0(cores="0-3", tp=4).wait_ready()
        (process,) = host.devices()[0]["neuron_processes"]
        assert len(process["command"]) == 40 and process["command"].endswith("...")
        assert process["neuron_runtime_version"] == "2.0.0"
        assert f"| {process['pid']}" in host.neuron_ls().stdout
        assert "| NA" in host.neuron_ls().stdout


def test_wide_shows_more_of_the_command(make: Make) -> None:
    """neuron-ls guide: --wide."""
    with make() as host:
        host.serve_v0(cores="0-3", tp=4).wait_ready()
        row = next(line for line in host.neuron_ls("--wide").stdout.splitlines() if line.startswith("| 0 "))
        assert len(row.split("|")[7].strip()) == 80


def test_show_all_procs_adds_neuron_ls_itself(make: Make) -> None:
    """neuron-ls guide: --show-all-procs, runtime version NA."""
    devices = json.loads(make().neuron_ls("-a", "-j").stdout)
    assert devices[3]["neuron_processes"][0]["command"] == "neuron-ls -a -j"
    assert devices[3]["neuron_processes"][0]["neuron_runtime_version"] == "NA"


def test_topology_draws_the_torus(make: Make) -> None:
    """neuron-ls guide: --topology."""
    text = make().neuron_ls("--topology").stdout
    assert "[ 8 ]" in text and "[10 ]" in text and "Wrap-around link" in text


def test_unknown_option_is_a_usage_error(make: Make) -> None:
    result = make().neuron_ls("--nonsense")
    assert result.returncode == 2 and "unrecognized arguments: --nonsense" in result.stderr


def test_no_device_is_an_error(tmp_path: Path) -> None:
    host = SimHost(tmp_path)
    for path in (tmp_path / "dev").iterdir():
        path.unlink()
    assert host.neuron_ls("-j").returncode == 1


@pytest.mark.parametrize(
    ("instance_type", "lnc", "devices", "cores"),
    [
        ("trn2.48xlarge", 2, 16, 4),
        ("trn2.48xlarge", 1, 16, 8),
        ("trn2.3xlarge", 2, 1, 4),
        ("trn1.32xlarge", 1, 16, 2),
        ("inf2.48xlarge", 1, 12, 2),
    ],
)
def test_instance_types_have_their_devices_and_cores(
    make: Make, instance_type: str, lnc: int, devices: int, cores: int
) -> None:
    """Architecture pages of trn2, trn1 and inf2; the logical core configuration divides the physical cores."""
    host = make(instance_type=instance_type, logical_nc_config=lnc, sdk_releases=["2.27.0"])
    found = host.devices()
    assert len(found) == devices
    assert {entry["nc_count"] for entry in found} == {cores}
    assert found[-1]["neuroncore_ids"][-1] == devices * cores - 1
    assert ("logical_neuroncore_config" in found[0]) == instance_type.startswith("trn2")


def test_numa_nodes_of_trn1_and_inf2(make: Make) -> None:
    """Runtime performance page: trn1 alternates in pairs, inf2.48xlarge has four nodes."""
    trn1 = make(instance_type="trn1.32xlarge", logical_nc_config=1, sdk_releases=["2.27.0"])
    nodes = [entry["numa_node"] for entry in trn1.devices()]
    assert [index for index, node in enumerate(nodes) if node == "0"] == [0, 1, 4, 5, 8, 9, 12, 13]
    inf2 = make(instance_type="inf2.48xlarge", logical_nc_config=1, sdk_releases=["2.27.0"])
    assert [entry["numa_node"] for entry in inf2.devices()] == list("232323110001")
    assert inf2.devices()[0]["connected_to"] == [11, 1]


def test_host_wide_file_changes_the_logical_core_configuration(tmp_path: Path) -> None:
    """deploy/eks/prerequisites: /opt/aws/neuron/logical_nc_config."""
    host = SimHost(tmp_path)
    host.config.path("/opt/aws/neuron/logical_nc_config").write_text("NEURON_LOGICAL_NC_CONFIG=1\n")
    assert host.devices()[0]["nc_count"] == 8
