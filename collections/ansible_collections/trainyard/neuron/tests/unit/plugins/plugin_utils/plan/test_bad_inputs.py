# SPDX-License-Identifier: Apache-2.0
"""Bad inputs and what is said of each: the variable, the rule it breaks, and often what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan import settings
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import BadValuesError, sentence
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import collect
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import VARIABLES
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import (
    deployment,
    host,
    plan,
    problems,
)

D = "trainyard_deployment_llama"

#: Changes of a deployment on a trn2.48xlarge -> variable (below the deployment), part of the message.
DEPLOYMENTS: list[tuple[dict[str, Any], str, str]] = [
    # names, which become units, files, directories and process tags
    ({"name": "Llama"}, ".name", "lower-case"),
    ({"name": "llama_x"}, ".name", "lower-case"),
    ({"name": "-llama"}, ".name", "lower-case"),
    ({"name": "llama;reboot"}, ".name", "lower-case"),
    ({"name": "llama%i"}, ".name", "lower-case"),
    ({"name": "../etc"}, ".name", "lower-case"),
    ({"name": "x" * 49}, ".name", "48 characters"),
    ({"name": 7}, ".name", "must be a string"),
    ({"name": "other"}, ".name", "variable's name"),
    # models
    ({"model": ...}, ".model", "must be given"),
    ({"model": "meta-llama/Llama-3.3-70B-Instruct"}, ".model", "must be a mapping"),
    ({"model": {"repo": "a b/c", "revision": "0" * 40}}, ".model.repo", "org/name"),
    ({"model": {"repo": "a/llama"}}, ".model.revision", "must be given"),
    ({"model": {"repo": "a/llama", "revision": "main"}}, ".model.revision", "full commit"),
    ({"model": {"repo": "a/llama", "revision": "0" * 40, "source": "hugingface"}}, ".model.source", "'huggingface'"),
    ({"model": {"repo": "a/llama", "revision": "0" * 40, "url": "x"}}, ".model.url", "no field"),
    ({"model": {"repo": "a/llama", "revision": "v1", "source": "s3", "uri": "/x"}}, ".model.uri", "s3://"),
    ({"model": {"repo": "a/llama", "revision": "v1", "source": "s3"}}, ".model.uri", "s3://"),
    ({"model": {"repo": "a/llama", "revision": "v1", "source": "path", "uri": "x"}}, ".model.uri", "absolute"),
    ({"model": {"repo": "a/llama", "revision": "0" * 40, "uri": "/x"}}, ".model.uri", "no meaning"),
    ({"model": {"repo": "a/mystery", "revision": "0" * 40}}, ".model.repo", "architecture"),
    ({"neuron_config": {"model_type": "bert"}}, ".neuron_config.model_type", "does not compile bert"),
    ({"model": {"repo": "Qwen/Qwen3-32B", "revision": "0" * 40}}, ".model.repo", "does not compile qwen3"),
    ({"served_name": "a b"}, ".served_name", "must be letters"),
    # numbers
    ({"tensor_parallel_size": ...}, ".tensor_parallel_size", "must be given"),
    ({"tensor_parallel_size": "32"}, ".tensor_parallel_size", "not a string"),
    ({"tensor_parallel_size": True}, ".tensor_parallel_size", "whole number"),
    ({"tensor_parallel_size": 0}, ".tensor_parallel_size", "1 to"),
    ({"tensor_parallel_size": 24}, ".tensor_parallel_size", "use 16 or 32"),
    ({"tensor_parallel_size": 128}, ".tensor_parallel_size", "use 64"),
    ({"data_parallel_size": 3}, ".data_parallel_size", "96 cores, the host has 64"),
    ({"data_parallel_size": 0}, ".data_parallel_size", "1 to"),
    ({"data_parallel_size": "fil"}, ".data_parallel_size", "did you mean 'fill'"),
    ({"data_parallel_size": 1.5}, ".data_parallel_size", "whole number"),
    ({"max_num_seqs": 0}, ".max_num_seqs", "1 to"),
    ({"max_num_seqs": None}, ".max_num_seqs", "whole number"),
    ({"max_model_len": -1}, ".max_model_len", "1 to"),
    ({"max_model_len": "8k"}, ".max_model_len", "whole number"),
    ({"dtype": "bf16"}, ".dtype", "must be one of"),
    ({"block_size": 0}, ".block_size", "1 to"),
    ({"port": 80}, ".port", "1024"),
    ({"port": 65535}, ".port", "64535"),
    # the SDK
    ({"sdk_release": 2.23}, ".sdk_release", "quote it"),
    ({"sdk_release": "latest"}, ".sdk_release", "version"),
    ({"sdk_release": "2.22.0"}, ".sdk_release", "use 2.23.0"),
    ({"generation": "nxdi"}, ".generation", "must be one of"),
    ({"generation": "native"}, ".generation", "does not serve in SDK 2.23.0"),
    ({"sdk_release": "2.28.0", "generation": "nxdi_v0"}, ".generation", "nxdi_v0"),
    ({"sdk_release": "2.32.0", "generation": "nxdi_v1"}, ".generation", "nxdi_v1"),
    ({"runtime": "docker"}, ".runtime", "must be one of"),
    ({"runtime": "container"}, ".runtime", "set runtime to venv"),
    # settings of the engine
    ({"tensor_paralel_size": 32}, ".tensor_paralel_size", "did you mean 'tensor_parallel_size'"),
    ({"replicas": 2}, ".replicas", "no field"),
    ({"neuron_config": []}, ".neuron_config", "must be a mapping"),
    ({"neuron_config": {1: 2}}, ".neuron_config", "quote the key 1"),
    ({"neuron_config": {"capacity_factor": float("nan")}}, ".neuron_config.capacity_factor", "finite number"),
    ({"neuron_config": {"a": {"b": [float("inf")]}}}, ".neuron_config.a", "finite number"),
    ({"neuron_config": {"pa_num_blocks": 10**400}}, ".neuron_config.pa_num_blocks", "below 2^53"),
    ({"neuron_config": {"a": {1: 2}}}, ".neuron_config.a", "strings as keys"),
    ({"neuron_config": {"seq_len": 4096}}, ".neuron_config.seq_len", "set max_model_len"),
    ({"neuron_config": {"tp_degree": 16}}, ".neuron_config.tp_degree", "set tensor_parallel_size"),
    ({"neuron_config": {"logical_nc_config": 1}}, ".neuron_config.logical_nc_config", "trainyard_logical_nc_config"),
    ({"neuron_config": {"max_batch_size": 8}}, ".neuron_config.max_batch_size", "max_num_seqs 4"),
    ({"neuron_config": {"cp_degree": 2}}, ".neuron_config.cp_degree", "NxDI 0.4"),
    ({"neuron_config": {"fused_qvk": True}}, ".neuron_config.fused_qvk", "did you mean 'fused_qkv'"),
    ({"neuron_config": {"on_device_sampling_config": 5}}, "on_device_sampling_config", "must be a mapping"),
    ({"engine_args": {"port": 1}}, ".engine_args.port", "set port"),
    ({"engine_args": {"--tensor-parallel-size": 4}}, "tensor-parallel-size", "set tensor_parallel_size"),
    ({"engine_args": {"api_key": "x"}}, ".engine_args.api_key", "router's keys"),
    # argparse takes any beginning of a flag, and underscores are dashes
    ({"engine_args": {"hos": "192.0.2.9"}}, ".engine_args.hos", "short for --host"),
    ({"engine_args": {"--hos": "192.0.2.9"}}, ".engine_args.--hos", "short for --host"),
    ({"engine_args": {"--host": "192.0.2.9"}}, ".engine_args.--host", "set trainyard_address"),
    ({"engine_args": {"api-ke": "x"}}, ".engine_args.api-ke", "short for --api-key"),
    ({"engine_args": {"api_ke": "x"}}, ".engine_args.api_ke", "short for --api-key"),
    ({"engine_args": {"tensor_parallel": 4}}, ".engine_args.tensor_parallel", "short for --tensor-parallel-size"),
    ({"engine_args": {"port=80": 1}}, ".engine_args.port=80", "no vLLM flag"),
    ({"engine_args": {"-host": "x"}}, ".engine_args.-host", "no vLLM flag"),
    ({"engine_args": {"no-port": True}}, ".engine_args.no-port", "set by the plan"),
    ({"engine_args": {"config": "/etc/x.yaml"}}, ".engine_args.config", "behind its back"),
    ({"engine_args": {"seed": "--host=192.0.2.9"}}, ".engine_args.seed", "a flag of its own"),
    ({"engine_args": {"allowed-origins": ["x", "--port", "1"]}}, ".engine_args.allowed-origins", "a flag of its own"),
    ({"engine_args": {"max-log-len": 1, "max_log_len": 2}}, ".engine_args.max_log_len", "is there twice"),
    # the load is what a benchmark would find hours later
    ({"benchmark": {"requests": "many"}}, ".benchmark.requests", "whole number"),
    ({"benchmark": {"requsts": 10}}, ".benchmark.requsts", "did you mean 'requests'"),
    ({"benchmark": {"concurrency": -4}}, ".benchmark.concurrency", "must be 0 to"),
    ({"benchmark": {"request_rate_per_s": float("inf")}}, ".benchmark.request_rate_per_s", "finite number"),
    ({"benchmark": {"sampling": {"temperature": float("nan")}}}, ".benchmark.sampling.temperature", "finite number"),
    ({"benchmark": {"preset": "qwen3-32"}}, ".benchmark.preset", "did you mean 'qwen3-32b'"),
    ({"benchmark": {"rounds": 2, "request_rate_per_s": 1}}, ".benchmark.rounds", "open loop"),
    ({"benchmark": [1]}, ".benchmark", "must be a mapping"),
    ({"engine_args": {"a b": 1}}, ".engine_args.a b", "no vLLM flag"),
    ({"environment": {"1X": "y"}}, ".environment.1X", "no environment variable"),
    ({"environment": {"NEURON_RT_VISIBLE_CORES": "0-31"}}, "NEURON_RT_VISIBLE_CORES", "set by the plan"),
    ({"environment": {"NEURON_COMPILED_ARTIFACTS": "/x"}}, "NEURON_COMPILED_ARTIFACTS", "by its digest"),
    ({"environment": {"HF_TOKEN": "hf_secret"}}, ".environment.HF_TOKEN", "looks like a secret"),
    ({"environment": {"X": "a\nb"}}, ".environment.X", "one line"),
    ({"environment": {"X": True}}, ".environment.X", "quote it"),
    ({"environment": "X=1"}, ".environment", "must be a mapping"),
    # pinned cores
    ({"cores": "0-47"}, ".cores", "needs 64"),
    ({"cores": "32-95"}, ".cores", "64-95 do not exist"),
    ({"cores": "16-47", "data_parallel_size": 1}, ".cores", "multiple of 32"),
    ({"cores": "0-15,32-47", "data_parallel_size": 1}, ".cores", "multiple of 32"),
    ({"cores": "zero"}, ".cores", "neither a number nor a range"),
    ({"cores": "0-40", "data_parallel_size": "fill"}, ".cores", "no multiple"),
]


@pytest.mark.parametrize(("change", "variable", "said"), DEPLOYMENTS, ids=[f"{row[1]} {row[2]}" for row in DEPLOYMENTS])
def test_a_bad_deployment_is_refused(change: dict[str, Any], variable: str, said: str) -> None:
    found = problems({"a": {**host(), D: deployment(**change)}})
    assert any(line.startswith(f"a: {D}.") and variable in line and said in line for line in found), found


SECRET = "sk-live-0123456789abcdef"

#: Settings that playbooks read later -> part of the message that the plan gives.
SETTINGS: list[tuple[str, Any, str]] = [
    ("trainyard_redeploy", {"batches": 5}, "trainyard_redeploy.batches = 5: must be a list"),
    ("trainyard_redeploy", {"batches": ["1", "0%", 2.5]}, 'batches[1] = "0%": must be 1 to 100%'),
    ("trainyard_redeploy", {"batches": ["²"]}, "batches[0]"),
    ("trainyard_redeploy", {"soak_s": float("inf")}, "soak_s = Infinity: must be a finite number"),
    ("trainyard_redeploy", {"at_onec": 2}, "did you mean 'at_once'"),
    ("trainyard_redeploy", {"strategy": ["auto"]}, "must be one of auto, rolling, blue_green"),
    ("trainyard_redeploy", {1: 2}, "is no field here"),
    ("trainyard_redeploy", [1], "must be a mapping"),
    ("trainyard_canary", {"ttft_ratio": float("nan")}, "ttft_ratio = NaN: must be a finite number"),
    ("trainyard_canary", {"chance": float("inf")}, "must be a finite number"),
    ("trainyard_canary", {"error_rate_margin": 5}, "error_rate_margin = 5: must be 0 to 1"),
    ("trainyard_canary", {"golden_share": 80}, "golden_share = 80: must be 0 to 1"),
    ("trainyard_canary", {"min_requests": 0}, "must be 1 to"),
    ("trainyard_canary_prompts", "The capital of France is", "must be a list"),
    ("trainyard_canary_prompts", [" "], "trainyard_canary_prompts[0]"),
    ("trainyard_redeploy_hooks", {"drain": ["a.yml"]}, "drain and undrain belong together"),
    ("trainyard_redeploy_hooks", {"befor": ["a.yml"]}, "did you mean 'before'"),
    ("trainyard_redeploy_hooks", {"before": "a.yml"}, 'before = "a.yml": must be a list'),
    ("load_balancer_keys", [{"name": "a", "sha256": SECRET}], 'sha256 = "(hidden)": must be the key\'s SHA-256'),
    ("load_balancer_keys", [{"name": "a", "key": SECRET}], "is no field here"),
    ("load_balancer_keys", SECRET, "must be a list"),
    ("load_balancer_keys", [SECRET], "must be a mapping"),
    ("load_balancer_keys", [{"name": "a b", "sha256": "0" * 64}], "must be letters, digits and"),
    ("load_balancer_keys", [{"name": "a", "sha256": "0" * 64, "requests_per_minute": -5}], "must be 0 to"),
    ("load_balancer_keys", [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}], "is there twice"),
    ("benchmark_objective", {"time_to_first_token_ms": float("inf")}, "must be a finite number"),
    ("benchmark_objective", {"percentile": 99}, "an objective needs a limit"),
    ("trainyard_capacity_block_end", "tomorrow", "must be an ISO time"),
    ("trainyard_aws_environment", {"AWS_SECRET_ACCESS_KEY": [SECRET]}, "must be text or a number"),
    ("trainyard_teardown_data", "maybe", "must be true or false"),
    ("trainyard_router_port", [1, 2], "trainyard_router_port = [1, 2]: must be a whole number"),
    ("trainyard_router_over", ["routers"], "must be one of replicas, routers"),
]


@pytest.mark.parametrize(("variable", "value", "said"), SETTINGS, ids=[f"{row[0]} {row[2]}" for row in SETTINGS])
@pytest.mark.parametrize("where", ["serves", "balances", "sends"])
def test_bad_settings_are_refused_in_the_plan_wherever_they_stand(
    variable: str, value: Any, said: str, where: str
) -> None:
    hosts = {"a": host(deployment())}
    others: dict[str, Any] = {"b": {variable: value}} if where != "serves" else {}
    if where == "serves":
        hosts["a"][variable] = value
    more: dict[str, Any] = {"balances": {"routers": ["b"]}, "sends": {"routers": ["a"], "clients": ["b"]}}.get(
        where, {"routers": ["a"]}
    )
    with pytest.raises(PlanError) as caught:
        plan_fleet(collect({**hosts, **others}, ["a"], more.get("routers", []), clients=more.get("clients", [])))
    found = caught.value.lines()
    assert any(variable in line and said in line for line in found), found
    assert SECRET not in " ".join(found)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": "4"}},
            "rope_scaling.factor is '4'",
        ),
        ({"num_key_value_heads": 6}, "no multiple of num_key_value_heads (6)"),
        ({"hidden_size": "8192"}, "hidden_size"),
        ({"max_position_embeddings": "131072"}, "max_position_embeddings"),
        ({"max_position_embeddings": float("nan")}, "max_position_embeddings"),
        ({"num_attention_heads": 10**12}, "num_attention_heads"),
        ({"torch_dtype": "auto"}, "dtype 'auto'"),
    ],
)
def test_a_config_json_that_is_none_is_told_and_estimates_nothing(config: Any, said: str) -> None:
    good = {
        "model_type": "llama",
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 128256,
    }
    given = deployment()
    key = "{repo}@{revision}".format(**given["model"])
    found = plan({"a": host(given)}, model_configs={key: {**good, **config}})["warnings"]
    (told,) = [warning["fix"] for warning in found if "config.json" in warning["fix"]]
    assert said in told
    assert not [
        one for one in plan({"a": host(given)}, model_configs={key: good})["warnings"] if "config" in one["fix"]
    ]


@pytest.mark.parametrize("config", ["text", [1, 2], 7])
def test_a_config_json_that_is_no_mapping_is_refused(config: Any) -> None:
    given = deployment()
    key = "{repo}@{revision}".format(**given["model"])
    with pytest.raises(PlanError, match=r"its config\.json is no mapping but"):
        plan({"a": host(given)}, model_configs={key: config})


OTHER = deployment("other", port=8100, tensor_parallel_size=16, data_parallel_size=1)

ANOTHER_MODEL = {"repo": "x/llama", "revision": "0" * 40}

#: Hosts -> part of the message that must come.
HOSTS: list[tuple[dict[str, Any], list[str]]] = [
    (host(deployment(), trainyard_instance_type="trn2.48xlarg"), ["trainyard_instance_type", "'trn2.48xlarge'"]),
    (host(deployment(), trainyard_instance_type="p5.48xlarge"), ["trainyard_instance_type", "must be one of"]),
    (host(deployment(), trainyard_instance_type=...), ["trainyard_instance_type", "must be given"]),
    (host(deployment(), trainyard_instance_type=48), ["trainyard_instance_type", "must be a string"]),
    (host(deployment(), trainyard_logical_nc_config=8), ["trainyard_logical_nc_config = 8", "size 1 and 2 only"]),
    (host(deployment(), trainyard_logical_nc_config="2"), ["trainyard_logical_nc_config", "not a string"]),
    (
        host(
            deployment(tensor_parallel_size=4), trainyard_instance_type="trn1.32xlarge", trainyard_logical_nc_config=2
        ),
        ["trainyard_logical_nc_config = 2", "trn1"],
    ),
    (host(deployment(tensor_parallel_size=4), trainyard_instance_type="trn1.32xlarge"), ["tensor_parallel_size = 4"]),
    (host(deployment(tensor_parallel_size=16), trainyard_instance_type="inf2.48xlarge"), ["use 8 or 24"]),
    (host(deployment(tensor_parallel_size=8), trainyard_instance_type="trn2.3xlarge"), ["4 cores runs 1, 2, 4"]),
    (
        host(deployment(tensor_parallel_size=8, sdk_release="2.32.0"), trainyard_instance_type="inf2.48xlarge"),
        ["native", "does not serve on inf2"],
    ),
    (
        host(deployment(tensor_parallel_size=8, sdk_release="2.30.0"), trainyard_instance_type="trn1.32xlarge"),
        ["nxdi_v1", "does not serve on trn1"],
    ),
    (host(deployment(), trainyard_reserved_cores="64-70"), ["trainyard_reserved_cores", "64-70 do not exist"]),
    (host(deployment(), trainyard_reserved_cores="x"), ["trainyard_reserved_cores", "neither a number nor a range"]),
    (host(deployment(), trainyard_reserved_cores="8-11"), ["data_parallel_size = 2", "reserved cores (8-11)"]),
    (host(deployment(), trainyard_quarantined_devices=[16]), ["trainyard_quarantined_devices", "16 do not exist"]),
    (host(deployment(), trainyard_quarantined_devices=[5]), ["quarantined devices (20-23)"]),
    (host(deployment(), trainyard_data_dir="data"), ["trainyard_data_dir", "absolute path"]),
    (host(deployment(), trainyard_data_dir="/da ta"), ["trainyard_data_dir", "absolute path"]),
    # Weights came for an hour, and their unit could not see the directory.
    (host(deployment(), trainyard_data_dir="/home/ubuntu/data"), ["trainyard_data_dir", "ProtectHome", "/data"]),
    (host(deployment(), trainyard_data_dir="/run/x"), ["trainyard_data_dir", "PrivateTmp"]),
    (host(deployment(), trainyard_data_dir="/root"), ["trainyard_data_dir", "not seen by the units"]),
    (host(deployment(), trainyard_address="a b"), ["trainyard_address", "address or a host name"]),
    (host(deployment(), trainyard_cpu_pinning="both"), ["trainyard_cpu_pinning", "numa, proxy, none"]),
    (host(deployment(), trainyard_reserved_core="1"), ["did you mean 'trainyard_reserved_cores'"]),
    (host(deployment(), trainyard_adress="x"), ["did you mean 'trainyard_address'"]),
    ({**host(), "trainyard_deploymnt_x": deployment()}, ["did you mean 'trainyard_deployment_<name>'"]),
    ({**host(), "trainyard_deployment_llama": "llama"}, ["must be a mapping"]),
    (host(deployment(), trainyard_overrides={"lama": {"port": 9000}}), ["no host has this", "did you mean 'llama'"]),
    (host(deployment(), trainyard_overrides={"llama": 7}), ["trainyard_overrides", "must map"]),
    (host(deployment(), trainyard_overrides={"llama": {"prot": 9000}}), ["did you mean 'port'"]),
    (host(deployment(), OTHER), ["trainyard_deployment_other.data_parallel_size", "would overlap llama (0-63)"]),
    (
        host(deployment(data_parallel_size=1, cores="0-31"), {**OTHER, "cores": "16-31"}),
        ["trainyard_deployment_other.cores", "overlaps llama (0-31)"],
    ),
    (host(deployment(data_parallel_size=1), {**OTHER, "port": 8000}), ["port 8000", "llama-0", "other-0"]),
    (host(deployment(), trainyard_monitor_port=8001), ["port 8001", "trainyard_monitor_port"]),
    (host(deployment(data_parallel_size=1), {**OTHER, "port": 9000}), ["port 9000", "agent of replica llama-0"]),
    (host(deployment(port=8080)), ["port 8080", "trainyard_router_port"]),
    (
        host(deployment(data_parallel_size=1), {**OTHER, "sdk_release": "2.24.1"}),
        ["one SDK release", "llama wants 2.23.0", "other wants 2.24.1"],
    ),
    (
        host(deployment(data_parallel_size="fill"), {**OTHER, "data_parallel_size": "fill"}),
        ["only one deployment of a host can fill it"],
    ),
    (
        host(
            deployment(data_parallel_size=1),
            {
                **OTHER,
                "served_name": "meta-llama/Llama-3.3-70B-Instruct",
                "model": {"repo": "x/llama", "revision": "0" * 40},
            },
        ),
        ["is also the name of another model"],
    ),
]


@pytest.mark.parametrize(("variables", "said"), HOSTS, ids=[" ".join(row[1]) for row in HOSTS])
def test_a_bad_host_is_refused(variables: dict[str, Any], said: list[str]) -> None:
    found = problems({"a": variables}, routers=["a"])
    assert any(all(word in line for word in said) for line in found), found


@pytest.mark.parametrize(
    ("operating_system", "said"),
    [("amazon-linux-2023", "C library"), ("ubuntu-24.04", "ubuntu-22.04"), ("rocky-9", "not tested")],
)
def test_a_system_that_the_release_does_not_support_is_refused(operating_system: str, said: str) -> None:
    report = {"devices": [], "operating_system": operating_system}
    found = problems({"a": host(deployment())}, topologies={"a": report})
    assert any("sdk_release" in line and said in line for line in found), found


def test_a_system_that_nobody_documented_is_only_mentioned() -> None:
    assert not problems({"a": host(deployment())}, topologies={"a": {"devices": [], "operating_system": "debian-12"}})


def test_a_report_that_cannot_be_read_is_refused() -> None:
    found = problems({"a": host(deployment())}, topologies={"a": [{"neuron_device": "zero"}]})
    assert "trainyard_topology" in found[0]


def test_routers_must_agree_on_their_port() -> None:
    hosts = {"a": host(deployment()), "b": host(trainyard_router_port=9090)}
    assert any("one port" in line and "9090" in line for line in problems(hosts, routers=["a", "b"]))


def test_no_host_is_an_answer_too() -> None:
    assert "no host to plan for" in problems({})[0]


def test_every_problem_of_every_host_is_told_at_once_and_shared_ones_once() -> None:
    bad = deployment(tensor_parallel_size=24, max_num_seqs=0, port=80)
    found = problems({name: host(bad) for name in ("a", "b", "c")})
    assert len(found) == 3
    assert all(line.startswith("a, b, c: ") for line in found)


def test_a_problem_of_a_thousand_hosts_names_a_few() -> None:
    found = problems({f"h{number:03d}": host(deployment(port=80)) for number in range(1000)})
    assert found[0].startswith("h000, h001, h002, h003 and 996 more hosts: ")


def test_secrets_are_not_repeated() -> None:
    assert "hf_secret" not in " ".join(problems({"a": host(deployment(environment={"HF_TOKEN": "hf_secret"}))}))


def test_there_are_at_least_sixty_bad_inputs() -> None:
    assert len(DEPLOYMENTS) + len(HOSTS) >= 60


@pytest.mark.parametrize("floor", [10**400, -(10**30), 10**6])
def test_a_floor_that_is_no_count_is_refused_and_not_taken_for_none(floor: int) -> None:
    _values, problems = settings.REDEPLOY.read({"floor": floor})
    assert [problem.variable.rpartition(".")[2] for problem in problems] == ["floor"]


def test_a_value_whose_aliases_multiply_is_told_at_once_and_cut() -> None:
    bomb: Any = ["x"] * 9
    for _ in range(40):
        bomb = [bomb] * 9
    for load in ({"requests": bomb}, {"sampling": bomb}, {"sampling": {"top_k": bomb}}):
        _values, problems = settings.LOAD.read(load)
        assert [len(str(problem)) < 500 for problem in problems] == [True]
        assert [len(sentence(problem)) < 500 for problem in problems] == [True]


@pytest.mark.parametrize("arn", [float("inf"), None, ["arn:aws:x"], "target-group", "arn:aws: x"])
def test_a_target_group_that_is_no_arn_is_refused(arn: Any) -> None:
    check = VARIABLES["trainyard_elb_target_groups"].check
    assert check({"llama": "arn:aws:elasticloadbalancing:us-east-2:1:targetgroup/a/1"})
    with pytest.raises(BadValuesError):
        check({"llama": arn})
