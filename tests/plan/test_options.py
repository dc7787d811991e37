# SPDX-License-Identifier: Apache-2.0
"""Options of a model in one form: told to each generation in its words, or refused with what would work.

Whatever is compiled is judged by the parsers that upstream's own code wrote (`lab/neuron_sim/options`).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import artifact_digest, artifact_inputs
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.flags import answers_only
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    Placement,
    argument_problems,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_shape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.memory import deployment_fit
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, find_release
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import serve_flags
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lab.neuron_sim import inference_demo_options, sdk, vllm_options

A, B, C = "a" * 40, "b" * 40, "c" * 40
MODEL = {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40}
WEIGHTS = "/data/weights/meta-llama/Llama-3.1-8B-Instruct/" + "0" * 40
SQL = {"name": "sql", "repo": "acme/sql-lora", "revision": A}
CHAT = {"name": "chat", "repo": "acme/chat-lora", "revision": B}
LORA = {"max_loras": 2, "max_rank": 16, "adapters": [SQL]}
DRAFT = {"method": "draft", "model": {"repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": C}, "tokens": 7}
EAGLE = {"method": "eagle", "model": {"repo": "acme/EAGLE-LLaMA3.1-8B", "revision": C}, "tokens": 5}
EAGLE3 = {"method": "eagle3", "model": {"repo": "acme/EAGLE3-LLaMA3.1-8B", "revision": C}, "tokens": 3}
QUANTIZED = {"repo": "acme/llama-int8", "source": "path", "uri": "/srv/q", "revision": "v1"}

V0, V1, NATIVE = find_release("2.26.1", "nxdi_v0"), find_release("2.28.0"), find_release("2.32.0")
ROWS = {"nxdi_v0": V0, "nxdi_v1": V1, "native": NATIVE}


def deployment(**fields: Any) -> Deployment:
    raw = {
        "name": "m",
        "model": MODEL,
        "sdk_release": "2.28.0",
        "tensor_parallel_size": 8,
        "max_num_seqs": 4,
        "max_model_len": 4096,
        "port": 8000,
        **fields,
    }
    found, problems = parse_deployment(raw, "trainyard_deployment_m")
    assert found is not None, [str(problem) for problem in problems]
    return found


def compiled(wanted: Deployment, row: SdkRelease) -> tuple[tuple[str, ...], dict[str, str]]:
    made = render_compile(wanted, row, weights_path=WEIGHTS, artifact_path="/a", work_dir="/s", logical_nc_config=2)
    return made.argv, dict(made.environment)


def served(wanted: Deployment, row: SdkRelease) -> tuple[tuple[str, ...], dict[str, str]]:
    made = render_serve(
        wanted,
        row,
        placement=Placement("0-7", 8, 8000, "127.0.0.1"),
        weights_path=WEIGHTS,
        artifact_path="/a",
        replica_name="m-0",
    )
    return made.argv, dict(made.environment)


def digest(wanted: Deployment, row: SdkRelease) -> str:
    return artifact_digest(artifact_inputs(wanted, row, 2, "trn2"))


def refusals(wanted: Deployment, row: SdkRelease) -> list[str]:
    return [str(problem) for problem in argument_problems(wanted, row, "m")]


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def parsed(wanted: Deployment, row: SdkRelease) -> Any:
    """What upstream's parsers make of both commands; they exit where they would there."""
    argv, _environment = served(wanted, row)
    version = sdk.version(row.vllm or "0.8.5")
    if "-m" in argv:
        vllm_options.api_server_parser(version).parse_args(argv[3:])
    else:
        vllm_options.serve_parser(version).parse_args(argv[2:])
    if row.generation == "native":
        return None
    return inference_demo_options.build_parser(str(row.nxdi)).parse_args(compiled(wanted, row)[0][1:])


#: What each generation does: fields -> what its commands then hold, beside that upstream's parsers take them.
ACCEPTED: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("nxdi_v1", {"lora": LORA}, ["--enable-lora", "--max-loras 2", "--max-lora-rank 16", "--target-modules q_proj"],
     ["--enable-lora", "--max-loras 2", f"--lora-modules sql=/data/weights/acme/sql-lora/{A}"]),
    ("nxdi_v0", {"lora": LORA}, ["--enable-lora"], ["--lora-modules sql="]),
    ("nxdi_v1", {"lora": {**LORA, "dynamic": True, "adapters": []}}, ["--enable-dynamic-multi-lora"],
     ["--enable-lora"]),
    ("nxdi_v0", {"speculation": DRAFT},
     [f"--draft-model-path /data/weights/meta-llama/Llama-3.2-1B-Instruct/{C}", "--enable-fused-speculation",
      "--speculation-length 7"],
     ['"num_speculative_tokens": 7', f'"model": "/data/weights/meta-llama/Llama-3.2-1B-Instruct/{C}"',
      '"enable_fused_speculation": true']),
    ("nxdi_v1", {"speculation": EAGLE}, ["--enable-eagle-speculation", "--speculation-length 5"],
     ['"method": "eagle"']),
    ("nxdi_v1", {"speculation": EAGLE3}, ["--is-eagle3"], ['"method": "eagle3"']),
    ("native", {"speculation": EAGLE3}, ['"method": "eagle3"'], ['"num_speculative_tokens": 3']),
    ("nxdi_v1", {"quantization": {"weights": "int8", "checkpoint": QUANTIZED}},
     ["--quantized", "--quantization-dtype int8", "--quantization-type per_channel_symmetric",
      "--quantized-checkpoints-path /data/weights/acme/llama-int8/v1"], []),
    ("nxdi_v1", {"quantization": {"weights": "fp8", "checkpoint": QUANTIZED, "scheme": "per_tensor"}},
     ["--quantization-dtype f8e4m3", "--quantization-type per_tensor_symmetric"], []),
    ("nxdi_v1", {"quantization": {"kv_cache": "fp8"}}, ["--kv-cache-quant"], []),
    ("native", {"quantization": {"kv_cache": "fp8"}}, ["--kv-cache-dtype fp8"], ["--kv-cache-dtype fp8"]),
    ("nxdi_v1", {"buckets": {"prefill": [1024, 4096], "decode": [2048, 4096]}},
     ["--context-encoding-buckets 1024 4096", "--token-generation-buckets 2048 4096"], []),
    ("native", {"buckets": {"prefill": [2048], "segments": [2048], "decode": [1024], "sequences": [1, 4]}},
     ['"kv_segment_size_buckets": [2048]', '"num_seqs_buckets": [1, 4]'], ['"decode_context_length_buckets": [1024]']),
    ("native", {"buckets": {"prefill": [2048], "segments": [2048]}, "prefix_caching": True, "chunked_prefill": True},
     ["--enable-prefix-caching"], ["--enable-prefix-caching"]),
    ("native", {"buckets": {"prefill": [2048], "segments": [2048]}, "prefix_caching": False},
     ["--no-enable-prefix-caching"], ["--no-enable-prefix-caching"]),
    ("nxdi_v1", {"block_size": 32, "prefix_caching": True}, ["--enable-prefix-caching"], ["--enable-prefix-caching"]),
    ("native", {"structured_outputs": True}, ['"enable_structured_outputs": true'], []),
    ("nxdi_v1", {"tools": {"call_parser": "llama3_json"}}, [],
     ["--enable-auto-tool-choice", "--tool-call-parser llama3_json"]),
    ("nxdi_v0", {"tools": {"reasoning_parser": "deepseek_r1"}}, [], ["--reasoning-parser deepseek_r1"]),
    ("native", {"tools": {"chat_template": "/etc/t.jinja"}}, [], ["--chat-template /etc/t.jinja"]),
    ("nxdi_v1", {"aliases": ["llama", "l"]}, [], ["--served-model-name meta-llama/Llama-3.1-8B-Instruct llama l"]),
    ("native", {"served_name": ["llama", "l"]}, [], ["--served-model-name llama l"]),
    ("native", {"expert_parallel": 4, "model": {"repo": "Qwen/Qwen3-30B-A3B", "revision": A}},
     ["--enable-expert-parallel", '"ep_degree": 4'], ["--enable-expert-parallel"]),
    ("nxdi_v1", {"expert_parallel": 4, "model": {"repo": "Qwen/Qwen3-30B-A3B", "revision": A}},
     ["--moe-ep-degree 4", "--moe-tp-degree 2"], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("generation", "fields", "compiles", "serves"),
    ACCEPTED,
    ids=[f"{row[0]} {json.dumps(row[1])[:60]}" for row in ACCEPTED],
)
def test_an_option_is_told_to_its_generation_and_upstreams_parsers_take_it(
    generation: str, fields: dict[str, Any], compiles: list[str], serves: list[str]
) -> None:
    row, wanted = ROWS[generation], deployment(**fields)
    assert refusals(wanted, row) == []
    parsed(wanted, row)
    made, ran = (" ".join(rendered[0]) for rendered in (compiled(wanted, row), served(wanted, row)))
    assert [part for part in compiles if part not in made] == []
    assert [part for part in serves if part not in ran] == []
    assert "{model:" not in made + ran


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("native", {"lora": LORA}, "m.lora", "use nxdi_v1 with SDK 2.28.0 to 2.31.1"),
    ("native", {"speculation": DRAFT}, "m.speculation.method", "it has eagle3 from SDK 2.31; nxdi_v0 has draft"),
    ("nxdi_v1", {"speculation": DRAFT}, "m.speculation.method", "nxdi_v0 has draft"),
    ("nxdi_v0", {"speculation": EAGLE3}, "m.speculation.method", "native and nxdi_v1 have eagle3"),
    ("native", {"quantization": {"weights": "int8"}}, "m.quantization.weights", "nxdi_v1 with an SDK up to 2.31.1"),
    ("nxdi_v1", {"quantization": {"weights": "fp8"}}, "m.quantization.checkpoint", "make one with NxDI"),
    ("native", {"quantization": {"weights": "fp8", "modules_not_converted": ["lm_head"]}},
     "m.quantization.modules_not_converted", "the checkpoint's own quantization_config says"),
    ("nxdi_v1", {"quantization": {"kv_cache": "fp8", "modules_not_converted": ["lm_head"]}},
     "m.quantization.modules_not_converted", "set weights to int8 or fp8"),
    ("nxdi_v1", {"buckets": {"segments": [2048]}}, "m.buckets.segments", "it has prefill, decode, prefix"),
    ("native", {"buckets": {"prefix": [2048]}}, "m.buckets.prefix", "it has prefill, decode, sequences, segments"),
    ("native", {"prefix_caching": True}, "m.prefix_caching", "set buckets.segments"),
    ("nxdi_v1", {"prefix_caching": True}, "m.prefix_caching", "set block_size: 32"),
    ("nxdi_v1", {"prefix_caching": False, "block_size": 32}, "m.prefix_caching", "set block_size: null"),
    ("nxdi_v0", {"prefix_caching": True}, "m.prefix_caching", "use generation nxdi_v1"),
    ("nxdi_v1", {"chunked_prefill": True}, "m.chunked_prefill", "use generation native"),
    ("native", {"chunked_prefill": True}, "m.chunked_prefill", "set buckets.segments"),
    ("native", {"expert_parallel": 2}, "m.expert_parallel", "the model has no experts"),
    ("native", {"expert_parallel": 3}, "m.expert_parallel", "does not divide tensor_parallel_size (8)"),
    ("nxdi_v0", {"structured_outputs": True}, "m.structured_outputs", "use generation nxdi_v1 or native"),
    ("native", {"structured_outputs": True, "neuron_config": {"on_device_sampling_config": False}},
     "on_device_sampling_config", "structured outputs are sampled on the device"),
    ("nxdi_v1", {"lora": {"max_loras": 1, "adapters": [SQL, CHAT]}}, "m.lora.adapters", "raise max_loras"),
    ("nxdi_v1", {"lora": {"max_loras": 1}}, "m.lora.adapters", "name some, or set dynamic: true"),
    ("nxdi_v0", {"lora": {**LORA, "dynamic": True}}, "m.lora.dynamic", "use SDK 2.28.0 or later"),
    ("nxdi_v1", {"lora": LORA, "block_size": 32}, "m.block_size", "set it to null"),
    ("nxdi_v1", {"lora": LORA, "model": {"repo": "mistralai/Mixtral-8x7B-v0.1", "revision": A}}, "m.lora", "merged"),
    ("nxdi_v1", {"neuron_config": {"enable_lora": True}}, "m.neuron_config.enable_lora", "set lora"),
    ("nxdi_v1", {"neuron_config": {"speculation_length": 3}}, "m.neuron_config.speculation_length", "set speculation"),
    ("nxdi_v1", {"neuron_config": {"kv_cache_quant": True}, "quantization": {"kv_cache": "fp8"}},
     "m.neuron_config.kv_cache_quant", "is said by a field of the deployment as well"),
    ("nxdi_v1", {"engine_args": {"tool-call-parser": "x"}, "tools": {"call_parser": "y"}},
     "m.engine_args.tool-call-parser", "remove it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("generation", "fields", "variable", "said"), REFUSED, ids=[f"{row[0]} {row[2]} {row[3][:30]}" for row in REFUSED]
)
def test_an_option_that_a_generation_has_not_is_refused_with_what_would_work(
    generation: str, fields: dict[str, Any], variable: str, said: str
) -> None:
    found = refusals(deployment(**fields), ROWS[generation])
    assert any(variable in line and said in line for line in found), found


def test_the_plugin_that_says_it_serves_no_adapters_is_believed() -> None:
    assert any(
        "of SDK 2.27.1 serves no adapters" in line for line in refusals(deployment(lora=LORA), find_release("2.27.1"))
    )


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"lora": {"max_lora": 1}}, ".lora.max_lora", "did you mean 'max_loras'?"),
    ({"lora": []}, ".lora", "must be a mapping"),
    ({"lora": {"adapters": [{"name": "a b", "repo": "a/b", "revision": A}]}}, ".lora.adapters[0].name", "letters"),
    ({"lora": {"adapters": [{"name": "a", "repo": "a/b"}]}}, ".lora.adapters[0].revision", "must be given"),
    ({"lora": {"adapters": [SQL, SQL]}}, ".lora.adapters", "name of two adapters"),
    ({"speculation": {**DRAFT, "method": "medusa"}}, ".speculation.method", "must be one of draft, eagle, eagle3"),
    ({"speculation": {**DRAFT, "tokens": 0}}, ".speculation.tokens", "1 to 64"),
    ({"speculation": {"method": "draft", "tokens": 2}}, ".speculation.model", "must be given"),
    ({"speculation": {**DRAFT, "model": "a/b"}}, ".speculation.model", "must be a mapping"),
    ({"quantization": {"weights": "int4"}}, ".quantization.weights", "must be one of int8, fp8"),
    ({"quantization": {}}, ".quantization", "quantizes nothing"),
    (
        {"quantization": {"weights": "int8", "modules_not_converted": ["lm head"]}},
        "modules_not_converted",
        "a layer's name",
    ),
    ({"buckets": {"prefil": [1]}}, ".buckets.prefil", "did you mean 'prefill'?"),
    ({"buckets": {"prefill": [2, 1]}}, ".buckets.prefill", "must ascend"),
    ({"buckets": {"prefill": 1024}}, ".buckets.prefill", "must be a list"),
    ({"prefix_caching": "maybe"}, ".prefix_caching", "must be true or false"),
    ({"expert_parallel": 1}, ".expert_parallel", "2 to"),
    ({"tools": {"chat_template": "a\nb"}}, ".tools.chat_template", "path on the controller"),
    ({"tools": {"parser": "x"}}, ".tools.parser", "no field"),
    ({"aliases": "x"}, ".aliases", "must be a list"),
    ({"aliases": ["x", "x"]}, ".aliases", "has a name twice"),
    ({"served_name": []}, ".served_name", "must name something"),
    ({"served_name": "sql", "lora": LORA}, ".aliases", "name of two things"),
]


@pytest.mark.parametrize(("fields", "variable", "said"), BAD, ids=[f"{row[1]} {row[2][:30]}" for row in BAD])
def test_a_misspelt_or_impossible_option_is_refused(fields: dict[str, Any], variable: str, said: str) -> None:
    raw = {"name": "m", "model": MODEL, "sdk_release": "2.28.0", "tensor_parallel_size": 8, "max_num_seqs": 4}
    _none, problems = parse_deployment({**raw, "max_model_len": 4096, "port": 8000, **fields}, "trainyard_deployment_m")
    found = [str(problem) for problem in problems]
    assert any(variable in line and said in line for line in found), found


#: Whatever a deployment may ask for, in random company.
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "lora": st.fixed_dictionaries(
            {"max_loras": st.sampled_from([2, 3]), "max_rank": st.sampled_from([16, 32]), "dynamic": st.booleans()},
            optional={"adapters": st.sampled_from([[SQL], [SQL, CHAT], [CHAT]]), "max_cpu_loras": st.just(8),
                      "target_modules": st.just(["q_proj"])},
        ),
        "speculation": st.sampled_from([DRAFT, EAGLE, EAGLE3, {**DRAFT, "tokens": 3}]),
        "quantization": st.sampled_from(
            [{"kv_cache": "fp8"}, {"weights": "int8", "checkpoint": QUANTIZED},
             {"weights": "fp8", "checkpoint": QUANTIZED}]
        ),
        "buckets": st.sampled_from(
            [{"prefill": [2048, 4096]}, {"decode": [2048, 4096]}, {"prefill": [2048], "segments": [2048]}]
        ),
        "block_size": st.sampled_from([None, 32]),
        "max_num_seqs": st.sampled_from([2, 4]),
        "max_model_len": st.sampled_from([4096, 8192]),
        "dtype": st.sampled_from(["bfloat16", "float16"]),
        "structured_outputs": st.booleans(),
        "tools": st.sampled_from([{"call_parser": "hermes"}, {"chat_template": "/t"}]),
        "aliases": st.sampled_from([["x"], ["x", "y"]]),
        "data_parallel_size": st.sampled_from([1, 2]),
        "port": st.sampled_from([8000, 9000]),
        "environment": st.sampled_from([{"OMP_NUM_THREADS": "4"}, {"XLA_DENSE_GATHER_FACTOR": "1"}]),
        "engine_args": st.sampled_from([{"uvicorn-log-level": "warning"}, {"max-log-len": 5}]),
    },
)  # fmt: skip


def identity(wanted: Deployment, row: SdkRelease) -> Any:
    """What makes the graphs: the compiler's command and variables, or a server's flags without those that cannot."""
    argv, environment = compiled(wanted, row)
    variables = {name: text for name, text in environment.items() if name.startswith(("XLA_", "UNSAFE_", "DISABLE_"))}
    if row.generation != "native":
        return argv, variables
    flags = {name: text for name, text in serve_flags(wanted, row).items() if name not in answers_only()}
    return flags, variables


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
@given(FIELDS, FIELDS, st.sampled_from(sorted(ROWS)))
def test_a_digest_differs_exactly_where_the_graph_does(one: dict[str, Any], two: dict[str, Any], name: str) -> None:
    row, first, second = ROWS[name], deployment(**one), deployment(**{**one, **two})
    assume(not refusals(first, row) and not refusals(second, row))
    parsed(second, row)
    assert (digest(first, row) == digest(second, row)) == (identity(first, row) == identity(second, row))


def planned(**fields: Any) -> dict[str, Any]:
    raw = {"name": "m", "model": MODEL, "sdk_release": "2.28.0", "tensor_parallel_size": 8, "max_num_seqs": 4,
           "max_model_len": 4096, "port": 8000, **fields}  # fmt: skip
    host = {"ansible_host": "192.0.2.1", "trainyard_instance_type": "trn2.48xlarge", "trainyard_deployment_m": raw,
            "neuron_venv_pip_index": ""}  # fmt: skip
    return dict(plan_fleet({"hosts": {"h": host}, "routers": ["h"]}).to_dict())


def test_a_plan_carries_options_checkpoints_and_names_to_where_they_are_needed() -> None:
    plan = planned(lora=LORA, aliases=["llama"])
    host = plan["hosts"]["h"]
    replica, artifact = host["replicas"][0], host["artifacts"][0]
    assert replica["served_aliases"] == ["llama", "sql"]
    assert replica["options"]["lora"]["max_loras"] == 2
    assert artifact["options"]["lora"]["max_rank"] == 16
    assert [row["repo"] for row in host["weights"]] == ["acme/sql-lora", "meta-llama/Llama-3.1-8B-Instruct"]
    assert [row["path"] for row in replica["more_weights"]] == [f"/data/weights/acme/sql-lora/{A}"]
    assert "more_weights" not in artifact
    (model,) = plan["router"]["models"]
    assert (model["name"], model["aliases"]) == ("meta-llama/Llama-3.1-8B-Instruct", ["llama", "sql"])


#: Every option of a model that is a field of its own; `aliases` has the names after the first of `served_name` too.
OPTIONS = {
    "lora", "speculation", "quantization", "buckets", "prefix_caching", "chunked_prefill", "expert_parallel",
    "structured_outputs", "tools",
}  # fmt: skip


def assert_within(found: Any, given: Any) -> None:
    """What was given is there, beside what nobody said."""
    if isinstance(given, dict):
        for key, value in given.items():
            # Of a checkpoint that stands beside others, its name is a field of its own.
            holder = found["model"] if key not in found and "model" in found else found
            assert_within(holder[key], value)
    elif given and isinstance(given, list) and isinstance(given[0], dict):
        for one, wanted in zip(found, given, strict=True):
            assert_within(one, wanted)
    else:
        assert found == given


def test_the_command_prints_each_option_under_its_replica_and_its_artifact(tmp_path: Path) -> None:
    """`trainyard plan --json` of a fleet in which each host has another option."""
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    hosts: dict[str, dict[str, Any]] = {}
    for number, (generation, fields, _compile, _serve) in enumerate(ACCEPTED):
        raw = {"name": f"m{number}", "model": MODEL, "tensor_parallel_size": 8, "max_num_seqs": 4,
               "max_model_len": 4096, "port": 8000, "served_name": f"m{number}",
               "sdk_release": ROWS[generation].release, "generation": generation, **fields}  # fmt: skip
        if "aliases" in fields or isinstance(fields.get("served_name"), list):
            raw |= {"served_name": [f"m{number}", f"l{number}"], "aliases": [f"a{number}"]}
        if "speculation" in fields:
            raw["max_num_seqs"] = 1
        if fields.get("lora", {}).get("adapters"):
            raw["lora"] = {**fields["lora"], "adapters": [{**SQL, "name": f"sql{number}"}]}
        if "chat_template" in fields.get("tools", {}):
            raw["tools"] = {"chat_template": str(tmp_path / "t.jinja")}
        hosts[f"h{number:02}"] = {
            "ansible_host": f"10.0.0.{number + 1}", "trainyard_instance_type": "trn2.48xlarge",
            "neuron_venv_pip_index": "",
            f"trainyard_deployment_m{number}": raw,
        }  # fmt: skip
    inventory = {"all": {"children": {"neuron": {"hosts": hosts}, "router": {"hosts": {"h00": None}}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    argv = ["trainyard", "plan", "-i", str(tmp_path / "hosts.json"), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    for number, (_generation, fields, _compile, _serve) in enumerate(ACCEPTED):
        host, raw = plan["hosts"][f"h{number:02}"], hosts[f"h{number:02}"][f"trainyard_deployment_m{number}"]
        for part in (host["replicas"][0], host["artifacts"][0]):
            for name in set(fields) & OPTIONS:
                assert_within(part["options"][name], raw[name])
        if "aliases" in raw:
            assert host["replicas"][0]["options"]["aliases"] == [f"l{number}", f"a{number}"]
    assert {name for _generation, fields, *_ in ACCEPTED for name in fields} >= OPTIONS


def test_an_adapter_is_changed_without_a_compile_and_with_a_restart() -> None:
    one, other = planned(lora=LORA), planned(lora={**LORA, "adapters": [SQL, CHAT]})
    first, second = (plan["hosts"]["h"]["replicas"][0] for plan in (one, other))
    assert first["artifact"] == second["artifact"]
    assert first["release"] != second["release"]
    wider = planned(lora={**LORA, "max_rank": 64})["hosts"]["h"]["replicas"][0]
    assert wider["artifact"] != first["artifact"]


def test_a_draft_is_compiled_from_and_so_waited_for() -> None:
    plan = planned(sdk_release="2.26.1", speculation=DRAFT, max_num_seqs=1)
    (artifact,) = plan["hosts"]["h"]["artifacts"]
    assert [row["path"] for row in artifact["more_weights"]] == [f"/data/weights/meta-llama/Llama-3.2-1B-Instruct/{C}"]


def test_adapters_and_drafts_take_memory_and_quantized_numbers_less() -> None:
    def needed(row: SdkRelease, draft: Any = None, **fields: Any) -> Any:
        shape = known_shape("meta-llama/Llama-3.1-8B-Instruct")
        assert shape is not None
        return deployment_fit(deployment(**fields), row, shape, 24 << 30, draft)

    bare = needed(V1)
    # 16 x (q 8192 + k, v 2 x 5120 + o 8192 + 3 x 18432) x 32 layers x 4 bytes for each of three slots, on 8 cores.
    assert needed(V1, lora=LORA).adapters == 3 * 16 * (8192 + 2 * 5120 + 8192 + 3 * 18432) * 32 * 4 // 8
    draft = known_shape("meta-llama/Llama-3.2-1B-Instruct")
    assert needed(V0, draft, speculation=DRAFT).draft > 2 * 1_235_814_400 // 8
    int8 = needed(V1, quantization={"weights": "int8", "checkpoint": QUANTIZED})
    assert int8.weights == pytest.approx(bare.weights / 2, abs=2)
    assert needed(V1, quantization={"kv_cache": "fp8"}).kv_cache * 2 == bare.kv_cache
    assert needed(NATIVE, quantization={"kv_cache": "fp8"}).kv_cache * 2 == needed(NATIVE).kv_cache


def test_fp8_has_its_variables_when_it_compiles_and_when_it_serves() -> None:
    wanted = deployment(quantization={"weights": "fp8", "checkpoint": QUANTIZED})
    for environment in (compiled(wanted, V1)[1], served(wanted, V1)[1]):
        assert {name: environment[name] for name in ("XLA_HANDLE_SPECIAL_SCALAR", "UNSAFE_FP8FNCAST")} == {
            "XLA_HANDLE_SPECIAL_SCALAR": "1",
            "UNSAFE_FP8FNCAST": "1",
        }
        assert environment["DISABLE_NUMERIC_CC_TOKEN"] == "1"
    # By hand it is no secret either.
    deployment(environment={"DISABLE_NUMERIC_CC_TOKEN": "1"})


def test_layers_that_are_not_quantized_are_a_file_of_the_compilers_and_of_the_digest(tmp_path: Path) -> None:
    quantized = {"weights": "int8", "checkpoint": QUANTIZED}
    wanted = deployment(quantization={**quantized, "modules_not_converted": ["lm_head", "model.layers.0.mlp"]})
    assert refusals(wanted, V1) == []
    made = render_compile(
        wanted, V1, weights_path=WEIGHTS, artifact_path="/a", work_dir=str(tmp_path), logical_nc_config=2
    )
    ((path, content),) = made.files
    assert value(made.argv, "--modules-to-not-convert-file") == path == f"{tmp_path}/modules_to_not_convert.json"
    assert json.loads(content) == {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp"]}
    Path(path).write_text(content)
    inference_demo_options.build_parser(str(V1.nxdi)).parse_args(made.argv[1:])
    assert digest(wanted, V1) != digest(deployment(quantization=quantized), V1)
    plan = planned(quantization={**quantized, "modules_not_converted": ["lm_head"]})
    (artifact,) = plan["hosts"]["h"]["artifacts"]
    assert list(artifact["files"]) == [artifact["work_dir"] + "/modules_to_not_convert.json"]
    assert plan["hosts"]["h"]["replicas"][0]["compiled"]["modules_to_not_convert"] == ["lm_head"]


def test_one_name_means_one_thing_in_a_fleet() -> None:
    raw = {"model": MODEL, "sdk_release": "2.28.0", "tensor_parallel_size": 8, "max_num_seqs": 4, "max_model_len": 4096}
    host = {"ansible_host": "192.0.2.1", "trainyard_instance_type": "trn2.48xlarge"}
    with pytest.raises(PlanError) as refused:
        plan_fleet(
            {
                "hosts": {
                    "h": {
                        **host,
                        "trainyard_deployment_a": {**raw, "name": "a", "port": 8000, "aliases": ["x"]},
                        "trainyard_deployment_b": {**raw, "name": "b", "port": 8100},
                        "trainyard_deployment_c": {**raw, "name": "c", "port": 8200, "served_name": "x"},
                    }
                }
            }
        )
    found = "\n".join(refused.value.lines())
    assert "give both the same aliases and adapters" in found
    assert "is also the name of another model" in found


#: What the documentation warns of and a plan can see: (release, generation, fields) -> what is said.
TRAPS: list[tuple[str, str | None, dict[str, Any], str]] = [
    # Release notes of the runtime 2.34 (SDK 2.32).
    ("2.32.0", None, {"environment": {"NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "2"}}, "runtime 2.34 removed it"),
    # "quantization='mxfp4' is not supported on TRN2".
    ("2.32.0", None, {"neuron_config": {"quantization": "mxfp4"}}, "is not supported on TRN2"),
    # ep_degree without --enable-expert-parallel is a ValueError of the plugin.
    ("2.32.0", None, {"neuron_config": {"ep_degree": 2}}, "remove it, and set expert_parallel"),
    # Prefill and decode apart need a router that asks one and then the other.
    ("2.32.0", None, {"engine_args": {"kv-transfer-config": {"kv_role": "kv_producer"}}}, "split prefill from decode"),
    ("2.27.0", None, {"engine_args": {"kv-transfer-config": {"kv_role": "kv_producer"}}}, "split prefill from decode"),
    # "Qwen3-MoE only batch >= 16" (release notes of SDK 2.28).
    ("2.28.0", None, {"model": {"repo": "Qwen/Qwen3-30B-A3B", "revision": A}}, "is under 16"),
    # "turns async scheduling off with a warning" (the plugin's guide to speculation).
    ("2.32.0", None, {"speculation": EAGLE3}, "turns asynchronous scheduling off"),
    # Without scales in the checkpoint they are 1.0 (the plugin's guide to FP8 caches).
    ("2.32.0", None, {"quantization": {"kv_cache": "fp8"}}, "1.0 where it has none"),
]


@pytest.mark.parametrize(("release", "generation", "fields", "said"), TRAPS, ids=[row[3] for row in TRAPS])
def test_a_trap_of_the_documentation_is_refused_or_warned_of(
    release: str, generation: str | None, fields: dict[str, Any], said: str
) -> None:
    try:
        plan = planned(sdk_release=release, generation=generation, **fields)
    except PlanError as error:
        found = error.lines()
    else:
        found = [f"{one['variable']}: {one['rule']}" for one in plan["warnings"]]
    assert any(said in line for line in found), found
    try:
        bare = planned(sdk_release=release, generation=generation)["warnings"]
    except PlanError as error:
        raise AssertionError("the deployment without it is right") from error
    assert not any(said in one["rule"] for one in bare)


def test_what_is_fetched_beside_a_model_is_in_the_estimates_of_disk_and_of_a_load() -> None:
    def memory(**fields: Any) -> Any:
        return planned(**fields)["hosts"]["h"]["memory"]

    bare = memory()
    # The estimate of an adapter of rank 16: 16 x (8192 + 2 x 5120 + 8192 + 3 x 18432) x 32 layers x 4 bytes.
    each = 16 * (8192 + 2 * 5120 + 8192 + 3 * 18432) * 32 * 4
    two = memory(lora={**LORA, "adapters": [SQL, CHAT]})
    assert two["disk_bytes"] - bare["disk_bytes"] == 2 * each
    assert two["bytes_per_load"] - bare["bytes_per_load"] == 2 * 2 * each
    fields = {"sdk_release": "2.26.1", "generation": "nxdi_v0", "max_num_seqs": 1}
    guessed, plain = memory(**fields, speculation=DRAFT), memory(**fields)
    assert guessed["disk_bytes"] - plain["disk_bytes"] == 2 * 1_235_814_400
    int8 = memory(quantization={"weights": "int8", "checkpoint": QUANTIZED})
    assert int8["disk_bytes"] - bare["disk_bytes"] == 8_030_261_248
