# SPDX-License-Identifier: Apache-2.0
"""Each trouble of a host is one line with its fix, and a host without one has none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight import judge
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.judge import Answered

ROW = find_release("2.27.0", "nxdi_v1").entry("container")
GIB = 1 << 30
IMAGE = "public.ecr.aws/neuron/image@sha256:" + "0" * 64

EXPECT: dict[str, Any] = {
    "sdk": [ROW],
    "memory": {"disk_peak_bytes": 200 * GIB},
    "data_dir": "/data",
    "package_source": "https://apt.example.com",
    "allow_drift": False,
    "when_no_disks": "fail",
    "ports": {"8000": "replica m-0", "8080": "the router"},
    "haproxy": "haproxy",
}
RESULT: dict[str, Any] = {
    "available": True,
    "reason": "",
    "driver_version": ROW["packages"]["aws-neuronx-dkms"],
    "kernel": "6.8.0-1020-aws",
}
ANSWERS: dict[str, Any] = {
    "time_s": 1000.5,
    "python": "3.10.12",
    "headers": True,
    "packages": dict(ROW["packages"]),
    "candidates": {"haproxy": "2.8.16-0ubuntu0.24.04.1"},
    "ports": {},
    "space": {"path": "/data", "free_bytes": 900 * GIB, "have_bytes": 0},
    "disks": {"count": 4, "bytes": 4 * 1900 * 10**9, "refused": "", "mounted": "/dev/md127"},
    "environments": {},
    "images": {IMAGE: True},
    "sources": [],
    "system": {"id": "ubuntu 24.04", "manager": "apt", "lacking": ["haproxy"]},
}


def host(change: dict[str, Any], serves: bool = True) -> Answered:
    """A sound host with something changed: keys of `expect`, `result` and `answers`."""
    expect, result, answers = (copy.deepcopy(part) for part in (EXPECT, RESULT, ANSWERS))
    expect |= change.get("expect", {})
    result |= change.get("result", {})
    answers |= change.get("answers", {})
    return Answered("h1", expect, result, 1000.0, 1001.0, serves, answers)


def source(
    kind: str, problem: str, detail: str = "HTTP 404", what: str = "it", url: str = "https://x"
) -> dict[str, Any]:
    return {"answers": {"sources": [{"kind": kind, "problem": problem, "detail": detail, "what": what, "url": url}]}}


def test_a_sound_host_has_no_trouble() -> None:
    assert judge.judge(host({})) == []
    # In a container nobody knows of headers, and what is served from a volume that is there is counted.
    used = {"space": {"path": "/data", "free_bytes": 20 * GIB, "have_bytes": 190 * GIB}, "headers": None}
    assert judge.judge(host({"answers": used})) == []
    assert judge.judge(host(source("checkpoint", ""))) == []
    # Prometheus where nobody else reaches it, and where those alone do who have a password.
    for address, guarded in (("127.0.0.1", False), ("10.0.0.2", True), ("::", True)):
        watch = {"expect": {"watch": {"address": address, "guarded": guarded}}}
        assert judge.judge(host({**watch, "result": {"topology": {"addresses": ["10.0.0.2"]}}})) == []
    there = {"files": [{"path": "/srv/x.jsonl", "variable": "benchmark.dataset", "there": True}]}
    assert judge.judge(host({"answers": there})) == []
    # Nothing is served there that would want room.
    full = {"space": {"path": "/", "free_bytes": 1000, "have_bytes": 0}}
    assert judge.judge(host({"expect": {"memory": None, "sdk": []}, "answers": full})) == []


HUB = "https://huggingface.co/meta/llama/resolve/0123/config.json"

TROUBLES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a clock that is behind": ({"answers": {"time_s": 900.0}}, ["clock", "-100 s", "behind", "timedatectl set-ntp"]),
    "a clock that is ahead": ({"answers": {"time_s": 1100.0}}, ["+99 s", "ahead of"]),
    "an old Python": ({"answers": {"python": "3.8.10"}}, ["ansible_python_interpreter", "3.8.10", "3.9"]),
    "no driver loaded": (
        {"result": {"available": False, "reason": "neuron-ls: no driver", "driver_version": ""}},
        ["driver", "not loaded", "neuron-ls: no driver", "modprobe neuron"],
    ),
    "no driver for a newer kernel": (
        {
            "result": {"available": False, "reason": "neuron-ls: no driver", "driver_version": ""},
            "answers": {"headers": False},
        },
        ["linux-headers-6.8.0-1020-aws", "dkms autoinstall"],
    ),
    "a driver that is due, and held": (
        {
            "answers": {
                "packages": {**ROW["packages"], "aws-neuronx-dkms": "2.1.0"},
                "driver": {"loaded": True, "built": True, "holders": ["python3 (123)"], "replicas": []},
            },
            "result": {"driver_version": "2.1.0"},
        },
        ["driver", "2.1.0", "is held by python3 (123)", "stop them"],
    ),
    "packages that are due, and replicas on them": (
        {
            "answers": {
                "packages": {**ROW["packages"], "aws-neuronx-tools": "2.1.0"},
                "driver": {"loaded": True, "built": True, "holders": [], "replicas": ["vllm@m-0.service"]},
            },
        },
        ["sdk_release", "aws-neuronx-tools 2.1.0 would change, and vllm@m-0.service run on it", "trainyard upgrade"],
    ),
    "a driver that is built and not loaded, in a run that does not load it": (
        {
            "expect": {"verb": "serve"},
            "result": {"available": False, "reason": "neuron-ls: no driver", "driver_version": ""},
            "answers": {"driver": {"loaded": False, "built": True, "holders": [], "replicas": []}},
        },
        ["driver", "neuron-ls: no driver", "modprobe neuron"],
    ),
    "a driver that is not built for the kernel, which no run can load": (
        {
            "expect": {"verb": "site"},
            "result": {"available": False, "reason": "neuron-ls: no driver", "driver_version": ""},
            "answers": {"headers": False, "driver": {"loaded": False, "built": False, "holders": [], "replicas": []}},
        },
        ["driver", "linux-headers-6.8.0-1020-aws", "dkms autoinstall"],
    ),
    "no driver, and nowhere to have it from": (
        {
            "expect": {"package_source": ""},
            "answers": {"packages": {}},
            "result": {"available": False, "reason": "/opt/aws/neuron/bin/neuron-ls is not installed"},
        },
        ["neuron_venv_package_source", "machine image"],
    ),
    "another release's packages, and nowhere to have its own from": (
        {
            "expect": {"package_source": ""},
            "answers": {"packages": {**ROW["packages"], "aws-neuronx-tools": "2.9.0"}},
        },
        ["sdk_release", "2.27.0", "aws-neuronx-tools 2.9.0, not"],
    ),
    "another driver in the kernel than on the disk": (
        {"result": {"driver_version": "2.1.0"}},
        ["2.1.0 is loaded", "reboot"],
    ),
    "no environment": (
        {"answers": {"environments": {"2.23.0": "no environment /opt/x on this host; found: none"}}},
        ["sdk_release", "2.23.0", "no environment /opt/x", "machine image"],
    ),
    "disks that hold something": (
        {"answers": {"disks": {"count": -1, "bytes": 0, "refused": "these disks hold\n something", "mounted": ""}}},
        ["trainyard_data_dir", "these disks hold something", "nvme_raid_state: absent"],
    ),
    "no disks": (
        {"answers": {"disks": {"count": 0, "bytes": 0, "refused": "", "mounted": ""}}},
        ["no instance-store disk", "nvme_raid_when_no_disks: directory"],
    ),
    "too little room": (
        {"answers": {"space": {"path": "/", "free_bytes": 50 * GIB, "have_bytes": 0}}},
        ["trainyard_data_dir", "50 GiB", "200"],
    ),
    "a full volume, and models of no known size": (
        {"expect": {"memory": None}, "answers": {"space": {"path": "/", "free_bytes": 1000, "have_bytes": 0}}},
        ["trainyard_data_dir", "0 GiB", "at least 1"],
    ),
    "too little room for an image beside": (
        {"answers": {"space": {"path": "/", "free_bytes": 210 * GIB, "have_bytes": 0}, "images": {IMAGE: False}}},
        ["210 GiB", "245", "images"],
    ),
    "too few disks": (
        {"answers": {"disks": {"count": 1, "bytes": 100 * GIB, "refused": "", "mounted": ""}}},
        ["100 GiB", "larger volume"],
    ),
    "a port that is taken": (
        {"answers": {"ports": {"8000": "nginx.service"}}},
        ["port = 8000", "replica m-0", "nginx.service listens", "ss -ltnp"],
    ),
    "a Prometheus that strangers could ask": (
        {"expect": {"watch": {"address": "10.0.0.1", "guarded": False}}},
        ['monitoring_address = "10.0.0.1"', "tells everything", "monitoring_users", "leave it out"],
    ),
    "a Prometheus at another host's address": (
        {
            "expect": {"watch": {"address": "10.0.0.1", "guarded": True}},
            "result": {"topology": {"addresses": ["10.0.0.2"]}},
        },
        ['monitoring_address = "10.0.0.1"', "no address of the host, which has 10.0.0.2"],
    ),
    "a load's prompts that are not there": (
        {"answers": {"files": [{"path": "/srv/x.jsonl", "variable": "benchmark.dataset", "there": False}]}},
        ['benchmark.dataset = "/srv/x.jsonl"', "is not there", "correct the path"],
    ),
    "a certificate that is none": (
        {"expect": {"said": [("load_balancer_certificate", None, "has no private key", "give it")]}},
        ["load_balancer_certificate", "has no private key"],
    ),
    "a HAProxy that is too old": (
        {"answers": {"candidates": {"haproxy": "2.4.24-0ubuntu0.22.04.2"}}},
        ["load_balancer_package", "2.4.24", "2.6", "ppa:vbernat/haproxy-3.0"],
    ),
    "a HAProxy that is too old, of a host whose lists are empty": (
        {
            "answers": {
                "candidates": {"haproxy": ""},
                "system": {"id": "ubuntu 22.04", "manager": "apt", "lacking": ["haproxy"]},
            }
        },
        ['load_balancer_package = "2.4"', "2.6", "ppa:vbernat/haproxy-3.0"],
    ),
    "a system without a package manager that is known": (
        {"answers": {"system": {"id": "alpine 3.20", "manager": "", "lacking": []}}},
        ['system = "alpine 3.20"', "neither apt nor dnf", "use Ubuntu 22.04"],
    ),
    "a system that the roles cannot install on": (
        {"answers": {"system": {"id": "amzn 2023", "manager": "dnf", "lacking": ["haproxy"]}}},
        ['system = "amzn 2023"', "no apt, by which haproxy", "use Ubuntu 22.04"],
    ),
    "no index of Python packages": (
        source("index", "unreachable", "timed out", "the index of Python packages", "https://pypi.org/simple/pip/"),
        ["index-url of pip", "does not answer (timed out)", "open the way out"],
    ),
    "a system's package that its archive has not": (
        source("archive", "missing", "HTTP 404", "the system's package podman", "http://archive.example.com/x.deb"),
        ["apt's sources", "podman: is not there (HTTP 404)", "apt-get update"],
    ),
    "a system's package that no source has": (
        source("offered", "missing", "in no list of its sources", "the system's package prometheus", "prometheus"),
        ["apt's sources = \"prometheus\"", "prometheus: is not there (in no list of its sources)", "universe"],
    ),
    "a system's volume that is full": (
        {"answers": {"rooms": {"/": {"free_bytes": 200 << 20, "device": 1}, "/var": {"free_bytes": GIB, "device": 2}}}},
        ['room = "/"', "has 200 MiB left", "apt-get clean"],
    ),
    "one full volume of the system and of the models": (
        {
            "answers": {
                "space": {"path": "/", "free_bytes": 1000, "have_bytes": 0, "device": 1},
                "rooms": {"/": {"free_bytes": 1000, "device": 1}},
            }
        },
        ["trainyard_data_dir", "0 GiB", "200"],
    ),
    "a client's source that is not there": (
        source("client", "missing", "HTTP 404", "LLMPerf's source", "https://git.example.com/x"),
        ["benchmark_llmperf_source", "LLMPerf's source: is not there", "name a mirror"],
    ),
    "a yum repository that has not the version": (
        source("rpms", "version", "aws-neuronx-dkms=2.27", "Neuron's packages"),
        ["neuron_venv_package_source", "does not have aws-neuronx-dkms=2.27"],
    ),
    "a gated model": (
        source("checkpoint", "gated", "GatedRepo", "meta/llama at 0123", HUB),
        ["meta/llama at 0123: is gated", "accept its licence at https://huggingface.co/meta/llama with"],
    ),
    "a token that may not read": (
        source("checkpoint", "refused", "HTTP 401", "meta/llama at 0123", HUB),
        ["HTTP 401", "set model_weights_hub_token"],
    ),
    "no such revision": (
        source("checkpoint", "missing", "RevisionNotFound", "meta/llama at 0123", HUB),
        ["is not there", "model.revision"],
    ),
    "packages that the repository has not": (
        source("packages", "version", "aws-neuronx-dkms=2.27", "Neuron's packages"),
        ["neuron_venv_package_source", "does not have aws-neuronx-dkms=2.27", "neuron_venv_package_suite"],
    ),
    "an image that is not there": (source("image", "missing"), ["trainyard_images", "digest"]),
    "a registry that wants a login": (source("image", "refused", "HTTP 401"), ["log the host in"]),
    "a checkpoint of no bucket": (source("bucket", "missing", "NoSuchBucket"), ["model.uri", "correct the uri"]),
    "a bucket that refuses": (source("bucket", "refused", "AccessDenied"), ["model.uri", "s3:ListBucket"]),
    "a bucket without credentials": (source("bucket", "credentials", "no role"), ["give the instance a role"]),
    "a store that refuses": (source("store", "refused", "AccessDenied"), ["model_compile_store", "s3:PutObject"]),
    "a store without credentials": (source("store", "credentials", "no role"), ["give the instance a role"]),
    "a store that is not there": (source("store", "missing", "NoSuchBucket"), ["NoSuchBucket", "make it"]),
    "a name that is not known": (source("page", "name", "no such name"), ["neuron_venv_pip_index", "name server"]),
    "a certificate that nobody knows": (source("page", "certificate", "self-signed"), ["authority", "self-signed"]),
    "no way out": (source("checkpoint", "unreachable", "timed out", url=HUB), ["does not answer", "security group"]),
    "no way to a replica": (
        source("port", "unreachable", "timed out", "replica m-0", "10.0.0.1:8000"),
        ["network", "10.0.0.1:8000", "replica m-0 is not reached", "security group"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_one_line_with_its_fix(trouble: str) -> None:
    change, words = TROUBLES[trouble]
    found = judge.judge(host(change))
    assert len(found) == 1, found
    line = str(found[0])
    assert "\n" not in line
    assert line.startswith("h1: ")
    assert found[0].fix
    for word in words:
        assert word in line


def test_a_host_that_is_not_reached_is_one_line_whatever_its_ports() -> None:
    rows = [
        source("port", "unreachable", "timed out", f"replica b:m-{port}", f"10.0.0.{port % 2}:{port}")
        for port in range(8000, 8004)
    ]
    found = judge.judge(host({"answers": {"sources": [row["answers"]["sources"][0] for row in rows]}}))
    assert [one.value for one in found] == ["10.0.0.0:8000", "10.0.0.1:8001"]


def test_every_trouble_of_a_host_is_told_at_once() -> None:
    change = {"time_s": 0.0, "python": "3.6.9", "ports": {"8080": "nginx (12)"}, "candidates": {"haproxy": "1:2.2.9-2"}}
    found = judge.judge(host({"answers": change}))
    assert [one.variable for one in found] == [
        "clock", "ansible_python_interpreter", "port", "load_balancer_package",
    ]  # fmt: skip


@pytest.mark.parametrize("who", ["vllm@m-0.service", "trainyard-probe.service", "haproxy.service"])
def test_a_port_of_the_fleet_s_own_units_is_free(who: str) -> None:
    assert judge.judge(host({"answers": {"ports": {"8000": who}}})) == []


def test_what_a_run_will_bring_is_no_trouble() -> None:
    bare = {
        "answers": {"packages": {}},
        "result": {"available": False, "reason": "x is not installed", "driver_version": ""},
    }
    assert judge.judge(host(bare)) == []
    # Storage of another kind that is mounted there is taken.
    elsewhere = {"count": 0, "bytes": 0, "refused": "", "mounted": "", "taken": True}
    assert judge.judge(host({"answers": {"disks": elsewhere}})) == []
    # It installs a kernel's headers before the driver, and loads a driver that is built for the kernel.
    bare["answers"]["headers"] = False
    assert judge.judge(host(bare)) == []
    unloaded = {
        "expect": {"verb": "site"},
        "result": {"available": False, "reason": "neuron-ls: no driver", "driver_version": ""},
        "answers": {"driver": {"loaded": False, "built": True, "holders": [], "replicas": []}},
    }
    assert judge.judge(host(unloaded)) == []
    used = {
        "expect": {"upgrades": True},
        "answers": {"packages": {}, "driver": {"holders": ["x (1)"], "replicas": ["vllm@m-0.service"]}},
    }
    assert judge.judge(host(used)) == []
    old = {**ROW["packages"], "aws-neuronx-dkms": "2.1.0"}
    assert judge.judge(host({"answers": {"packages": old}, "result": {"driver_version": "2.1.0"}})) == []
    # An upgrade reboots by itself, and who allows drift has said so.
    for allowed in ("upgrades", "allow_drift"):
        assert judge.judge(host({"expect": {allowed: True}, "result": {"driver_version": "2.1.0"}})) == []


def test_a_router_alone_is_asked_for_nothing_that_replicas_need() -> None:
    change = {"result": {"available": False, "reason": "no"}, "answers": {"disks": {"count": 0, "refused": ""}}}
    assert judge.judge(host(change, serves=False)) == []
    assert len(judge.judge(host(change))) == 2


def test_a_host_that_gives_no_answer_says_why_in_one_line() -> None:
    away = str(judge.unreached("h1", "Failed to connect:\n ssh: no route"))
    assert "h1: ansible_host" in away
    assert "Failed to connect: ssh: no route" in away
    assert "--limit, or trainyard_as_far_as_possible: true" in away
    assert "--ask-become-pass" in str(judge.unreached("h1", "sudo: a password is required", by_sudo=True))
    assert "ansible_python_interpreter" in str(judge.no_python("h1", "SyntaxError"))
