# SPDX-License-Identifier: Apache-2.0
"""`trainyard accept` on a stand-in: every check passes, and where a rule is broken, its check alone differs."""

from __future__ import annotations

import copy
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import acceptance as seeing
from ansible_collections.trainyard.neuron.plugins.module_utils import acceptance_trials as trials
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES
from ansible_collections.trainyard.neuron.plugins.modules import acceptance as module
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance
from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import HOME

from lab.neuron_sim import starts
from lab.neuron_sim.rules import RULES
from tests.lab.acceptance_support import LATENCY, accepted, add_weights, deployment
from tests.lab.sim_support import SimHost
from trainyard.paths import ROOT


def evidence_of(host: SimHost, capsys: pytest.CaptureFixture[str], **more: Any) -> dict[str, Any]:
    places = {"tools": "/opt/aws/neuron/bin", "devices": "/dev", "sysfs": "/sys"}
    given = {**{name: str(host.config.path(path)) for name, path in places.items()}, "root": str(host.root), **more}
    with patch_module_args(given), pytest.raises(SystemExit):
        module.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["changed"] is False
    return dict(answer["evidence"])


def outcomes(evidence: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["outcome"] for one in acceptance.judged(evidence, STAGES)}


@pytest.mark.parametrize(
    ("kind", "lnc", "release"),
    [
        ("trn2.48xlarge", 2, "2.27.0"),
        ("trn2.48xlarge", 1, "2.27.0"),
        ("trn2.48xlarge", 2, "2.23.0"),
        ("trn2.3xlarge", 2, "2.27.0"),
        ("trn1.32xlarge", 1, "2.27.0"),
        ("inf2.48xlarge", 1, "2.27.0"),
    ],
)
def test_every_check_passes_on_a_stand_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, lnc: int, release: str
) -> None:
    with SimHost(tmp_path, instance_type=kind, logical_nc_config=lnc, sdk_releases=[release]) as host:
        found = acceptance.judged(evidence_of(host, capsys, instance_type=kind), STAGES)
    assert [f"{one['name']}: {one['seen']}" for one in found if one["outcome"] == acceptance.DIFFERS] == []
    judged = {one["name"] for one in found if one["outcome"] == acceptance.PASSED}
    unsaid = {"holders-cores", "image-volume", *({"numa", "core-numbers"} if release == "2.23.0" else ())}
    assert judged == {check.name for check in acceptance.LOOKS} - unsaid


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The evidence of a host where a replica serves on cores 0 to 31."""
    with SimHost(tmp_path_factory.mktemp("host"), sdk_releases=["2.27.0"]) as host:
        tools, files = host.config.path("/opt/aws/neuron/bin"), host.config.path("/dev")
        sysfs = host.config.path("/sys")
        capture = seeing.evidence(list(STAGES), tools, files, "trn2.48xlarge", lambda _: [], sysfs, host.root)
    listed = capture["neuron_ls"]["out"]
    devices = json.loads(listed)
    for device in devices[:8]:
        device["neuron_processes"] = [{"pid": os.getpid(), "command": "vllm", "neuron_runtime_version": "2.0.0"}]
    capture["neuron_ls"]["out"] = json.dumps(devices)
    capture["processes"] = {str(os.getpid()): {"alive": True, "cores": "0-31"}}
    yield capture


def devices_changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(evidence: dict[str, Any]) -> None:
        devices = json.loads(evidence["neuron_ls"]["out"])
        change(devices)
        evidence["neuron_ls"]["out"] = json.dumps(devices)

    return apply


def _fewer_cores(devices: list[dict[str, Any]]) -> None:
    """Devices with half of their cores, counted through, as no type has them."""
    for number, device in enumerate(devices):
        device["nc_count"], device["neuroncore_ids"] = 2, [2 * number, 2 * number + 1]


MUTATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "neuron-ls-json": lambda e: e["neuron_ls"].update(status=1, err="no"),
    "neuron-ls-fields": devices_changed(lambda d: d[3].update(numa_node=1)),
    "neuron-ls-header": lambda e: e["neuron_ls_table"].update(out="instance-type: trn9.huge\n"),
    "device-memory": devices_changed(lambda d: d[0].update(memory_size=1)),
    "links": devices_changed(lambda d: d[0]["connected_to"].remove(d[0]["connected_to"][0])),
    "numa": devices_changed(lambda d: d[0].update(cpu_affinity="0-1")),
    "core-numbers": devices_changed(lambda d: d[0].update(neuroncore_ids=[3, 2, 1, 0])),
    "device-nodes": lambda e: e["device_nodes"].remove(5),
    "device-rights": lambda e: e["rights"].update({"7": "0600"}),
    "image-volume": lambda e: e["image_volume"].update(unit=True, state="static"),
    "holders-live": lambda e: next(iter(e["processes"].values())).update(alive=False),
    "holders-cores": lambda e: next(iter(e["processes"].values())).update(cores="32-63"),
    "sysfs-counters": lambda e: e["sysfs"].update({"3": False}),
    "neuron-monitor": lambda e: e["monitor"].update(out="{}"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_otherwise_is_told_by_its_check_and_by_no_other(serving: dict[str, Any], name: str) -> None:
    evidence = copy.deepcopy(serving)
    assert acceptance.DIFFERS not in outcomes(evidence).values()
    assert outcomes(evidence)["holders-cores"] == acceptance.PASSED
    MUTATIONS[name](evidence)
    assert [one for one, outcome in outcomes(evidence).items() if outcome == acceptance.DIFFERS] == [name]


def test_a_host_with_other_cores_than_its_type_has_is_told(serving: dict[str, Any]) -> None:
    evidence = copy.deepcopy(serving)
    devices_changed(_fewer_cores)(evidence)
    assert outcomes(evidence)["devices-and-cores"] == acceptance.DIFFERS


def test_every_check_has_a_mutation_and_names_a_line_of_ours() -> None:
    assert {check.name for check in acceptance.LOOKS} == {*MUTATIONS, "devices-and-cores"}
    for check in acceptance.CHECKS:
        file, _, line = check.place().rpartition(":")
        assert check.depends[1] in (HOME / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]


@pytest.mark.parametrize("out", ["", "null", "[]", "[1]", '{"a": 1}', "[" * 100_000, '[{"neuron_device": []}]'])
def test_a_host_may_say_anything(serving: dict[str, Any], out: str) -> None:
    evidence = copy.deepcopy(serving)
    evidence["neuron_ls"]["out"] = out
    assert outcomes(evidence)["neuron-ls-json"] == acceptance.DIFFERS
    assert outcomes({"neuron_ls": None, "monitor": 3, "processes": [], "device_nodes": None, "neuron_ls_table": 1})


def test_the_report_names_no_host_where_that_is_asked_and_holds_nothing_of_a_process(serving: dict[str, Any]) -> None:
    evidence = copy.deepcopy(serving)
    evidence["neuron_ls"]["out"] = evidence["neuron_ls"]["out"].replace('"vllm"', '"vllm --api-key s3cret"')
    evidence["device_nodes"].remove(5)
    answers = {"secret-host": {"evidence": evidence}}
    report = acceptance.report_of(answers, ["secret-host", "gone"], STAGES, {}, "salt")
    text = json.dumps(report) + acceptance.page(report)
    assert "secret-host" not in text and "s3cret" not in text
    assert (report["differs"], len(report["hosts"])) == (1, 2)
    named = acceptance.report_of(answers, ["secret-host"], STAGES, {}, "")
    page = acceptance.page(named)
    assert "secret-host" in page and "/dev/neuron5" in page and "plugins/module_utils/sdk.py:" in page
    assert not re.search(r"(src|href)=", page)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stage", "lok"), "did you mean 'look'?"),
        (("--host", "trn2-x"), "did you mean 'trn2-"),
        (("-i", "/nowhere"), "no inventory at /nowhere"),
    ],
)
def test_strange_input_is_refused_in_words(words: tuple[str, ...], said: str) -> None:
    fleet = str(ROOT / "inventory/trn2")
    argv = ["trainyard", "accept", "-i", fleet, *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stdout + done.stderr


def test_the_command_asks_a_host_and_makes_the_report_of_one_that_has_no_neuron_tools(tmp_path: Path) -> None:
    """This machine, by ansible itself: what is not there differs, what cannot be judged without it is not."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    file = tmp_path / "hosts.yml"
    file.write_text(json.dumps({"all": {"children": {"neuron": {"hosts": {"here": here}}}}}))
    argv = ["trainyard", *["accept", "-i", str(file), "--host", "here", "-o", str(tmp_path / "made")]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((tmp_path / "made/accept.json").read_text())
    found = {check["name"]: check["outcome"] for check in report["hosts"]["here"]["checks"]}
    assert found["neuron-ls-json"] == found["neuron-monitor"] == acceptance.DIFFERS
    assert found["links"] == found["device-nodes"] == acceptance.SKIPPED
    assert "here: neuron-ls-json: expected exit status 0" in " ".join(done.stdout.split())
    assert "neuron-ls-json" in (tmp_path / "made/accept.html").read_text()


def test_a_deployment_is_tried_whole_and_every_check_of_it_passes(tmp_path: Path) -> None:
    """Of the plugin; the other generations, and each rule switched off, are tests/lab/test_acceptance_rules.py."""
    with SimHost(tmp_path, sdk_releases=["2.27.0"], latency=LATENCY) as host:
        add_weights(host)
        found = accepted(host)
        assert not host.busy_devices()
    assert {name: one["seen"] for name, one in found.items() if one["outcome"] == acceptance.DIFFERS} == {}
    others = {"heads-divide", "model-length", "compile-ranks", "graphs-are-kept", "forbidden-compile"}
    assert {name for name, one in found.items() if one["outcome"] == acceptance.SKIPPED} == others


def test_every_check_is_a_rule_of_the_lab_and_every_rule_is_checked() -> None:
    assert sorted(check.name for check in acceptance.CHECKS) == sorted(RULES)
    for check in acceptance.CHECKS:
        assert check.place().rpartition(":")[2].isdigit()


def test_nothing_is_tried_where_somebody_holds_the_cores(tmp_path: Path) -> None:
    with SimHost(tmp_path, sdk_releases=["2.27.0"], latency=LATENCY) as host:
        holder = host.serve_v1("--no-enable-prefix-caching", cores="0-63", tp=64).wait_ready()
        found = accepted(host, ("serve", "fault"))
        assert holder.process.poll() is None
    judged = {name for name, one in found.items() if one["outcome"] != acceptance.SKIPPED}
    assert judged == {"container-devices", "container-rights"}, "a container that looks takes no core"
    assert "another process holds them" in found["health"]["seen"]


def test_a_deployment_whose_start_never_answers_is_waited_for_once(tmp_path: Path) -> None:
    """A start may take an hour and a half on a host; two dozen of them would be waited for."""
    with SimHost(tmp_path, sdk_releases=["2.32.0"], latency=LATENCY) as host:
        add_weights(host)
        place = host.root / "data/trials"
        place.mkdir()
        tools, devices = host.config.path("/opt/aws/neuron/bin"), host.config.path("/dev")
        tried = trials.Trials(deployment(host), place, tools, devices, 0.0)
        found = tried.run(["serve", "fault"])
        assert len(tried._servers) == 1
    assert found["sound"]["failed"] == "it does not answer"
    assert "did not answer within 0 s" in found["no_room"]
    assert not {"apart", "hang", "killed_engine"} & found.keys()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that any user gets to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives itself up here")
def test_what_is_tried_as_another_user_answers_in_json_and_leaves_nothing(open_folder: Path) -> None:
    folder = open_folder / "made"

    def work() -> dict[str, Any]:
        (folder / "file").write_text("x")
        return {"uid": os.geteuid(), "groups": os.getgroups()}

    said = trials.as_user("nobody", folder, work)
    assert said == {"uid": pwd.getpwnam("nobody").pw_uid, "groups": []}
    assert not folder.exists()
    with pytest.raises(OSError, match="without an answer"):
        trials.as_user("no-such-user-here", folder, lambda: {"x": 1 // 0})
    assert not folder.exists()


@pytest.mark.parametrize("mode", ["0600", "0660", "0664", "0662"])
def test_only_what_everybody_may_read_and_write_is_open(serving: dict[str, Any], mode: str) -> None:
    evidence = copy.deepcopy(serving)
    evidence["rights"]["3"] = mode
    assert outcomes(evidence)["device-rights"] == acceptance.DIFFERS


def test_an_image_s_volume_without_the_unit_that_is_known_is_told(serving: dict[str, Any]) -> None:
    evidence = copy.deepcopy(serving)
    assert outcomes(evidence)["image-volume"] == acceptance.SKIPPED
    evidence["image_volume"]["mounted"] = True
    assert outcomes(evidence)["image-volume"] == acceptance.DIFFERS
    evidence["image_volume"].update(unit=True, state="enabled")
    assert outcomes(evidence)["image-volume"] == acceptance.PASSED


def test_an_image_s_volume_is_seen_by_its_mount_and_its_unit(tmp_path: Path) -> None:
    before = seeing.image_volume(tmp_path)
    assert (before["unit"], before["mounted"], before["state"] == "enabled") == (False, False, False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text("/dev/vg.01/lv_ephemeral /opt/dlami/nvme ext4 rw 0 0\n")
    with SimHost(tmp_path, sdk_releases=["2.27.0"]) as host:
        starts.image_volume(host.config)
        assert seeing.image_volume(tmp_path) == {"unit": True, "state": "enabled", "mounted": True}


@pytest.mark.parametrize("seconds", [None, "1", -1, 0, float("nan"), float("inf"), True])
def test_a_host_s_times_are_taken_where_they_are_numbers(serving: dict[str, Any], seconds: Any) -> None:
    sound = {"start_s": 22.5, "load_bytes": 16 << 30, "presharded": True}
    trials = {"generation": "nxdi_v1", "sound": sound, "compile": {"status": 0, "seconds": 900.0}}
    named = {"times": {**sound, "generation": "nxdi_v1", "compile_s": 900.0, "presharded_at_compile": False}}
    assert acceptance.times_of({"trials": trials}) == named["times"]
    sound["start_s"] = trials["compile"]["seconds"] = seconds
    assert acceptance.times_of({"trials": trials}) == {}
    assert acceptance.times_of({"trials": {"generation": "nxdi_v1", "compile": {"status": 1, "seconds": 9.0}}}) == {}
