# SPDX-License-Identifier: Apache-2.0
"""The units that the role writes, judged by systemd itself, and the whole render of each recipe kept as golden files.

Regenerate the goldens with `UPDATE_GOLDENS=1 pytest tests/roles/test_vllm_endpoint.py`, and read their diff.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

from tests.roles.render import ROOT, render, replica, variables

GOLDENS = Path(__file__).parent / "goldens"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
FENCE = ("trainyard-fence.service", "trainyard-fence-hold.service", "trainyard-fence-watch.service")
# systemd's exposure level times ten (0 to 100), at most. A unit that needs more has to argue for it here.
BUDGET = {"vllm@tiny-llama-0.service": 22, "trainyard-probe.service": 20, **dict.fromkeys(FENCE, 20)}
# The unit of a container is its engine's, which makes namespaces, mounts and devices: what is denied, the engine denies
# to the container. The budget holds what is left.
CONTAINER_BUDGET = 93


def tree(root: Path, row: dict[str, Any], **variables: Any) -> Path:
    """A root directory with the units of one replica, the program they name, and the targets they refer to."""
    units = root / "etc/systemd/system"
    drop_in = units / f"{row['unit']}.d"
    drop_in.mkdir(parents=True)
    given = {"vllm_endpoint_replicas": [row], **variables}
    (units / "vllm@.service").write_text(render("vllm_endpoint", "vllm@.service.j2", **given))
    (drop_in / "replica.conf").write_text(render("vllm_endpoint", "replica.conf.j2", item=row, **given))
    for unit in ("trainyard-probe.service", *FENCE):
        (units / unit).write_text(render("vllm_endpoint", f"{unit}.j2", **given))
    tools = ("usr/sbin/nft", "usr/bin/setpriv")
    for name in ("usr/local/lib/trainyard/replica", "usr/local/lib/trainyard/fence", *tools):
        program = root / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ("sysinit", "basic", "shutdown", "local-fs", "network-pre", "network", "network-online", "multi-user"):
        (units / f"{name}.target").write_text("[Unit]\nDescription=x\n")
    return root


def analyze(
    verb: str, root: Path, unit: str, *options: str, program: tuple[str, ...] = (str(ANALYZE),)
) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of a unit in a root directory; `program` is this machine's own or another's."""
    command = [*program, verb, f"--root={root}", *options, unit]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})


CASES = {
    "venv": {},
    "container": {"runtime": "container", "image": "neuron/vllm@sha256:abc"},
    "native": {"generation": "native"},
    "no processors known": {"cpus": "", "numa_nodes": []},
}


@needs_systemd
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unit", BUDGET)
def test_systemd_finds_nothing_to_say_about_a_unit(tmp_path: Path, unit: str, case: str) -> None:
    root = tree(tmp_path, replica(0, **CASES[case]), vllm_endpoint_api_key="k")
    done = analyze("verify", root, unit, "--man=no")
    # Its exit code is 0 for unknown keys: only an empty stderr means that it understood everything.
    assert done.stderr == ""
    assert done.returncode == 0


@needs_systemd
def test_that_check_would_notice_a_misspelt_key(tmp_path: Path) -> None:
    root = tree(tmp_path, replica(0))
    unit = root / "etc/systemd/system/trainyard-probe.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Retsart=always"))
    assert "Retsart" in analyze("verify", root, unit.name, "--man=no").stderr


@needs_systemd
@pytest.mark.parametrize("unit", BUDGET)
def test_a_unit_keeps_to_its_exposure_budget(tmp_path: Path, unit: str) -> None:
    root = tree(tmp_path, replica(0))
    done = analyze("security", root, unit, "--offline=true", f"--threshold={BUDGET[unit]}", "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]


def deployments() -> dict[str, dict[str, Any]]:
    """The deployments of the real fleet's inventory, by the name of their group."""
    files = sorted((ROOT / "inventory/trn2/group_vars").glob("*/deployment.yml"))
    rows = [row for path in files for row in yaml.safe_load(path.read_text()).items()]
    return {name: value for name, value in rows if name.startswith("trainyard_deployment_")}


RECIPES = {"llama-3-3-70b": "trainyard_deployment_llama_3_3_70b", "qwen3-32b": "trainyard_deployment_qwen3_32b"}
# A release of each generation that has both runtimes, and both models.
GENERATIONS = {"nxdi_v0": "2.26.0", "nxdi_v1": "2.27.0", "native": "2.32.0"}
# Every way to serve each recipe; the first is as the inventory has it.
GOLDEN_CASES: dict[str, tuple[str, dict[str, Any]]] = {"llama-3-3-70b": (RECIPES["llama-3-3-70b"], {})} | {
    f"{recipe}-{generation}-{runtime}": (
        variable,
        {"generation": generation, "sdk_release": release, "runtime": runtime},
    )
    for recipe, variable in RECIPES.items()
    for generation, release in GENERATIONS.items()
    for runtime in ("venv", "container")
}


BESIDE = {"router-1": {"trainyard_address": "10.0.0.9"}}


def planned(variable: str, changes: dict[str, Any]) -> list[dict[str, Any]]:
    host = {
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_address": "10.0.0.1",
        # The table names no commit for the fork's tag of this release; whoever builds from it says one.
        "neuron_venv_source_commits": {"aws-neuron/upstreaming-to-vllm@2.26.0": "0" * 40},
        variable: deployments()[variable] | changes,
    }
    plan = plan_fleet({"hosts": {"trn-1": host}, "routers": ["router-1"], "other_variables": BESIDE}).to_dict()
    rows: list[dict[str, Any]] = plan["hosts"]["trn-1"]["replicas"]
    return rows


def is_as_it_was(name: str, text: str) -> None:
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("unit", ["vllm@.service", "trainyard-probe.service", *FENCE])
def test_the_units_of_all_replicas_are_as_they_were(unit: str) -> None:
    rows = planned(*GOLDEN_CASES["llama-3-3-70b"])
    is_as_it_was(unit, render("vllm_endpoint", f"{unit}.j2", vllm_endpoint_replicas=rows))


def test_the_render_of_a_recipe_with_a_key_is_as_it_was() -> None:
    rows = planned(*GOLDEN_CASES["llama-3-3-70b"])
    parts = []
    for template in ("replica.conf.j2", "replica.env.j2", "replica.json.j2"):
        given = {"vllm_endpoint_api_key": "sk-golden", "host_release": "0123456789ab"}
        text = render("vllm_endpoint", template, vllm_endpoint_replicas=rows, item=rows[0], **given)
        parts.append(f"----- {rows[0]['name']} {template}\n{text}")
    assert "sk-golden" not in "".join(parts)
    is_as_it_was("llama-3-3-70b-with-key", "\n".join(parts))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_the_render_of_each_recipe_is_as_it_was(case: str) -> None:
    rows = planned(*GOLDEN_CASES[case])
    parts = []
    for row in rows:
        for template in ("replica.conf.j2", "replica.env.j2", "replica.json.j2"):
            text = render("vllm_endpoint", template, vllm_endpoint_replicas=rows, item=row)
            parts.append(f"----- {row['name']} {template}\n{text}")
    is_as_it_was(case, "\n".join(parts))


def budget(row: dict[str, Any]) -> int:
    """What the unit of a replica may have of exposure."""
    return CONTAINER_BUDGET if row["runtime"] == "container" else BUDGET["vllm@tiny-llama-0.service"]


@needs_systemd
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_systemd_takes_each_recipe_and_finds_it_within_the_budget(tmp_path: Path, case: str) -> None:
    row = planned(*GOLDEN_CASES[case])[0]
    root = tree(tmp_path, row, vllm_endpoint_api_key="k")
    assert analyze("verify", root, row["unit"], "--man=no").stderr == ""
    done = analyze("security", root, row["unit"], "--offline=true", f"--threshold={budget(row)}", "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]


def test_two_replicas_of_a_recipe_share_nothing_that_must_be_their_own() -> None:
    first, second = planned(*GOLDEN_CASES["llama-3-3-70b"])
    assert (first["cores"], second["cores"]) == ("0-31", "32-63")
    for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_PROCESS_TAG", "PROMETHEUS_MULTIPROC_DIR", "BASE_COMPILE_WORK_DIR"):
        assert first["environment"][name] != second["environment"][name]
    assert first["port"] != second["port"]
    assert first["agent_port"] != second["agent_port"]


def test_an_environment_file_survives_every_character(tmp_path: Path) -> None:
    value = 'a "quoted" \\back\\slash $HOME {"json": [1]} \' end'
    text = render("vllm_endpoint", "replica.env.j2", item=replica(0, environment={"ODD": value}))
    line = next(line for line in text.splitlines() if line.startswith("ODD="))
    # What systemd.exec(5) says of EnvironmentFile=: within double quotes, \" and \\ are escapes, $ is plain.
    inner = re.fullmatch(r'ODD="(.*)"', line)
    assert inner
    assert re.sub(r"\\(.)", r"\1", inner.group(1)) == value


def test_equal_hosts_have_equal_release_ids_and_any_change_gets_a_new_one() -> None:
    def release(**given: Any) -> str:
        return render_text("{{ __vllm_endpoint_release }}", **given)

    rows = [replica(0)]
    assert release(vllm_endpoint_replicas=rows) == release(vllm_endpoint_replicas=[replica(0)])
    assert re.fullmatch(r"[0-9a-f]{12}", release(vllm_endpoint_replicas=rows))
    others = [
        {"vllm_endpoint_replicas": [replica(0, environment={"A": "1"})]},
        {"vllm_endpoint_replicas": rows, "vllm_endpoint_gate": {"prompt": "x"}},
        {"vllm_endpoint_replicas": [replica(0), replica(1)]},
        *(
            {"vllm_endpoint_replicas": [replica(0, runtime="container", image=f"vllm@sha256:{of}")]}
            for of in ("a", "b")
        ),
        {"vllm_endpoint_replicas": rows, "vllm_endpoint_api_key": "sk-a"},
        {"vllm_endpoint_replicas": rows, "vllm_endpoint_api_key": "sk-b"},
    ]
    ids = [release(**given) for given in [{"vllm_endpoint_replicas": rows}, *others]]
    assert [others[index - 1] for index, found in enumerate(ids) if found in ids[:index]] == []


#: What a host's variables change of a release, with a value that is not the default's.
OF_A_RELEASE: dict[str, Any] = {
    "vllm_endpoint_gate": {"prompt": "x"},
    "vllm_endpoint_probe": {"stall_s": 7},
    "vllm_endpoint_settle_timeout_s": 7,
    "vllm_endpoint_loads_at_once": 7,
    "vllm_endpoint_pinning": "other",
    "vllm_endpoint_neuron_ls": "/other/neuron-ls",
    "vllm_endpoint_container_engine": "other",
    "vllm_endpoint_api_key": "sk-other",
}
#: What templates of a release name beside: it only picks the rows, which are in the id whole.
ROWS = {"vllm_endpoint_replicas", "vllm_endpoint_spares"}


def test_all_that_a_release_is_rendered_of_is_in_its_id() -> None:
    folder = ROOT / "roles/vllm_endpoint"
    inside = {"__vllm_endpoint_has_key": "vllm_endpoint_api_key"}
    named = {
        inside.get(name, name)
        for template in ("replica.json.j2", "replica.env.j2", "replica.conf.j2")
        for name in re.findall(r"\b(?:__)?vllm_endpoint_\w+", (folder / "templates" / template).read_text())
    }
    assert named <= set(OF_A_RELEASE) | ROWS

    def release(**given: Any) -> str:
        return render_text("{{ __vllm_endpoint_release }}", **{"vllm_endpoint_replicas": [replica(0)], **given})

    ids = {name: release(**{name: value}) for name, value in OF_A_RELEASE.items()}
    changed = {key: "other" if key != "cpus" else "1-2" for key in replica(0)}
    ids |= {key: release(vllm_endpoint_replicas=[{**replica(0), key: value}]) for key, value in changed.items()}
    ids |= {"a spare": release(vllm_endpoint_spares=[replica(1)])}
    assert [name for name, found in ids.items() if found == release()] == []
    assert len(set(ids.values())) == len(ids)


def render_text(text: str, **given: Any) -> str:
    return str(
        Templar(loader=DataLoader(), variables=variables("vllm_endpoint", **given)).template(trust_as_template(text))
    )


def test_defaults_and_argument_specs_say_the_same() -> None:
    for role in ("vllm_endpoint", "load_balancer"):
        defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
        options = specs["argument_specs"]["main"]["options"]
        assert json.dumps(defaults, sort_keys=True) == json.dumps(
            {name: option["default"] for name, option in options.items()}, sort_keys=True
        )


@pytest.mark.parametrize(("role", "package"), [("vllm_endpoint", "serving"), ("load_balancer", "routing")])
def test_the_role_brings_every_file_of_its_program(role: str, package: str) -> None:
    tasks = yaml.safe_load((ROOT / "roles" / role / "tasks/configure.yml").read_text())
    (laid,) = (item for item in tasks[0]["trainyard.neuron.file_tree"]["items"] if item.get("package"))
    assert laid == {
        "path": f"/usr/local/lib/trainyard/{package}",
        "state": "directory",
        "package": package,
        "prune": ["*"],
    }


def unit_templates() -> list[Path]:
    """Every template of the roles that is a unit or a drop-in of one."""
    return sorted(path for path in (ROOT / "roles").glob("*/templates/*.j2") if "[Service]" in path.read_text())


@pytest.mark.parametrize("path", unit_templates(), ids=lambda path: path.name)
def test_no_step_of_a_unit_stays_root_past_its_user(path: Path) -> None:
    """`+` and `!` run a step as root whoever the unit is: such a step gives everything up before it reads anything."""
    text = path.read_text().replace("\\\n", " ")
    steps = re.findall(r"^Exec\w+=([-@:+!|]*)(\S+)(.*)", text, re.MULTILINE)
    for marks, program, arguments in steps:
        if set(marks) & set("+!"):
            assert program == "/usr/bin/setpriv", f"{program} runs as root"
            given = arguments.split()
            assert {"--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"} <= set(given)
            assert any(word.startswith("--reuid=") for word in given)
            assert any(word.startswith("--regid=") for word in given)
            assert any(word.startswith("--groups=") for word in given)


def directives(text: str) -> dict[str, list[str]]:
    """A unit's lines by their name, as systemd adds them up: an empty value begins anew."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith(("#", ";")):
            found[name] = [*found.get(name, []), value] if value else []
    return found


def test_no_replica_starts_without_its_fence_and_no_flush_comes_after_it() -> None:
    unit = directives(render("vllm_endpoint", "vllm@.service.j2"))
    for line in ("Requires", "After"):
        assert {"trainyard-fence.service", "trainyard-fence-hold.service"} <= set(" ".join(unit[line]).split())
    fence = directives(render("vllm_endpoint", "trainyard-fence.service.j2"))
    # Its first line is `flush ruleset`: loaded before it, the fence would be gone.
    assert "nftables.service" in " ".join(fence["After"]).split()
    assert fence["ExecStart"] == fence["ExecReload"] == ["/usr/local/lib/trainyard/fence load"]
    assert fence["RemainAfterExit"] == ["yes"]
    hold = directives(render("vllm_endpoint", "trainyard-fence-hold.service.j2"))
    assert hold["ExecStart"] == ["/usr/local/lib/trainyard/fence hold"]
    # The agents' answers are behind it as well.
    probe = directives(render("vllm_endpoint", "trainyard-probe.service.j2"))
    assert "trainyard-fence.service" in " ".join(probe["Requires"]).split()
    # While it stays active, no further start would look.
    assert "RemainAfterExit" not in hold
    # systemd's own limit is five starts in ten seconds, and a host may start sixteen replicas.
    assert hold["StartLimitIntervalSec"] == ["0"]
    watch = directives(render("vllm_endpoint", "trainyard-fence-watch.service.j2"))
    assert watch["StartLimitIntervalSec"] == ["0"]
    assert (watch["ExecStart"], watch["Restart"]) == (["/usr/local/lib/trainyard/fence watch"], ["always"])


@pytest.mark.parametrize("unit", FENCE)
def test_what_keeps_the_fence_may_change_rules_and_nothing_else(unit: str) -> None:
    found = directives(render("vllm_endpoint", f"{unit}.j2"))
    assert found["CapabilityBoundingSet"] == ["CAP_NET_ADMIN"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert set(" ".join(found.get("ReadWritePaths", [])).split()) <= {"-/run/trainyard-fence"}
    assert "AF_INET" not in " ".join(found["RestrictAddressFamilies"]).split()
    assert "User" not in found


@pytest.mark.parametrize("allowed", [False, True])
def test_the_metadata_service_is_denied_to_a_whole_unit_unless_told_otherwise(allowed: bool) -> None:
    unit = directives(render("vllm_endpoint", "vllm@.service.j2", vllm_endpoint_metadata_access=allowed))
    denied = set(" ".join(unit.get("IPAddressDeny", [])).split())
    keys = {"169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"}
    assert denied == (set() if allowed else keys)


def test_a_server_may_do_nothing_but_serve() -> None:
    lines = directives(render("vllm_endpoint", "vllm@.service.j2"))
    assert (lines.get("User"), lines.get("Group")) == (["vllm"], ["vllm"])
    given_up = """
        NoNewPrivileges ProtectHome PrivateTmp ProtectClock ProtectControlGroups ProtectHostname ProtectKernelLogs
        ProtectKernelModules ProtectKernelTunables LockPersonality RestrictNamespaces RestrictSUIDSGID RemoveIPC
    """
    for name in re.findall(r"\w+", given_up):
        assert lines.get(name) == ["yes"], name
    assert (lines["CapabilityBoundingSet"], lines["AmbientCapabilities"]) == ([], [])
    assert lines["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in lines
    assert lines["SystemCallFilter"] == ["@system-service"]
    assert (lines["DevicePolicy"], lines["DeviceAllow"]) == (["closed"], ["char-neuron rw"])
    # Its journal is read beside it, not by it.
    assert "SupplementaryGroups" not in lines
    assert lines["RuntimeDirectoryMode"] == lines["StateDirectoryMode"] == ["0750"]


@pytest.mark.parametrize("runtime", ["venv", "container"])
def test_the_probe_may_look_and_end_and_nothing_else(runtime: str) -> None:
    rows = [replica(0, runtime=runtime)]
    lines = directives(render("vllm_endpoint", "trainyard-probe.service.j2", vllm_endpoint_replicas=rows))
    assert lines["User"] == ["root" if runtime == "container" else "vllm"]
    wanted = ["CAP_KILL CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"] if runtime == "container" else []
    assert lines["CapabilityBoundingSet"] == wanted
    assert lines["NoNewPrivileges"] == ["yes"]
    assert "ReadWritePaths" not in lines, "it writes in its own run-time directory alone"


def test_a_key_reaches_a_replica_as_a_credential_of_roots_and_no_other_way() -> None:
    key = "sk-pl4nted"
    rows = [replica(0)]
    given = {"vllm_endpoint_replicas": rows, "vllm_endpoint_api_key": key, "item": rows[0]}
    release = render_text("{{ __vllm_endpoint_release }}", **given)
    drop_in = directives(render("vllm_endpoint", "replica.conf.j2", **given, host_release=release))
    assert drop_in.get("LoadCredential") == [f"api-key:/etc/vllm/releases/{release}/api-key"]
    assert "LoadCredential" not in directives(render("vllm_endpoint", "replica.conf.j2", item=rows[0]))
    for template in ("replica.json.j2", "replica.env.j2", "replica.conf.j2", "vllm@.service.j2"):
        assert key not in render("vllm_endpoint", template, **given, host_release=release)
    assert json.loads(render("vllm_endpoint", "replica.json.j2", **given))["needs_key"] is True
    assert json.loads(render("vllm_endpoint", "replica.json.j2", item=rows[0]))["needs_key"] is False


def file_items() -> list[dict[str, Any]]:
    """What the role lays out."""
    tasks = yaml.safe_load((ROOT / "roles/vllm_endpoint/tasks/configure.yml").read_text())
    return [item for task in tasks for item in task.get("trainyard.neuron.file_tree", {}).get("items", [])]


def test_the_file_of_the_key_is_for_root_alone_and_shown_to_nobody() -> None:
    (item,) = [item for item in file_items() if "api_key" in str(item.get("content", ""))]
    assert (item.get("mode"), item.get("sensitive"), item.get("owner"), item.get("group")) == ("0400", True, None, None)
    assert [other["path"] for other in file_items() if other.get("sensitive")] == [item["path"]]


def test_what_a_replica_is_made_of_cannot_be_written_by_its_user() -> None:
    """Its files are root's, the group may read two kinds, and nothing that root runs lies where the user writes."""
    for item in file_items():
        mode = int(str(item.get("mode", "0644")), 8)
        assert "owner" not in item, "the task's owner is root"
        assert not mode & 0o022, item["path"]
        assert str(item["path"]).startswith(("/usr/local/lib/trainyard", "/etc/vllm", "/etc/systemd/system"))


def test_a_container_replica_is_roots_and_its_neighbours_may_count_it() -> None:
    row = replica(0, runtime="container")
    lines = directives(render("vllm_endpoint", "replica.conf.j2", item=row, vllm_endpoint_replicas=[row]))
    assert lines["User"] == ["root"]
    assert lines["RuntimeDirectoryMode"] == ["0755"]
