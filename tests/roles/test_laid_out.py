# SPDX-License-Identifier: Apache-2.0
"""What every role lays out and for whom: each path that is not simply root's to write and everybody's to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.roles.render import ROOT
from tests.roles.test_secrets import documents, walk

FILES = "trainyard.neuron.file_tree"
MAKES = {"content", "template", "file", "module_util", "target", "prune"}


@cache
def mappings() -> list[tuple[Path, Path, dict[str, Any]]]:
    """Every mapping in tasks and variables of every role, with the role and the file."""
    roles = sorted((ROOT / "roles").iterdir())
    return [(role, path, item) for role in roles for path, document in documents(role) for item in walk(document)]


def items() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every file, link and directory of every role that is to be there."""
    for role, _path, item in mappings():
        told = MAKES & set(item) or item.get("state") in ("directory", "link")
        if "path" in item and told and item.get("state") != "absent":
            yield role.name, item


#: (owner, group, mode, shown in a diff) where one of them is not as for everything else.
ROOTS = {"mode": "0600", "sensitive": True}
READ = {"group": "{{ vllm_endpoint_user }}", "mode": "0640"}
SPECIAL: dict[tuple[str, str], dict[str, Any]] = {
    ("benchmark", "{{ __benchmark_cluster.token_file }}"): ROOTS,
    ("benchmark", "{{ benchmark_directory }}"): {"mode": "0700"},
    ("host_tools", "/run/trainyard/peers"): {"mode": "0700"},
    ("host_tools", "{{ __host_tools_let_in.__host_tools_meeting.note | dirname }}"): {"mode": "0700"},
    ("host_tools", "{{ __host_tools_let_in.__host_tools_meeting.note }}"): {"mode": "0600"},
    ("host_tools", "/etc/trainyard/jobs"): {"mode": "0750"},
    ("load_balancer", "/usr/local/lib/trainyard/router"): {"mode": "0755"},
    ("load_balancer", "{files}/keys.map"): {"mode": "0640"},
    ("load_balancer", "{files}/upstream.map"): ROOTS,
    ("load_balancer", "{files}/certificate.pem"): ROOTS,
    ("block_watch", "/etc/trainyard/credentials"): {"mode": "0700"},
    ("block_watch", "/etc/trainyard/credentials/block_watch.env"): ROOTS,
    ("model_compile", "/etc/trainyard/credentials"): {"mode": "0700"},
    ("model_compile", "/etc/trainyard/credentials/artifact.json"): ROOTS,
    ("model_weights", "/etc/trainyard/credentials"): {"mode": "0700"},
    ("model_weights", "/etc/trainyard/credentials/weights.json"): ROOTS,
    **{
        ("monitoring", f"/etc/trainyard/monitoring/{name}"): ROOTS
        for name in ("web.json", "certificate.pem", "key.pem", "alertmanager.json")
    },
    ("neuron_monitor", "/usr/local/lib/trainyard/exporter"): {"mode": "0755"},
    ("neuron_venv", "/etc/trainyard/credentials"): {"mode": "0700"},
    ("neuron_venv", "/etc/trainyard/credentials/build.json"): ROOTS,
    ("vllm_endpoint", "/usr/local/lib/trainyard/replica"): {"mode": "0755"},
    ("vllm_endpoint", "/usr/local/lib/trainyard/fence"): {"mode": "0755"},
    ("vllm_endpoint", "/etc/vllm/releases/{host_release}/api-key"): {"mode": "0400", "sensitive": True},
    ("vllm_endpoint", "/etc/vllm/releases/{host_release}/{name}.env"): READ,
    ("vllm_endpoint", "/etc/vllm/releases/{host_release}/{name}.json"): READ,
}


def test_who_may_read_and_write_what_is_laid_out() -> None:
    found = {}
    for role, item in items():
        told = {key: item[key] for key in ("owner", "group", "mode", "sensitive") if key in item}
        plain = {"owner": "root", "group": "root", "mode": "0755"} if item.get("state") == "directory" else {}
        if told := {key: value for key, value in told.items() if value != plain.get(key)}:
            assert found.setdefault((role, item["path"]), told) == told, "twice, and not alike"
    assert found == SPECIAL


def takes_away(told: str | list[dict[str, Any]]) -> bool:
    """Whether a task makes nothing: its items are all to be absent, or are a list of a name that says so."""
    if isinstance(told, str):
        return bool(re.search(r"absent|gone", told)) and "present" not in told
    return all(item.get("state") == "absent" for item in told)


def test_what_every_task_lays_out_is_root_s() -> None:
    told = [(path, task["name"], task[FILES]) for _role, path, task in mappings() if FILES in task]
    owners = {
        (str(path.relative_to(ROOT)), name): (arguments.get("owner"), arguments.get("group"))
        for path, name, arguments in told
        if path.name != "absent.yml" and not takes_away(arguments["items"])
    }
    assert len(owners) >= 5
    assert set(owners.values()) == {("root", "root")}, owners


#: What a program judges before it takes the place of what was there, since what reads it fails where it is wrong.
VALIDATED = {
    ("load_balancer", "/etc/haproxy/haproxy.cfg"): "/usr/sbin/haproxy -c -q -f %s",
    ("load_balancer", "{path}"): "/usr/sbin/keepalived --config-test --use-file %s",
    ("monitoring", "/etc/trainyard/monitoring/prometheus.json"): "/usr/bin/promtool check config --syntax-only %s",
    ("monitoring", "/etc/trainyard/monitoring/rules.json"): "/usr/bin/promtool check rules %s",
    ("vllm_endpoint", "/etc/vllm/fence.nft"): "/usr/sbin/nft -c -f %s",
}


def test_a_configuration_that_would_stop_its_program_is_judged_first() -> None:
    assert {(role, item["path"]): item["validate"] for role, item in items() if "validate" in item} == VALIDATED


#: What nobody asked for any more goes: of programs, releases and links.
PRUNED = {
    ("host_tools", "/usr/local/lib/trainyard/trainyard_jobs"): ["*.py"],
    ("load_balancer", "/usr/local/lib/trainyard/routing"): ["*"],
    ("load_balancer", "{files}/vllm-router"): ["*"],
    ("monitoring", "/etc/trainyard/monitoring/consoles"): ["*"],
    ("neuron_monitor", "/usr/local/lib/trainyard/exporter_parts/watch"): ["*"],
    ("nvme_raid", "/usr/local/lib/trainyard/trainyard_storage"): ["*.py"],
    ("vllm_endpoint", "/usr/local/lib/trainyard/serving"): ["*"],
    ("vllm_endpoint", "/etc/vllm/releases"): "{{ __vllm_endpoint_switches | ternary(['*'], []) }}",
    ("vllm_endpoint", "/etc/vllm/files"): "{{ __vllm_endpoint_switches | ternary(['*'], []) }}",
    ("vllm_endpoint", "/etc/vllm/current"): "{{ __vllm_endpoint_switches | ternary(['*'], []) }}",
    ("vllm_endpoint", "/etc/systemd/system"): "{{ __vllm_endpoint_switches | ternary(['vllm@*.service.d'], []) }}",
}


def test_what_is_no_longer_wanted_goes() -> None:
    # The directory of units is pruned by the removal too, whatever the state.
    found = {(role, item["path"]): item["prune"] for role, item in reversed([*items()]) if "prune" in item}
    assert {key: value for key, value in found.items() if key[1] != "/etc/systemd/system"} == {
        key: value for key, value in PRUNED.items() if key[1] != "/etc/systemd/system"
    }
    kept = [item["prune"] for _role, item in items() if item["path"] == "/etc/systemd/system"]
    assert sorted(map(str, kept)) == ["['vllm@*.service.d']", PRUNED["vllm_endpoint", "/etc/systemd/system"]]


#: When a service begins anew or reads its files again; what is in neither list runs on with what it had.
PROGRAM = "/usr/local/lib/trainyard"
SERVICES: dict[tuple[str, str], dict[str, Any]] = {
    ("benchmark", "trainyard-ray.service"): {
        "restart_on": ["{{ __benchmark_cluster.token_file }}", "/etc/systemd/system/trainyard-ray.service"],
    },
    ("block_watch", "trainyard-block-watch.timer"): {
        "enabled": True,
        "restart_on": ["/etc/systemd/system/trainyard-block-watch.timer"],
    },
    ("container_engine", "docker.service"): {"enabled": True, "restart_on": ["/etc/docker/daemon.json"]},
    ("load_balancer", "haproxy.service"): {
        "enabled": True,
        "reload_on": ["/etc/haproxy/*"],
        "restart_on": ["/etc/systemd/system/haproxy.service.d/*"],
    },
    ("load_balancer", "{unit}"): {"each": "pair", "enabled": True, "restart_on": ["/etc/keepalived/keepalived.conf"]},
    ("load_balancer", "trainyard-vllm-router@{slug}.service"): {
        "each": "choosers",
        "enabled": True,
        "reload_on": ["{{ __load_balancer_files_dir }}/vllm-router/{slug}.env"],
        "restart_on": ["/etc/systemd/system/{{ __load_balancer_unit }}", "{{ __load_balancer_venv }}"],
    },
    ("neuron_monitor", "trainyard-monitor.service"): {
        "enabled": True,
        "restart_on": ["/etc/trainyard/neuron-monitor.json", "/etc/systemd/system/trainyard-monitor.service"],
    },
    ("monitoring", "trainyard-alertmanager.service"): {
        "enabled": True,
        "restart_on": [
            "/etc/trainyard/monitoring/alertmanager.json",
            "/etc/systemd/system/trainyard-alertmanager.service",
        ],
    },
    ("monitoring", "trainyard-prometheus.service"): {
        "enabled": True,
        "reload_on": ["/etc/trainyard/monitoring/prometheus.json", "/etc/trainyard/monitoring/rules.json"],
        # Its credentials are copies of when it began.
        "restart_on": [
            *(f"/etc/trainyard/monitoring/{name}" for name in ("web.json", "certificate.pem", "key.pem")),
            "/etc/systemd/system/trainyard-prometheus.service",
        ],
    },
    ("neuron_monitor", "trainyard-exporter.service"): {
        "enabled": True,
        "restart_on": [
            "/etc/trainyard/exporter.json",
            "/etc/systemd/system/trainyard-exporter.service",
            f"{PROGRAM}/exporter",
            *(f"{PROGRAM}/exporter_parts/{part}/*" for part in ("watch", "serving", "roll")),
        ],
    },
    # Reloaded and never restarted: replicas stop with it.
    ("vllm_endpoint", "trainyard-fence.service"): {
        "enabled": True,
        "reload_on": ["/etc/vllm/fence.nft"],
        "reload_unless": [f"{PROGRAM}/fence", "check"],
    },
    ("vllm_endpoint", "trainyard-fence-watch.service"): {
        "enabled": True,
        "restart_on": [
            f"{PROGRAM}/fence",
            f"{PROGRAM}/serving/fence.py",
            f"{PROGRAM}/serving/layout.py",
            "/etc/systemd/system/trainyard-fence-watch.service",
        ],
    },
    ("vllm_endpoint", "trainyard-probe.service"): {
        "enabled": True,
        "restart_on": [
            f"{PROGRAM}/replica",
            f"{PROGRAM}/serving/*",
            "/etc/systemd/system/trainyard-probe.service",
        ],
    },
    ("vllm_endpoint", "{unit}"): {
        "each": "switched",
        "enabled": True,
        "expected_environment": {"TRAINYARD_RELEASE": "{release}"},
    },
}


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every service that a role has run."""
    for role, _path, item in mappings():
        if "name" in item and {"enabled", "restart_on", "reload_on"} & set(item):
            yield role.name, item


def test_a_service_takes_up_what_changed() -> None:
    found = {(role, item["name"]): {key: item[key] for key in item if key != "name"} for role, item in services()}
    assert found == SERVICES


#: What goes away with its role: each directory and file of the toolkit's own is removed again.
SHARED = {
    "/etc/trainyard",
    "/usr/local/lib/trainyard",
    "/etc/trainyard/credentials",
    "/opt/trainyard",
    "/var/lib/trainyard",
}


#: What stays: directories of others, and what a removal takes by a pattern and not by its name.
KEPT = {
    "container_engine": ["/etc/containers", "/etc/docker"],
    "load_balancer": ["/etc/systemd/system/haproxy.service.d", "/etc/haproxy"],
    # The masks of packages that stay: they would start by themselves, and listen everywhere.
    "monitoring": [
        "/etc/systemd/system/prometheus-alertmanager.service",
        "/etc/systemd/system/prometheus.service",
    ],
    "nvme_raid": ["/etc/systemd/system/local-fs.target.wants"],
    "vllm_endpoint": [
        "/etc/systemd/system",
        "/etc/systemd/system",
        "/etc/systemd/system/{unit}.d",
        "/etc/systemd/system/{unit}.d/replica.conf",
    ],
}


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir()))
def test_what_a_role_lays_out_it_takes_away(role: str) -> None:
    gone = [
        item["path"]
        for of, _path, item in mappings()
        if of.name == role and item.get("state") == "absent" and "path" in item
    ]
    # Where a role names its directory by a variable, the removal does too.
    names = yaml.safe_load((ROOT / "roles" / role / "vars/main.yml").read_text(encoding="utf-8")) or {}

    def plain(path: str) -> str:
        for name, value in names.items():
            if isinstance(value, str):
                path = path.replace(f"{{{{ {name} }}}}", value)
        return path.replace("{files}", "/etc/haproxy/trainyard")

    left = []
    for owner, item in items():
        path = plain(str(item["path"]))
        if (
            owner != role
            or path in SHARED
            or "{path}" in path
            or not path.startswith(("/etc/", "/usr/local/", "/opt/"))
        ):
            continue
        if not any(path == plain(str(other)) or path.startswith(plain(str(other)) + "/") for other in gone):
            left.append(path)
    assert sorted(left) == sorted(KEPT.get(role, []))
