# SPDX-License-Identifier: Apache-2.0
"""What is installed on a stand-in host, and what its monitoring says."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import sdk as toolkit
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import sdk_table

from lab.neuron_sim import config, faults, install, neuron_monitor, sdk, sysfs
from tests.lab.sim_support import SimHost, eventually, free_port


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    with SimHost(tmp_path_factory.mktemp("host"), sdk_releases=["2.23.0", "2.27.0"]) as made:
        yield made


def tool(host: SimHost, name: str) -> Path:
    return host.config.path(f"/opt/aws/neuron/bin/{name}")


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One host that becomes another release's, row after row: the stand-in is byte-compiled once."""
    return tmp_path_factory.mktemp("rows")


def dpkg_versions(host: SimHost) -> dict[str, str]:
    """The Neuron packages that dpkg says are installed, without the hash of their build."""
    form = "${Package} ${db:Status-Status} ${Version}\n"
    query = ["dpkg-query", f"--admindir={host.config.path('/var/lib/dpkg')}", "--show", "--showformat", form]
    lines = [line.split() for line in host.run(*query, "aws-neuronx-*").stdout.splitlines()]
    return {name: version.split("-")[0] for name, state, version in lines if state == "installed"}


@pytest.mark.parametrize(
    "row", [row for row in sdk_table() if row.driver], ids=lambda row: f"{row.release}-{row.generation}"
)
def test_every_row_of_the_sdk_table_appears_on_the_host(shared_root: Path, row: Any) -> None:
    """The SDK table (n2-manifest, DLAMI pages): paths, packages and versions are the row's, as commands show them."""
    key = row.release if row.default else f"{row.release}:{row.generation}"
    shutil.rmtree(shared_root / "opt", ignore_errors=True)
    host = SimHost(shared_root, sdk_releases=[key])
    assert dpkg_versions(host) == row.packages
    assert host.run(host.config.path("/usr/local/sbin/modinfo"), "-F", "version", "neuron").stdout == f"{row.driver}\n"
    assert (sysfs.base(host.config) / "module/neuron/version").read_text() == f"{row.driver}\n"
    posed = sdk.release(key)
    assert posed.venv == row.venv or row.venv is None
    binaries = host.config.path(posed.venv) / "bin"
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(host.run(binaries / "python", "-c", code).stdout)
    wanted = {"vllm": row.vllm, "neuronx-cc": row.compiler, "neuronx-distributed-inference": row.nxdi}
    wanted["vllm-neuron"] = row.plugin
    assert {name: found.get(name) for name, version in wanted.items() if version} == {
        name: version for name, version in wanted.items() if version
    }
    assert (binaries / "inference_demo").exists() == bool(row.nxdi)
    assert host.run(binaries / "vllm", "--version").stdout.strip() == (row.vllm or posed.vllm)
    # A release comes with the environments of its other generations as well, and with nobody else's.
    others = {release.venv for release in sdk.releases().values() if release.name == row.release}
    assert {f"/opt/{path.name}" for path in (shared_root / "opt").glob("aws_neuronx_venv_*")} == others


def test_of_several_releases_on_a_host_the_newest_brings_driver_and_tools(tmp_path: Path) -> None:
    """A host has one driver; the toolkit installs the newest of its releases' (module_utils/sdk.py), in any order."""
    keys = list(sdk.releases())
    for older, newer in itertools.combinations(keys, 2):
        rows = [{"packages": sdk.release(key).packages} for key in (older, newer)]
        for order in ((older, newer), (newer, older)):
            assert sdk.of_host(order).packages == toolkit.wanted_packages(rows), order
    host = SimHost(tmp_path, sdk_releases=["2.27.0", "2.23.0"])
    SimHost(tmp_path, sdk_releases=["2.23.0", "2.27.0"])
    assert dpkg_versions(host) == sdk.release("2.27.0").packages
    assert "numa_node" in host.devices()[0], "the tools are those of 2.27.0"


def test_python_of_an_environment_is_a_python(host: SimHost) -> None:
    result = host.run(host.venv("2.27.0") / "python", "-c", "import sys; print(sys.prefix)")
    assert result.stdout.strip() == str(host.config.path(sdk.release("2.27.0").venv))


def test_inference_demo_help_works(host: SimHost) -> None:
    """The tutorials' own check of an environment."""
    assert host.run(host.venv() / "inference_demo", "--help").returncode == 0


def test_dpkg_database_keeps_what_was_there(tmp_path: Path) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: bash\nStatus: install ok installed\nVersion: 5\n\n")
    SimHost(tmp_path)
    SimHost(tmp_path, sdk_releases=["2.27.0"])
    text = status.read_text()
    assert text.startswith("Package: bash\n") and text.count("Package: aws-neuronx-dkms\n") == 1
    assert "Version: 2.25.4.0\n" in text


def test_modinfo_and_lsmod_show_the_driver(host: SimHost) -> None:
    assert host.run(host.config.path("/usr/local/sbin/modinfo"), "-F", "version", "neuron").stdout == "2.25.4.0\n"
    assert "neuron" in host.run(host.config.path("/usr/local/sbin/lsmod")).stdout


def test_device_nodes_are_there_for_every_device(host: SimHost) -> None:
    assert sorted(path.name for path in (host.root / "dev").glob("neuron*")) == sorted(f"neuron{n}" for n in range(16))


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    host = SimHost(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "opt").rglob("*") if path.is_file()}
    install.install(host.config)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "opt").rglob("*") if path.is_file()}


def test_unknown_release_or_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SDK release '9.9.9': the lab knows 2.23.0"):
        install.install(config.HostConfig(root=tmp_path, sdk_releases=("9.9.9",)))
    with pytest.raises(ValueError, match=r"instance type 'p5\.48xlarge'"):
        install.install(config.HostConfig(root=tmp_path, instance_type="p5.48xlarge"))


def test_sysfs_has_the_drivers_tree(host: SimHost) -> None:
    """neuron-sysfs guide."""
    device = sysfs.device_directory(host.config, 5)
    assert (device / "connected_devices").read_text() == "1, 4, 9, 6\n"
    assert (device / "core_count").read_text() == "4\n"
    assert (device / "info/architecture/device_name").read_text() == "Trainium2\n"
    for path in (
        "stats/hardware/sram_ecc_uncorrected",
        "neuron_core3/stats/status/oob_error/total",
        "neuron_core0/stats/memory_usage/device_mem/tensors/peak",
        "neuron_core0/stats/other_info/reset_fail_count/total",
    ):
        assert (device / path).read_text() == "0\n"


def reports(host: SimHost, number: int, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The first reports of a monitor with this configuration."""
    path = host.root / "monitor.json"
    path.write_text(json.dumps(settings or {"period": "100ms", "system_metrics": [{"type": "memory_info"}]}))
    process = subprocess.Popen(
        [tool(host, "neuron-monitor"), "-c", path], stdout=subprocess.PIPE, text=True, env=host.environment()
    )
    assert process.stdout is not None
    found = [json.loads(process.stdout.readline()) for _ in range(number)]
    process.kill()
    process.wait()
    process.stdout.close()
    return found


def test_monitor_reports_instance_and_hardware_always(host: SimHost) -> None:
    """neuron-monitor guide: instance_info and neuron_hardware_info whatever the configuration."""
    (report,) = reports(host, 1)
    assert report["instance_info"]["instance_type"] == "trn2.48xlarge"
    assert report["neuron_hardware_info"] == {
        "neuron_device_type": "trainium2",
        "neuron_device_version": "v4",
        "neuroncore_version": "v3d",
        "neuron_device_count": 16,
        "neuron_device_memory_size": 103079215104,
        "neuroncore_per_device_count": 4,
        "logical_neuroncore_config": 2,
        "error": "",
    }
    assert set(report["system_data"]) == {"memory_info"}


def test_monitor_without_a_configuration_has_every_group_each_five_seconds() -> None:
    """neuron-monitor guide: defaults."""
    plan = neuron_monitor.plan(None)
    assert plan.shortest == 5.0
    assert set(plan.system) == {"vcpu_usage", "memory_info", "neuron_hw_counters"}
    assert set(plan.runtimes[0][1]) == set(neuron_monitor.RUNTIME_GROUPS)


@pytest.mark.parametrize(
    "settings", [{"period": "5"}, {"system_metrics": [{"type": "nothing"}]}, {"neuron_runtimes": [{"tag_filter": "("}]}]
)
def test_bad_configuration_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(neuron_monitor.MonitorError):
        neuron_monitor.plan(settings)


def test_monitor_and_exporter_show_a_replica_by_its_tag(tmp_path: Path) -> None:
    """NEURON_PROCESS_TAG names the runtime; the Grafana dashboard's metric names."""
    with SimHost(tmp_path, latency={"kind": "fixed", "ttft_ms": 1, "itl_ms": 5}) as host:
        server = host.serve_v0(cores="0-3", tp=4, env={"NEURON_PROCESS_TAG": "tiny-0"}).wait_ready()
        groups = [{"type": name} for name in neuron_monitor.RUNTIME_GROUPS]
        runtimes = {"period": "100ms", "neuron_runtimes": [{"tag_filter": "tiny.*", "metrics": groups}]}
        server.json("/v1/completions", {"prompt": "x", "max_tokens": 40})

        def answered() -> list[dict[str, Any]]:
            """A monitor's first report, once the engine of a busy machine has said its counters in time."""
            first = reports(host, 1, runtimes)
            counted = first[0]["neuron_runtime_data"][0]["report"]["execution_stats"]["execution_summary"]["completed"]
            return first if counted else []

        (report,) = eventually(answered)
        (runtime,) = report["neuron_runtime_data"]
        assert runtime["neuron_runtime_tag"] == "tiny-0" and runtime["pid"] in host.owner_pids()
        cores = runtime["report"]["neuroncore_counters"]["neuroncores_in_use"]
        assert list(cores) == ["0", "1", "2", "3"] and set(cores["1"]["v3d"]) == {"nc_v3.2", "nc_v3.3"}
        assert runtime["report"]["execution_stats"]["execution_summary"]["completed"] in range(30, 41)
        assert runtime["report"]["memory_used"]["neuron_runtime_used_bytes"]["neuron_device"] > 0
        assert (
            reports(host, 1, {**runtimes, "neuron_runtimes": [{"tag_filter": "other", "metrics": groups}]})[0][
                "neuron_runtime_data"
            ]
            == []
        )
        port = free_port()
        exporter = subprocess.Popen(
            [tool(host, "neuron-monitor-prometheus.py"), "--port", str(port)], stdin=subprocess.PIPE, text=True
        )
        assert exporter.stdin is not None
        exporter.stdin.write(json.dumps(report) + "\n")
        exporter.stdin.flush()

        def page() -> str:
            """What the exporter shows once it has read the report."""
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = str(answer.read().decode())
            except OSError:
                return ""
            return text if "runtime_tag=" in text else ""

        text = eventually(page)
        exporter.kill()
        exporter.stdin.close()
        exporter.wait()
        assert 'runtime_tag="tiny-0",neuroncore="0"' in text and "neuroncore_utilization_ratio{" in text
        assert 'execution_status_total{instance_id="i-0123456789abcdef0"' in text


def test_exporters_default_port_is_vllms(host: SimHost) -> None:
    """neuron-monitor guide: the default of --port is 8000."""
    assert "default: 8000" in host.run(tool(host, "neuron-monitor-prometheus.py"), "--help").stdout


def test_monitor_counts_memory_errors(host: SimHost) -> None:
    faults.inject(host.config, "hbm-error", device=3)
    (report,) = reports(host, 1, {"period": "1s", "system_metrics": [{"type": "neuron_hw_counters"}]})
    faults.clear(host.config)
    devices = report["system_data"]["neuron_hw_counters"]["neuron_devices"]
    assert [entry["mem_ecc_uncorrected"] for entry in devices] == [0, 0, 0, 1, *[0] * 12]


def test_neuron_top_prints_one_screen(host: SimHost) -> None:
    text = host.run(tool(host, "neuron-top")).stdout
    assert "NeuronCore v3d Utilization" in text and "Memory Usage Summary" in text


def test_a_counter_can_be_read_while_it_grows(tmp_path: Path) -> None:
    """A process may be killed while it counts, and another one reads: a counter is a number at each moment."""
    with SimHost(tmp_path) as host:
        counter = "neuron_core0/stats/other_info/reset_fail_count/total"
        path = sysfs.device_directory(host.config, 0) / counter
        writing = threading.Thread(target=lambda: [sysfs.increase(host.config, 0, counter) for _ in range(3000)])
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            writing.start()
            seen = set()
            while writing.is_alive():
                seen.add(path.read_text())
        finally:
            sys.setswitchinterval(interval)
            writing.join()
        assert [text for text in seen if not text.strip().isdigit()] == []
        assert path.read_text() == "3000\n" and len(seen) > 1
