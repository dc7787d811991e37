# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import random
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import table_topology
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.host_parts import weights_id
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import (
    apart,
    deployment,
    host,
    plan,
    problems,
)

QWEN = {
    "model": {"repo": "Qwen/Qwen3-32B", "revision": "9216db5781bf21249d130ec9da846c4624c16137"},
    "sdk_release": "2.27.0",
    "tensor_parallel_size": 16,
    "max_num_seqs": 32,
    "max_model_len": 4096,
    "block_size": 32,
    "runtime": "container",
}


def qwen(**changes: Any) -> dict[str, Any]:
    return deployment("qwen3-32b", **{**QWEN, "data_parallel_size": "fill", **changes})


def replicas(found: dict[str, Any], name: str = "a") -> list[dict[str, Any]]:
    return list(found["hosts"][name]["replicas"])


def test_the_llama_recipe_gets_its_cores_and_ports() -> None:
    found = replicas(plan({"a": host(deployment("llama-3-3-70b"))}))
    assert [(r["name"], r["cores"], r["port"]) for r in found] == [
        ("llama-3-3-70b-0", "0-31", 8000),
        ("llama-3-3-70b-1", "32-63", 8001),
    ]
    assert [r["unit"] for r in found] == ["vllm@llama-3-3-70b-0.service", "vllm@llama-3-3-70b-1.service"]
    assert [r["environment"]["NEURON_RT_VISIBLE_CORES"] for r in found] == ["0-31", "32-63"]
    assert found[0]["artifact"] == found[1]["artifact"]


def test_qwen_fills_a_host_with_four_replicas_on_one_numa_node_each() -> None:
    found = replicas(plan({"a": host(qwen())}))
    assert [r["cores"] for r in found] == ["0-15", "16-31", "32-47", "48-63"]
    assert [r["numa_nodes"] for r in found] == [[1], [0], [0], [1]]
    assert [r["port"] for r in found] == [8000, 8001, 8002, 8003]
    assert [r["devices"] for r in found][1] == [4, 5, 6, 7]


def test_monitor_has_the_port_that_the_inventory_gives_and_no_replica_has_it() -> None:
    found = plan({"a": host(qwen(), trainyard_monitor_port=9400, ansible_host="10.0.0.1")})["hosts"]["a"]
    at = "http://10.0.0.1:%d/metrics"
    assert found["monitor"] == {
        "port": 9400,
        "url": at % 9400,
        "host_port": 9401,
        "host_url": at % 9401,
        "clients": [],
    }
    assert plan({"a": host(qwen())})["hosts"]["a"]["monitor"] is None
    with pytest.raises(PlanError, match="trainyard_monitor_port"):
        plan({"a": host(qwen(), trainyard_monitor_port=8002)})
    with pytest.raises(
        PlanError, match=r"8000 of .* is also that of the host's metrics \(trainyard_monitor_port \+ 1\)"
    ):
        plan({"a": host(qwen(), trainyard_monitor_port=7999)})


def test_a_lone_router_host_reaches_its_replicas_over_loopback() -> None:
    found = plan({"a": host(qwen())}, routers=["a"])
    assert {r["address"] for r in replicas(found)} == {"127.0.0.1"}
    assert "127.0.0.1" in replicas(found)[0]["argv"]
    spread = plan({"a": host(qwen()), "b": host(qwen(), ansible_host="10.0.0.2")}, routers=["a"])
    assert replicas(spread, "b")[0]["url"] == "http://10.0.0.2:8000"
    assert replicas(plan({"a": host(qwen())}, routers=["gateway"]))[0]["address"] == "10.0.0.1"
    # A load host reads the replicas' own counters; from another host it could not.
    own, other = (plan({"a": host(qwen())}, routers=["a"], clients=names) for names in (["a"], ["a", "load"]))
    assert (replicas(own)[0]["address"], replicas(other)[0]["address"]) == ("127.0.0.1", "10.0.0.1")


def test_the_load_comes_from_clients_that_serve_nothing_where_there_are_any() -> None:
    load = {"load_hosts": 2, "mean_input_tokens": 128}
    others = {
        name: {"ansible_host": f"10.0.0.{number}"} for number, name in enumerate(("load-1", "load-2", "load-3"), 7)
    }
    fleet = {"a": host(qwen(benchmark=load))}
    (found,) = plan(fleet, clients=["load-2", "a", "load-1"], other_variables=others)["benchmarks"]
    assert found["load_hosts"] == [
        {"name": "load-1", "address": "10.0.0.7"},
        {"name": "load-2", "address": "10.0.0.8"},
    ]
    assert (found["tokenizer_host"], found["hosts"]) == ("a", ["a"])  # the one that begins has no weights
    assert found["load"] == {"mean_input_tokens": 128}
    (alone,) = plan({"a": host(qwen())}, clients=["a"])["benchmarks"]
    assert [one["name"] for one in alone["load_hosts"]] == ["a"]
    assert alone["tokenizer_host"] == ""


def test_what_is_measured_says_of_each_replica_where_it_is() -> None:
    found = plan({name: host(deployment()) for name in ("a", "b")})
    (benchmark,) = found["benchmarks"]
    assert [(row["name"], row["host"]) for row in benchmark["replicas"]] == [
        ("llama-0", "a"),
        ("llama-1", "a"),
        ("llama-0", "b"),
        ("llama-1", "b"),
    ]


@pytest.mark.parametrize(
    ("wanted", "rule"), [(3, "the inventory group client has 2"), (0, "must be 1 to"), ("2", "must be a number")]
)
def test_a_load_of_more_hosts_than_there_are_is_refused(wanted: Any, rule: str) -> None:
    with pytest.raises(PlanError, match=r"benchmark.load_hosts") as caught:
        plan({"a": host(qwen(benchmark={"load_hosts": wanted}))}, clients=["a", "b"])
    assert rule in str(caught.value)


def spares(found: dict[str, Any], name: str = "a") -> list[tuple[str, str, int]]:
    return [(spare["name"], spare["cores"], spare["port"]) for spare in found["hosts"][name]["spares"]]


def test_a_spare_is_one_more_replica_on_cores_and_a_port_that_nobody_has() -> None:
    found = plan({"a": host(qwen(data_parallel_size=2)), "b": host(qwen(data_parallel_size=3))}, routers=["a"])
    # Of the slices that are left, the one on a single NUMA node, as for any replica.
    assert spares(found) == [("qwen3-32b-spare", "32-47", 8002)]
    assert spares(found, "b") == [("qwen3-32b-spare", "48-63", 8003)]
    spare = found["hosts"]["a"]["spares"][0]
    assert spare["unit"] == "vllm@qwen3-32b-spare.service"
    assert spare["environment"]["NEURON_RT_VISIBLE_CORES"] == "32-47"
    assert spare["release"] not in [replica["release"] for replica in replicas(found)]
    servers = found["router"]["models"][0]["servers"]
    assert [(server["id"], "spare" in server) for server in servers] == [
        ("a:qwen3-32b-0", False),
        ("a:qwen3-32b-1", False),
        ("b:qwen3-32b-0", False),
        ("b:qwen3-32b-1", False),
        ("b:qwen3-32b-2", False),
        ("a:qwen3-32b-spare", True),
        ("b:qwen3-32b-spare", True),
    ]
    assert [one["id"] for one in found["benchmarks"][0]["replicas"]] == [server["id"] for server in servers[:5]]


@pytest.mark.parametrize(
    "full",
    [
        host(qwen()),
        host(qwen(data_parallel_size=3), trainyard_reserved_cores="60-63"),
        host(qwen(data_parallel_size=3), trainyard_quarantined_devices=[15]),
        host(qwen(data_parallel_size=1, cores="0-15")),
    ],
    ids=["every slice is taken", "a reserved core", "a broken device", "pinned to its cores"],
)
def test_a_host_without_a_free_slice_has_no_spare(full: dict[str, Any]) -> None:
    assert spares(plan({"a": full})) == []


def test_a_spare_takes_the_next_port_that_is_free_with_its_agents() -> None:
    other = deployment(
        "other", tensor_parallel_size=16, data_parallel_size=1, port=8003, cores="48-63", sdk_release="2.27.0"
    )
    busy = host(qwen(data_parallel_size=2), other, trainyard_monitor_port=8004)
    assert spares(plan({"a": {**busy, "trainyard_router_metrics_port": 8002}})) == [("qwen3-32b-spare", "32-47", 8006)]


def test_a_spare_changes_nothing_about_the_others() -> None:
    """What a replica runs depends on its own slice: with room beside it and without, it is the same release."""
    few, many = (replicas(plan({"a": host(qwen(data_parallel_size=count))})) for count in (3, 4))
    assert many[:3] == few


def test_ipv6_addresses_make_valid_urls() -> None:
    found = replicas(plan({"a": host(qwen(), trainyard_address="fd00::1")}))
    assert found[0]["url"] == "http://[fd00::1]:8000"


def test_the_router_offers_every_model_with_all_its_servers() -> None:
    found = plan({"a": host(deployment()), "b": host(qwen())}, routers=["a"])
    assert {model["name"]: len(model["servers"]) for model in found["router"]["models"]} == {
        "Qwen/Qwen3-32B": 4,
        "meta-llama/Llama-3.3-70B-Instruct": 2,
    }
    assert found["router"]["models"][0]["servers"][0]["id"] == "b:qwen3-32b-0"


def test_one_artifact_serves_deployments_that_compile_alike_and_one_host_compiles_it() -> None:
    hosts = {name: host(deployment()) for name in ("a", "b")}
    hosts["c"] = host(deployment("twin", port=9100, data_parallel_size=1))
    artifacts = [a for name in hosts for a in plan(hosts)["hosts"][name]["artifacts"]]
    assert len({a["digest"] for a in artifacts}) == 1
    assert {a["compile_host"] for a in artifacts} == {"a"}


def test_compilations_are_spread_over_the_hosts() -> None:
    lengths = (1024, 2048, 4096, 8192)
    items = [
        deployment(
            f"d{length}", max_model_len=length, tensor_parallel_size=16, data_parallel_size=1, port=8000 + length
        )
        for length in lengths
    ]
    found = plan({name: host(*items) for name in ("a", "b")})
    elected = {a["digest"]: a["compile_host"] for a in found["hosts"]["a"]["artifacts"]}
    assert sorted(elected.values()) == ["a", "a", "b", "b"]
    assert elected == {a["digest"]: a["compile_host"] for a in found["hosts"]["b"]["artifacts"]}


def test_what_goes_from_host_to_host_begins_where_it_is_compiled() -> None:
    long = deployment("long", max_model_len=8192, port=9100, data_parallel_size=1)
    found = plan({name: host(deployment(data_parallel_size=1), long) for name in ("a", "b", "c", "d")})["hosts"]
    senders = {name: (entry["weights"][0]["sender"] or {}).get("host") for name, entry in found.items()}
    assert senders == {"a": None, "b": "a", "c": "a", "d": "b"}
    for name, entry in found.items():
        for artifact in entry["artifacts"]:
            assert (artifact["sender"] is None) == (artifact["compile_host"] == name)
    sender = found["b"]["weights"][0]["sender"]
    assert sender == {**sender, "path": found["a"]["weights"][0]["path"], "address": found["a"]["address"], "turn": 0}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_inventory_changes_nothing(seed: int) -> None:
    shuffle = random.Random(seed)  # noqa: S311 - an order, not a secret

    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        shuffle.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    small = deployment("small", tensor_parallel_size=8, data_parallel_size=1, port=8100)
    hosts = {"b": host(qwen()), "a": host(deployment(data_parallel_size=1), small)}
    assert json.dumps(plan(shuffled(hosts), routers=["a"])) == json.dumps(plan(hosts, routers=["a"]))


def test_adding_a_deployment_changes_no_other_replicas_release() -> None:
    one = plan({"a": host(deployment(data_parallel_size=1))})
    second = deployment("other", tensor_parallel_size=16, data_parallel_size=1, port=8100)
    two = plan({"a": host(deployment(data_parallel_size=1), second)})
    kept = {r["name"]: r["release"] for r in replicas(two)}
    assert kept["llama-0"] == replicas(one)[0]["release"]


@pytest.mark.parametrize(
    "change",
    [
        {"max_model_len": 4096},
        {"max_num_seqs": 8},
        {"environment": {"NEURON_RT_LOG_LEVEL": "INFO"}},
        {"engine_args": {"max-log-len": 10}},
        {"served_name": "llama"},
        {"sdk_release": "2.24.1"},
    ],
)
def test_whatever_a_running_replica_depends_on_changes_its_release(change: dict[str, Any]) -> None:
    before = replicas(plan({"a": host(deployment())}))
    after = replicas(plan({"a": host(deployment(**change))}))
    assert before[0]["release"] != after[0]["release"]


def test_a_key_and_another_key_are_two_releases() -> None:
    releases = {
        replicas(plan({"a": {**host(deployment()), **more}}))[0]["release"]
        for more in ({}, {"credentials": "aaaaaaaa"}, {"credentials": "bbbbbbbb"})
    }
    assert len(releases) == 3


def test_the_first_plan_of_a_bare_host_is_the_plan_of_the_installed_one() -> None:
    facts = {"online_cpus": "0-1", "cpu_count": 2, "memory_bytes": 1 << 34, "operating_system": "debian-12"}
    bare = plan({"a": host(deployment())}, topologies={"a": {"devices": [], **facts}})
    shape = {**table_topology("trn2.48xlarge").to_dict(), **facts, "source": "host"}
    installed = plan({"a": host(deployment())}, topologies={"a": shape})
    assert [r["cpus"] for r in replicas(bare)] == ["0", "1"]
    assert [r["release"] for r in replicas(bare)] == [r["release"] for r in replicas(installed)]
    assert installed["hosts"]["a"]["topology_source"] == "host"


def test_pinning_is_as_the_host_says() -> None:
    assert {r["cpus"] for r in replicas(plan({"a": host(qwen(), trainyard_cpu_pinning="none")}))} == {""}
    proxied = replicas(plan({"a": host(qwen(), trainyard_cpu_pinning="proxy")}))
    assert proxied[0]["proxy_cpus"] == "88-91,184-187"
    assert proxied[0]["environment"]["NEURON_RT_LOW_LATENCY_TASKS_CPU_AFFINITY"] == "88-91,184-187"


def test_overrides_come_last_and_reach_into_mappings() -> None:
    changed = {"llama": {"max_num_seqs": 8, "engine_args": {"max-log-len": 5}}}
    item = deployment(engine_args={"seed": 1})
    found = replicas(plan({"a": host(item, trainyard_overrides=changed)}))
    assert found[0]["max_num_seqs"] == 8
    assert "--seed" in found[0]["argv"]
    assert "--max-log-len" in found[0]["argv"]


def test_null_takes_a_groups_deployment_off_one_host() -> None:
    variables = host(qwen(data_parallel_size=1))
    variables["trainyard_deployment_llama"] = None
    assert [r["deployment"] for r in replicas(plan({"a": variables}))] == ["qwen3-32b"]


def test_paths_and_names_are_safe_and_tell_the_revision() -> None:
    found = plan({"a": host(deployment(), trainyard_data_dir="/mnt/x")})["hosts"]["a"]
    assert found["weights"][0]["path"].startswith("/mnt/x/weights/meta-llama/Llama-3.3-70B-Instruct/6f6073b")
    assert found["weights"][0]["id"] == "meta-llama-llama-3.3-70b-instruct-6f6073b42301"
    assert found["artifacts"][0]["path"] == "/mnt/x/artifacts/" + found["artifacts"][0]["digest"]
    assert weights_id(ModelRef("A/b_c", "path", "v1", "/x")) == "a-b-c-v1"


def test_a_host_that_serves_nothing_is_mentioned() -> None:
    found = plan({"a": host(deployment()), "b": host()}, routers=["b"])
    assert [(w["host"], "serves nothing" in w["rule"]) for w in found["warnings"]] == [("b", True)]
    assert found["hosts"]["b"]["replicas"] == []


# What works and surprises: variable, and a word of what is said.
TRAPS = [
    ({"neuron_config": {"on_device_sampling_config": {"do_sample": True, "top_k": 1}}}, "sampling", "one way"),
    ({"neuron_config": {"max_context_length": 4096}}, "max_context_length", "admitted and fail"),
    ({"neuron_config": {"context_encoding_buckets": [4096]}}, "context_encoding_buckets", "admitted and fail"),
    ({"engine_args": {"tokenizer": "meta-llama/Llama-3.3-70B-Instruct"}}, "tokenizer", "HTTP 429"),
    (
        {"benchmark": {"mean_input_tokens": 7936, "mean_output_tokens": 256, "stddev_output_tokens": 30}},
        "max_model_len",
        "8282 tokens",
    ),
    ({**QWEN, "max_num_seqs": 1}, "max_num_seqs", "wrongly"),
]


@pytest.mark.parametrize(("change", "variable", "said"), TRAPS)
def test_the_recipes_traps_are_warned_of(change: dict[str, Any], variable: str, said: str) -> None:
    found = plan({"a": host(deployment(**{"data_parallel_size": 1, **change}))})
    assert any(variable in w["variable"] and said in w["rule"] for w in found["warnings"]), found["warnings"]


def test_unknown_variables_that_resemble_nothing_are_only_mentioned() -> None:
    found = plan({"a": host(deployment(), trainyard_colour="red")})
    assert found["warnings"][0]["variable"] == "trainyard_colour"


def test_what_a_host_is_otherwise_than_expected_is_mentioned() -> None:
    shape = table_topology("trn2.48xlarge").to_dict()
    shape["devices"] = shape["devices"][:15]
    found = plan({"a": host(qwen())}, topologies={"a": shape})
    assert "15 devices" in found["warnings"][0]["rule"]
    assert len(replicas(found)) == 3


UNPINNED = {"sdk_release": "2.26.1", "generation": "nxdi_v0"}


def test_a_source_that_nobody_pinned_is_a_problem_before_any_host_is_touched() -> None:
    name = "aws-neuron/upstreaming-to-vllm@2.26.1"
    (problem,) = problems({"a": host(deployment(**UNPINNED))})
    assert problem.startswith('a: trainyard_deployment_llama.sdk_release = "2.26.1"')
    assert f"is built from {name}, and no commit of it is pinned" in problem
    assert "set neuron_venv_source_commits" in problem
    plan({"a": host(deployment(**UNPINNED), neuron_venv_source_commits={name: "0" * 40})})
    plan({"a": host(deployment(**UNPINNED), neuron_venv_pip_index="")})
    plan({"a": host(deployment(**UNPINNED, runtime="container"))})


def test_a_commit_that_is_none_is_refused() -> None:
    given = {"aws-neuron/upstreaming-to-vllm@2.26.1": "main"}
    found = problems({"a": host(deployment(**UNPINNED), neuron_venv_source_commits=given)})
    assert any("must be a commit: 40 hex digits" in problem for problem in found)


def test_replicas_leave_a_device_that_the_host_says_healing_took_out() -> None:
    """Nothing else changes: the same artifact, the same ports, and the others keep their releases."""
    one = {"a": host(qwen(tensor_parallel_size=8, data_parallel_size=4))}
    said = {**table_topology("trn2.48xlarge").to_dict(), "shunned_devices": [2, 40, "x"]}
    before, after = plan(one, topologies={"a": {**said, "shunned_devices": []}}), plan(one, topologies={"a": said})
    rows = [{row["name"]: row for row in found["hosts"]["a"]["replicas"]} for found in (before, after)]
    changed = [name for name in rows[0] if rows[0][name]["release"] != rows[1][name]["release"]]
    assert changed == ["qwen3-32b-1"]
    assert (rows[0]["qwen3-32b-1"]["cores"], rows[1]["qwen3-32b-1"]["cores"]) == ("8-15", "32-39")
    assert [rows[0][name]["port"] for name in rows[0]] == [rows[1][name]["port"] for name in rows[0]]
    assert before["hosts"]["a"]["artifacts"] == after["hosts"]["a"]["artifacts"]
    assert after["hosts"]["a"]["quarantined_devices"] == [2]


def test_replicas_that_have_no_other_slice_stay_and_are_named() -> None:
    said = {**table_topology("trn2.48xlarge").to_dict(), "shunned_devices": [2]}
    found = plan_fleet(apart({"a": host(qwen())}, topologies={"a": said}))
    assert any("no free slice for qwen3-32b-0" in warning.rule for warning in found.warnings)
    assert [row.cores for row in found.hosts["a"].replicas] == ["0-15", "16-31", "32-47", "48-63"]
