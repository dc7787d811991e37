# SPDX-License-Identifier: Apache-2.0
"""What a host is asked before a run: all that a later stage needs of it, from the plan and the roles' variables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.trainyard.neuron.plugins.module_utils.sdk import wanted_packages
from ansible_collections.trainyard.neuron.plugins.module_utils.venv import digest_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight import said
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.targets import DEVICES, HOSTS, ROUTERS

#: What the programs take where a variable names nothing.
PUBLIC_HUB = "https://huggingface.co"

#: Roles whose variables say where a host fetches from and what it runs; their defaults count where nobody sets one.
ROLES = (
    "neuron_venv",
    "model_weights",
    "model_compile",
    "container_engine",
    "load_balancer",
    "nvme_raid",
    "host_tools",
    "benchmark",
    "llmperf_patched",
    "monitoring",
)

#: Their variables that are read here, and ours beside them.
VARIABLES = (
    "neuron_venv_package_source",
    "neuron_venv_package_suite",
    "neuron_venv_pip_index",
    "neuron_venv_general_index",
    "neuron_venv_source_base",
    "neuron_venv_allow_drift",
    "model_weights_hub_endpoint",
    "model_weights_hub_token",
    "model_compile_store",
    "model_compile_store_endpoint",
    "load_balancer_package",
    "load_balancer_virtual_address",
    "load_balancer_virtual_interface",
    "load_balancer_affinity_header",
    "load_balancer_affinity_prefix_bytes",
    "load_balancer_tls",
    "load_balancer_certificate",
    "load_balancer_backend",
    "load_balancer_vllm_router_python",
    "load_balancer_vllm_router_environment",
    "nvme_raid_state",
    "nvme_raid_when_no_disks",
    "nvme_raid_name",
    "nvme_raid_filesystem",
    "nvme_raid_model",
    "nvme_raid_serial",
    "nvme_raid_disks",
    "nvme_raid_wipe",
    "trainyard_aws_environment",
    "host_tools_python",
    "host_tools_packages",
    "container_engine_name",
    "container_engine_packages",
    "benchmark_client",
    "benchmark_load",
    "benchmark_vllm_venv",
    "benchmark_home",
    "benchmark_python",
    "benchmark_llmperf_source",
    "benchmark_environment",
    "llmperf_patched_python",
    "monitoring_packages",
    "monitoring_address",
    "monitoring_port",
    "monitoring_alerts_port",
    "monitoring_users",
    "monitoring_thresholds",
    "monitoring_certificate",
    "monitoring_certificate_key",
)

#: Locked lists of Python packages, by what is made of them, below the directory of roles.
LOCKS = {
    "tools": "host_tools/files/tools-requirements.txt",
    "llmeter": "benchmark/files/llmeter-requirements.txt",
    "llmperf": "llmperf_patched/files/requirements.txt",
    "vllm-router": "load_balancer/files/vllm-router-requirements.txt",
}

#: The role whose variables, and the variable that has the digest of LLMPerf with our patches.
PATCHED = ("llmperf_patched/vars/main.yml", "__llmperf_patched_patched_digest")

#: Pythons that a host may have.
_PYTHONS = tuple(f"3.{minor}" for minor in range(9, 16))

#: Where a build finds packages of these names, by the words of the SDK table.
_ON_INDEX = {"neuronx-cc": "neuronx-cc", "nxdi": "neuronx-distributed-inference"}


def questions_of(
    name: str,
    host: Mapping[str, Any] | None,
    router: Mapping[str, Any] | None,
    urls: Sequence[str],
    variables: Mapping[str, Any],
    benchmarks: Sequence[Mapping[str, Any]] = (),
    locks: Mapping[str, str] | None = None,
    watches: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what one host is asked.

    Args:
        name: the host's inventory name.
        host: its part of the plan that was made before any host was asked; None where it serves nothing.
        router: its part as a router; None where it is none.
        urls: the routers' addresses, of a host that sends load; else none.
        variables: its values of `VARIABLES`.
        benchmarks: those in which it sends load, of the plan.
        locks: texts of `LOCKS`, and `patched`, the digest of LLMPerf with our patches; where those are at hand.
        watches: what its Prometheus will ask, in the form of file_sd; None where it runs none.

    Returns:
        `look`, which goes to the host, and `expect`, with which its answers are judged.
    """
    look: dict[str, Any] = {"sources": [], "ports": [], "candidates": [], "packages": {}, "system": [], "venvs": []}
    look["files"] = []
    expect: dict[str, Any] = {"ports": {}, "said": []}
    if host is not None:
        _serves(host, variables, look, expect)
        look["venvs"] += _venv("/opt/trainyard/tools", "tools", variables, "host_tools_python", locks or {})
    if router is not None:
        _routes(router, name, variables, look, expect, locks or {})
    if watches is not None:
        _watches(watches, name, variables, look, expect)
    for client in sorted({said.client_of(one, variables) for one in benchmarks}):
        _sends(client, variables, look, locks or {})
    expect["said"] += said.loads(benchmarks, variables)
    look["files"] += _files(benchmarks, variables, serves=host is not None)
    look["sources"] += [_way(url.partition("://")[2], "the router") for url in urls]
    look["sources"] += [*_counters(benchmarks, name)]
    # A host may be in several groups, and comes the same way for each.
    look["sources"] = list({json.dumps(one): one for one in look["sources"]}.values())
    look["ports"] = sorted(int(port) for port in expect["ports"])
    return {"look": look, "expect": expect}


def _serves(
    host: Mapping[str, Any], variables: Mapping[str, Any], look: dict[str, Any], expect: dict[str, Any]
) -> None:
    expect["sdk"] = host["sdk"]
    expect["memory"] = host["memory"]
    expect["data_dir"] = host["data_dir"]
    expect["package_source"] = variables.get("neuron_venv_package_source", "")
    expect["allow_drift"] = bool(variables.get("neuron_venv_allow_drift"))
    expect["when_no_disks"] = variables.get("nvme_raid_when_no_disks", "fail")
    expect["ports"] |= _ports(host)
    look["system"].append("nftables")  # what keeps strangers away from the replicas
    look["data_dir"] = host["data_dir"]
    look["environments"] = [row for row in host["sdk"] if row["runtime"] == "venv"]
    look["packages"] = wanted_packages(host["sdk"])
    look["package_source"] = expect["package_source"]
    look["pip_index"] = str(variables.get("neuron_venv_pip_index") or "")
    look["images"] = sorted({row["image"] for row in host["sdk"] if row["image"]})
    if look["images"]:
        engines = variables.get("container_engine_packages") or {}
        look["system"] += engines.get(variables.get("container_engine_name") or "", [])
    if variables.get("nvme_raid_state", "present") == "present":
        look["disks"] = {
            "mount": host["data_dir"],
            **{
                word: variables.get(f"nvme_raid_{word}", default)
                for word, default in (
                    ("name", "data"),
                    ("filesystem", "xfs"),
                    ("model", ""),
                    ("serial", ""),
                    ("disks", []),
                    ("wipe", []),
                )
            },
        }
    look["sources"] += [*_packages(host, variables), *_builds(host, variables), *_images(host)]
    look["sources"] += [*_weights(host, variables), *_store(host, variables)]


def _sends(client: str, variables: Mapping[str, Any], look: dict[str, Any], locks: Mapping[str, str]) -> None:
    home = str(variables.get("benchmark_home") or "/opt/trainyard/benchmark")
    environment = variables.get("benchmark_environment") or {}
    if client == "llmeter":
        look["venvs"] += _venv(f"{home}/llmeter", client, variables, "benchmark_python", locks, environment)
    if client != "llmperf":
        return
    look["venvs"] += _venv(f"{home}/llmperf/venv", client, variables, "llmperf_patched_python", locks, environment)
    source = str(variables.get("benchmark_llmperf_source") or "")
    if source.startswith(("http://", "https://")):
        tree = {"path": f"{home}/llmperf/src", "digest": locks.get("patched", "")}
        url = f"{source.rstrip('/')}/info/refs?service=git-upload-pack"
        look["sources"].append({"what": "LLMPerf's source", "kind": "client", "url": url, "unless_tree": tree})


def _venv(
    path: str,
    lock: str,
    variables: Mapping[str, Any],
    python: str,
    locks: Mapping[str, str],
    environment: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the question whether an environment is made, and can be, where its locked list is at hand."""
    if not locks.get(lock):
        return []
    name = path.rpartition("/")[2]
    return [
        {
            "path": path,
            "homes": {version: f"{name}-{digest_of(locks[lock], version)}" for version in _PYTHONS},
            "python": str(variables.get(python) or "/usr/bin/python3"),
            "packages": list(variables.get("host_tools_packages") or ["python3-venv"]),
            "index": str((environment or {}).get("PIP_INDEX_URL") or ""),
        }
    ]


def _ports(host: Mapping[str, Any]) -> dict[str, str]:
    """Return what will listen on each port of a serving host."""
    found = {}
    if host["monitor"]:
        found = {
            str(host["monitor"]["port"]): "the devices' metrics",
            str(host["monitor"]["host_port"]): "the host's metrics",
        }
    for replica in (*host["replicas"], *host["spares"]):
        found[str(replica["port"])] = f"replica {replica['name']}"
        if replica.get("agent_port"):
            found[str(replica["agent_port"])] = f"the agent of {replica['name']}"
    return found


def _packages(host: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the question about packages, whose repository the host finds by its own system."""
    source = str(variables.get("neuron_venv_package_source") or "")
    if not source or not host["sdk"]:
        return []
    suite, wanted = str(variables.get("neuron_venv_package_suite") or ""), wanted_packages(host["sdk"])
    return [{"what": "Neuron's packages", "kind": "packages", "url": source, "suite": suite, "packages": wanted}]


def _builds(host: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the questions about what builds an environment's vLLM, asked where that is to be built."""
    index = variables.get("neuron_venv_pip_index")
    found = []
    for row in host["sdk"]:
        source = row.get("source") or {}
        if not index or not source.get("needed"):
            continue
        built = {"unless_built": row}
        for word, package in _ON_INDEX.items():
            version = row["versions"].get(word)
            if version:
                url = f"{str(index).rstrip('/')}/{package}/"
                texts = [f"{package.replace('-', '_')}-{version}"]
                found.append({"what": package, "kind": "page", "url": url, "texts": texts, **built})
        base = str(variables.get("neuron_venv_source_base") or "https://github.com").rstrip("/")
        url = f"{base}/{source['repo']}/info/refs?service=git-upload-pack"
        found.append({"what": f"the source {source['repo']}", "kind": "page", "url": url, **built})
    return found


def _images(host: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the questions about images that have a digest; one with a tag alone is never pulled."""
    images = sorted({row["image"] for row in host["sdk"] if row["image"] and "@sha256:" in row["image"]})
    return [{"what": "the image", "kind": "image", "url": image, "unless_image": image} for image in images]


def _weights(host: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the questions about checkpoints that this host fetches itself."""
    endpoint = str(variables.get("model_weights_hub_endpoint") or PUBLIC_HUB).rstrip("/")
    found = []
    for row in host["weights"]:
        if row.get("sender"):
            continue
        if row["source"] != "huggingface":
            found.append(
                {
                    "what": f"{row['repo']} at {row['revision'][:12]}",
                    "kind": "bucket",
                    "url": str(row["uri"]),
                    "environment": variables.get("trainyard_aws_environment") or {},
                    "unless_file": f"{row['path']}/manifest.json",
                }
            )
            continue
        found.append(
            {
                "what": f"{row['repo']} at {row['revision'][:12]}",
                "kind": "checkpoint",
                "url": f"{endpoint}/{row['repo']}/resolve/{row['revision']}/config.json",
                "repo": row["repo"],
                "token": variables.get("model_weights_hub_token", ""),
                "unless_file": f"{row['path']}/manifest.json",
            }
        )
    return found


def _store(host: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the question about the store: all hosts of an artifact look there, and those that compile write."""
    store, artifacts = variables.get("model_compile_store"), host["artifacts"]
    if not store or not artifacts:
        return []
    return [
        {
            "what": "the store of compiled models",
            "kind": "store",
            "url": str(store),
            "endpoint": variables.get("model_compile_store_endpoint", ""),
            "environment": variables.get("trainyard_aws_environment") or {},
            "reads": f"{artifacts[0]['digest']}/manifest.json",
            "writes": any(row["compile_host"] == host["name"] for row in artifacts),
        }
    ]


def _routes(
    router: Mapping[str, Any],
    name: str,
    variables: Mapping[str, Any],
    look: dict[str, Any],
    expect: dict[str, Any],
    locks: Mapping[str, str],
) -> None:
    expect["ports"] |= {
        str(router["port"]): "the router",
        str(router["access"]["metrics_port"]): "the router's metrics",
    }
    package = str(variables.get("load_balancer_package") or "haproxy")
    look["candidates"] = [package]
    look["system"].append(package)
    expect["haproxy"] = package
    expect["said"] += said.router(variables)
    if variables.get("load_balancer_virtual_address"):
        look["system"].append("keepalived")
    if variables.get("load_balancer_backend") == "vllm_router":
        environment = variables.get("load_balancer_vllm_router_environment") or {}
        python = "load_balancer_vllm_router_python"
        look["venvs"] += _venv("/opt/trainyard/vllm-router", "vllm-router", variables, python, locks, environment)
    for model in router["models"]:
        for server in model["servers"]:
            if server["host"] == name or server.get("spare"):
                continue
            address = _bracketed(server["address"])
            look["sources"].append(_way(f"{address}:{server['port']}", f"replica {server['id']}"))
            if server.get("agent_port"):
                look["sources"].append(_way(f"{address}:{server['agent_port']}", f"replica {server['id']}'s agent"))


def _files(benchmarks: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], serves: bool) -> list[dict[str, str]]:
    """Return the files that a load needs on the host that begins it; an environment may come with what is served."""
    load = variables.get("benchmark_load") or {}
    found = {str((load or one["load"]).get("dataset") or ""): "benchmark.dataset" for one in benchmarks}
    venv = str(variables.get("benchmark_vllm_venv") or "")
    if venv and not serves and any(said.client_of(one, variables) == "vllm_bench" for one in benchmarks):
        found[f"{venv}/bin/python"] = "benchmark_vllm_venv"
    return [{"path": path, "variable": variable} for path, variable in sorted(found.items()) if path]


def _counters(benchmarks: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the ways to the replicas whose counters are compared with what was sent, from the host that begins."""
    return [
        _way(urlsplit(replica["url"]).netloc, f"replica {replica['host']}:{replica['name']}")
        for benchmark in benchmarks
        if benchmark["load_hosts"][0]["name"] == name
        for replica in benchmark["replicas"]
        if replica["host"] != name
    ]


def _watches(
    targets: Sequence[Mapping[str, Any]],
    name: str,
    variables: Mapping[str, Any],
    look: dict[str, Any],
    expect: dict[str, Any],
) -> None:
    look["system"] += variables.get("monitoring_packages") or []
    for word, what in (("monitoring_port", "Prometheus"), ("monitoring_alerts_port", "Alertmanager")):
        if variables.get(word):
            expect["ports"][str(variables[word])] = what
    expect["said"] += said.watch(variables)
    expect["watch"] = {
        "address": str(variables.get("monitoring_address") or "127.0.0.1"),
        "guarded": bool(variables.get("monitoring_users")) and _has_certificate(variables),
    }
    for row in targets:
        labels = row["labels"]
        if labels["host"] != name:
            what = f"replica {labels['host']}:{labels['replica']}" if "replica" in labels else _PAGES[labels["job"]]
            look["sources"] += [_way(address, what.format(**labels)) for address in row["targets"]]


def _has_certificate(variables: Mapping[str, Any]) -> bool:
    return bool(variables.get("monitoring_certificate") and variables.get("monitoring_certificate_key"))


#: What Prometheus reads beside the replicas' pages, by its job.
_PAGES = {
    DEVICES: "{host}: the page of its devices' metrics",
    HOSTS: "{host}: the page of its metrics",
    ROUTERS: "{host}: the page of its router's metrics",
}


def _way(url: str, what: str) -> dict[str, Any]:
    return {"what": what, "kind": "port", "url": url}


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
