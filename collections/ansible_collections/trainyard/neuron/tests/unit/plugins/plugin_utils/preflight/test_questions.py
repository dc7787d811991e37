# SPDX-License-Identifier: Apache-2.0
"""What a host is asked is what its part of the plan will need, and nothing that is on it or comes from elsewhere."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.venv import digest_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.questions import questions_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.targets import targets

IMAGE = "registry.example.com/neuron/image@sha256:" + "1" * 64
DEPLOYMENT: dict[str, Any] = {
    "name": "m",
    "model": {"repo": "Qwen/Qwen3-32B", "revision": "0" * 40},
    "sdk_release": "2.27.0",
    "generation": "nxdi_v1",
    "runtime": "container",
    "tensor_parallel_size": 32,
    "data_parallel_size": 1,
    "max_num_seqs": 4,
    "max_model_len": 4096,
    "port": 8000,
}
VALUES = {
    "neuron_venv_package_source": "https://apt.example.com/",
    "neuron_venv_package_suite": "jammy",
    "model_weights_hub_token": "hf_x",
    "model_compile_store": "s3://bucket/prefix",
    "load_balancer_package": "haproxy=3.0.*",
}


def plan(**change: Any) -> dict[str, Any]:
    deployment = {**DEPLOYMENT, **change}
    variables = {
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_deployment_m": deployment,
        "trainyard_monitor_port": 9400,
        "trainyard_images": {f"neuron/pytorch-inference-vllm-neuronx:{tag}": IMAGE for tag in _tags(deployment)},
    }
    hosts = {
        name: {**copy.deepcopy(variables), "ansible_host": f"10.0.0.{number}"} for number, name in enumerate("ab", 1)
    }
    given = {"hosts": hosts, "routers": ["gw"], "clients": ["load"]}
    given["other_variables"] = {"gw": {"ansible_host": "10.0.0.9"}, "load": {"ansible_host": "10.0.0.8"}}
    return dict(plan_fleet(given).to_dict())


def _tags(deployment: dict[str, Any]) -> list[str]:
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

    row = find_release(deployment["sdk_release"], deployment["generation"])
    return [row.container_tag] if row.container_tag else []


LOCKS = {"tools": "x==1", "llmeter": "y==1", "vllm-router": "v==1", "llmperf": "z==1", "patched": "f" * 64}


def asked(whole: dict[str, Any], name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    router = whole["router"]
    part = {**router, "access": router["access"][name]} if name in router["access"] else None
    urls = router["urls"] if name == "load" else []
    given = VALUES if values is None else values
    benchmarks = whole["benchmarks"] if name == "load" else []
    return questions_of(name, whole["hosts"].get(name), part, urls, given, benchmarks, LOCKS)


def kinds(found: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in found["look"]["sources"]]


def test_a_host_that_serves_is_asked_for_all_that_it_will_fetch_hold_and_listen_on() -> None:
    found = asked(plan(), "a")
    by_kind = {one["kind"]: one for one in found["look"]["sources"]}
    assert (by_kind["packages"]["url"], by_kind["packages"]["suite"]) == ("https://apt.example.com/", "jammy")
    assert "aws-neuronx-dkms" in by_kind["packages"]["packages"]
    assert by_kind["image"] == {"what": "the image", "kind": "image", "url": IMAGE, "unless_image": IMAGE}
    hub = by_kind["checkpoint"]
    assert hub["url"] == f"https://huggingface.co/Qwen/Qwen3-32B/resolve/{'0' * 40}/config.json"
    assert hub["token"] == "hf_x"
    assert hub["unless_file"].endswith("/manifest.json")
    assert by_kind["store"]["url"] == "s3://bucket/prefix"
    assert found["look"]["ports"] == [8000, 8001, 9000, 9001, 9400, 9401]
    assert found["expect"]["ports"]["9000"] == "the agent of m-0"
    assert found["look"]["disks"]["mount"] == found["look"]["data_dir"] == "/data"
    assert found["look"]["candidates"] == []
    assert found["expect"]["memory"]["disk_peak_bytes"] > 60 << 30


def test_what_goes_from_host_to_host_is_asked_of_the_hub_by_the_first_alone() -> None:
    whole = plan()
    assert ["checkpoint" in kinds(asked(whole, name)) for name in "ab"] == [True, False]
    stores = [one for name in "ab" for one in asked(whole, name)["look"]["sources"] if one["kind"] == "store"]
    assert [one["writes"] for one in stores] == [True, False], "all look there, one writes"
    assert {one["reads"] for one in stores} == {f"{whole['hosts']['a']['artifacts'][0]['digest']}/manifest.json"}


def test_checkpoints_of_buckets_and_directories_are_asked_for_as_those_of_the_hub() -> None:
    """The model's own, and an adapter that comes from elsewhere than the model."""
    adapter = {"name": "sql", "repo": "acme/sql", "source": "s3", "uri": "s3://models/sql", "revision": "v1"}
    keys = {"trainyard_aws_environment": {"AWS_REGION": "us-west-2"}}
    lora = {"max_loras": 1, "max_rank": 8, "adapters": [adapter]}
    (found,) = (
        one
        for one in asked(plan(sdk_release="2.28.0", lora=lora), "a", keys)["look"]["sources"]
        if one["kind"] == "bucket"
    )
    assert (found["what"], found["url"]) == ("acme/sql at v1", "s3://models/sql")
    assert found["environment"] == {"AWS_REGION": "us-west-2"}
    assert found["unless_file"].endswith("/manifest.json")
    model = {"repo": "Qwen/Qwen3-32B", "source": "path", "uri": "/srv/qwen", "revision": "v1"}
    rows = [asked(plan(model=model), name, {})["look"]["sources"] for name in "ab"]
    assert [[one["url"] for one in row if one["kind"] == "bucket"] for row in rows] == [["/srv/qwen"], []]


def test_what_is_not_set_is_not_asked_for() -> None:
    found = asked(plan(), "a", {})
    assert kinds(found) == ["image", "checkpoint"]
    assert asked(plan(), "a", {"nvme_raid_state": "absent"})["look"].get("disks") is None


def test_a_build_asks_index_and_source_where_nothing_was_built_yet() -> None:
    whole = plan(
        sdk_release="2.23.0",
        generation="nxdi_v0",
        runtime="venv",
        model={"repo": "meta-llama/Llama-3.3-70B-Instruct", "revision": "0" * 40},
        tensor_parallel_size=32,
    )
    assert [row["runtime"] for row in asked(whole, "a")["look"]["environments"]] == ["venv"]
    found = asked(whole, "a", {"neuron_venv_pip_index": "https://pip.example.com/simple/"})
    pages = [one for one in found["look"]["sources"] if one["kind"] == "page"]
    assert [one["url"].rpartition("/info")[0] or one["url"] for one in pages] == [
        "https://pip.example.com/simple/neuronx-cc/",
        "https://pip.example.com/simple/neuronx-distributed-inference/",
        "https://github.com/aws-neuron/upstreaming-to-vllm",
    ]
    assert pages[0]["texts"][0].startswith("neuronx_cc-2.")
    assert all(one["unless_built"]["release"] == "2.23.0" for one in pages)


def test_a_router_is_asked_for_haproxy_and_the_way_to_each_replica() -> None:
    found = asked(plan(), "gw")
    assert found["look"]["candidates"] == ["haproxy=3.0.*"]
    assert found["expect"]["haproxy"] == "haproxy=3.0.*"
    assert [(one["what"], one["url"]) for one in found["look"]["sources"]] == [
        ("replica a:m-0", "10.0.0.1:8000"),
        ("replica a:m-0's agent", "10.0.0.1:9000"),
        ("replica b:m-0", "10.0.0.2:8000"),
        ("replica b:m-0's agent", "10.0.0.2:9000"),
    ]
    assert set(found["look"]["ports"]) == {8080, 8405}
    assert "sdk" not in found["expect"]
    assert found["look"]["system"] == ["haproxy=3.0.*"]


def test_a_router_of_a_pair_or_with_a_chooser_is_asked_for_what_these_take() -> None:
    found = asked(plan(), "gw", {"load_balancer_virtual_address": "10.0.0.100/24"})["look"]
    assert found["system"] == ["haproxy", "keepalived"]
    assert found["venvs"] == []
    values = {"load_balancer_backend": "vllm_router", "load_balancer_vllm_router_python": "/opt/python3.11"}
    (chooser,) = asked(plan(), "gw", values)["look"]["venvs"]
    assert (chooser["path"], chooser["python"]) == ("/opt/trainyard/vllm-router", "/opt/python3.11")
    assert chooser["homes"]["3.11"] == f"vllm-router-{digest_of('v==1', '3.11')}"


def test_a_client_is_asked_for_the_way_to_the_router_and_to_the_counters_of_replicas() -> None:
    found = asked(plan(), "load")
    assert [(one["what"], one["url"]) for one in found["look"]["sources"]] == [
        ("the router", "10.0.0.9:8080"),
        ("replica a:m-0", "10.0.0.1:8000"),
        ("replica b:m-0", "10.0.0.2:8000"),
    ]


def test_of_hosts_that_send_together_the_first_reads_the_counters() -> None:
    whole = plan()
    first = {"name": "another", "address": "10.0.0.7"}
    benchmarks = [{**row, "load_hosts": [first, *row["load_hosts"]]} for row in whole["benchmarks"]]
    found = questions_of("load", None, None, whole["router"]["urls"], {}, benchmarks, LOCKS)["look"]
    assert [one["path"] for one in found["venvs"]] == ["/opt/trainyard/benchmark/llmperf/venv"], "the one that can"
    assert [one["what"] for one in found["sources"] if one["kind"] == "port"] == ["the router"]


def test_files_that_a_load_needs_are_asked_for_on_the_host_that_sends_it() -> None:
    values = {"benchmark_client": "vllm_bench", "benchmark_vllm_venv": "/opt/vllm"}
    values |= {"benchmark_load": {"dataset": "/srv/x.jsonl"}}
    assert asked(plan(), "load", values)["look"]["files"] == [
        {"path": "/opt/vllm/bin/python", "variable": "benchmark_vllm_venv"},
        {"path": "/srv/x.jsonl", "variable": "benchmark.dataset"},
    ]
    assert asked(plan(), "load")["look"]["files"] == []
    found = asked(plan(), "load", {"benchmark_client": "llmperf", "benchmark_load": {"turns": 2}})["expect"]["said"]
    assert [row[0] for row in found] == ["benchmark_client"]
    assert [row[0] for row in asked(plan(), "gw", {"load_balancer_tls": "given"})["expect"]["said"]] == [
        "load_balancer_certificate"
    ]
    bad = questions_of("mon", None, None, [], {"monitoring_thresholds": {"x": 1}}, watches=[])
    assert [row[0] for row in bad["expect"]["said"]] == ["monitoring_thresholds"]


WATCH = {"monitoring_packages": ["prometheus", "amtool"], "monitoring_port": 9090, "monitoring_alerts_port": 9093}


def test_a_host_that_watches_is_asked_for_its_programs_its_ports_and_the_way_to_all_that_they_read() -> None:
    """Its own exporters it asks over its loopback."""
    whole = plan()
    pages = targets(whole["hosts"], whole["router"]["access"], "b")
    found = questions_of("mon", None, None, [], WATCH, watches=pages)
    assert found["look"]["system"] == ["prometheus", "amtool"]
    assert found["look"]["ports"] == [9090, 9093]
    assert found["expect"]["ports"] == {"9090": "Prometheus", "9093": "Alertmanager"}
    assert found["expect"]["watch"] == {"address": "127.0.0.1", "guarded": False}
    assert "sdk" not in found["expect"]
    pages = targets(whole["hosts"], whole["router"]["access"], "b")
    found = questions_of("b", whole["hosts"]["b"], None, [], WATCH, watches=pages)
    assert [(one["what"], one["url"]) for one in found["look"]["sources"] if one["kind"] == "port"] == [
        ("replica a:m-0", "10.0.0.1:8000"),
        ("a: the page of its devices' metrics", "10.0.0.1:9400"),
        ("a: the page of its metrics", "10.0.0.1:9401"),
        ("gw: the page of its router's metrics", "10.0.0.9:8405"),
    ]
    values = {"monitoring_address": "10.0.0.7", "monitoring_users": {"me": "$2y$x"}, "monitoring_certificate": "x"}
    assert questions_of("mon", None, None, [], values, watches=[])["expect"]["watch"]["guarded"] is False
    values["monitoring_certificate_key"] = "y"
    found = questions_of("mon", None, None, [], values, watches=[])
    assert found["expect"]["watch"] == {"address": "10.0.0.7", "guarded": True}


def test_a_host_of_several_groups_goes_each_way_once() -> None:
    whole = plan()
    router = {**whole["router"], "access": whole["router"]["access"]["gw"]}
    found = questions_of("gw", None, router, [], WATCH, watches=targets(whole["hosts"], {}, "gw"))
    urls = [one["url"] for one in found["look"]["sources"]]
    assert sorted(urls) == sorted(set(urls))


def test_environments_that_roles_make_are_asked_for_by_the_names_that_they_will_have() -> None:
    (tools,) = asked(plan(), "a")["look"]["venvs"]
    assert tools["path"] == "/opt/trainyard/tools"
    assert tools["homes"]["3.10"] == f"tools-{digest_of('x==1', '3.10')}"
    assert asked(plan(), "gw")["look"]["venvs"] == []
    engine = {"container_engine_name": "podman", "container_engine_packages": {"podman": ["podman", "catatonit"]}}
    assert asked(plan(), "a", engine)["look"]["system"] == ["nftables", "podman", "catatonit"]
    assert asked(plan(), "gw")["look"]["system"] == ["haproxy=3.0.*"]


def test_a_load_host_is_asked_for_the_client_that_it_will_have() -> None:
    found = asked(plan(), "load")["look"]
    assert [one["path"] for one in found["venvs"]] == ["/opt/trainyard/benchmark/llmeter"]
    values = {
        "benchmark_client": "llmperf",
        "benchmark_llmperf_source": "https://git.example.com/llmperf.git",
        "benchmark_environment": {"PIP_INDEX_URL": "https://pip.example.com/simple"},
    }
    found = asked(plan(), "load", values)["look"]
    assert [one["index"] for one in found["venvs"]] == ["https://pip.example.com/simple"]
    (source,) = [one for one in found["sources"] if one["kind"] == "client"]
    assert source["url"] == "https://git.example.com/llmperf.git/info/refs?service=git-upload-pack"
    assert source["unless_tree"] == {"path": "/opt/trainyard/benchmark/llmperf/src", "digest": "f" * 64}
    assert asked(plan(), "load", {"benchmark_client": "vllm_bench"})["look"]["venvs"] == []
