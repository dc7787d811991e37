# SPDX-License-Identifier: Apache-2.0
"""Engine arguments against the tables of upstream's own parsers: what the planner takes, the server takes.

The planner's table is made from the stand-in's (`lab/planner_flags.py`), which upstream's code wrote; the parsers that
judge here are built from the latter.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import flags
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import artifact_digest, artifact_inputs
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    OWNED_FLAGS,
    Deployment,
    parse_deployment,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import (
    DEMO_FLAGS,
    DEMO_SAMPLING_FLAGS,
    GPU_FLAGS,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    Placement,
    argument_problems,
    argument_warnings,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, find_release, sdk_table
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.traps import NATIVE_FLAGS

from lab import planner_flags
from lab.neuron_sim import sdk, vllm_options

#: One row for each vLLM that some release serves with.
ROWS = list({(row.vllm, row.generation): row for row in sdk_table() if row.venv is not None}.values())
TABLES = vllm_options.TABLES


def deployment(**engine_args: Any) -> Deployment:
    raw = {
        "name": "m",
        # Whether a repository's own programs may run is asked before, and is no matter of these tables.
        "model": {"repo": "meta-llama/Llama-3.3-70B-Instruct", "revision": "0" * 40, "trust": ["remote_code"]},
        "sdk_release": "2.27.0",
        "tensor_parallel_size": 32,
        "max_num_seqs": 4,
        "max_model_len": 4096,
        "port": 8000,
        "engine_args": engine_args,
    }
    found, problems = parse_deployment(raw, "trainyard_deployment_m")
    assert found is not None, problems
    return found


def problems_of(row: SdkRelease, **engine_args: Any) -> list[str]:
    return [str(problem) for problem in argument_problems(deployment(**engine_args), row, "m")]


def served(given: Deployment, row: SdkRelease) -> tuple[str, ...]:
    where = Placement("0-31", 32, 8000, "127.0.0.1")
    return render_serve(given, row, placement=where, weights_path="/w", artifact_path="/a", replica_name="m-0").argv


def compiled(given: Deployment, row: SdkRelease) -> tuple[str, ...]:
    return render_compile(given, row, weights_path="/w", artifact_path="/a", work_dir="/s", logical_nc_config=2).argv


def digest(given: Deployment, row: SdkRelease) -> str:
    return artifact_digest(artifact_inputs(given, row, 2, "trn2"))


def test_the_planners_table_is_made_from_the_tables_of_upstream() -> None:
    assert planner_flags.OUTPUT.read_text() == planner_flags.text(), "run python lab/planner_flags.py"


def test_every_flag_of_every_table_is_classified_once() -> None:
    says = flags.effects()
    assert not set(says["answers"]) & set(says["graphs"])
    assert set(says["answers"]) | set(says["graphs"]) == set(planner_flags.flags())
    for part in ("fields", "nxdi", "instead", "refused"):
        assert set(says[part]) <= set(planner_flags.flags()), part
    demo = says["inference_demo"]
    upstream = set()
    for path in TABLES.glob("inference_demo-*.json"):
        table = json.loads(path.read_text())
        upstream |= {flag for row in table["options"] + table["run"] for flag in row["flags"]}
    assert not set(demo["answers"]) & set(demo["graphs"])
    assert set(demo["answers"]) | set(demo["graphs"]) == upstream
    # Whatever the planner may say to the compiler is in the digest, so it has to be of the kind that belongs there.
    said = {known.flag for known in (*DEMO_FLAGS.values(), *DEMO_SAMPLING_FLAGS.values())}
    assert said <= set(demo["graphs"])


#: A value of each kind that is right and that a parser takes, and one that is not.
RIGHT: dict[str, Any] = {
    "either": True, "on": True, "said": True, "int": 3, "ints": [3, 4], "float": 0.5, "floats": [0.5], "count": "8k",
    "json": {"a": 1}, "text": "x", "texts": ["x=y", "z=w"], "each": ["x", "y"], "pairs": {"image": 4},
}  # fmt: skip
WRONG: dict[str, Any] = {
    "either": "yes", "on": 1, "said": "yes", "int": "four", "ints": ["a"], "float": "half", "floats": ["half"],
    "count": "many", "json": "{", "text": ["x"], "texts": [{"a": 1}], "each": [None], "pairs": "image",
}  # fmt: skip


def value_for(form: dict[str, Any]) -> Any:
    choices = form.get("choices")
    if not choices:
        return RIGHT[form["takes"]]
    many = form["takes"] in ("each", "ints", "floats", "texts")
    return [choices[-1]] if many else choices[-1]


def flag_cases() -> list[tuple[SdkRelease, str]]:
    says = flags.effects()
    skipped = {*OWNED_FLAGS, *says["refused"], *says["fields"], "device", "use-v2-block-manager", "quantization"}
    # Checked by rules of their own, against the other settings.
    skipped |= {"num-gpu-blocks-override", "enable-prefix-caching", "max-num-batched-tokens", "enable-auto-tool-choice"}
    skipped |= {
        "enable-reasoning",
        "ssl-certfile",
        "ssl-keyfile",
        "decode-context-parallel-size",
        "runner",
        *NATIVE_FLAGS,
    }
    skipped |= {"tool-call-parser", "reasoning-parser", "tool-parser-plugin", "reasoning-parser-plugin"}
    return [(row, name) for row in ROWS for name in flags.flags_of(row) if name not in skipped]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.vllm}")
def test_what_the_planner_takes_the_servers_parser_takes(row: SdkRelease) -> None:
    """Every flag of the row's table, with a value of its kind, is parsed; with another it is refused before."""
    version = sdk.version(row.vllm or "0.8.5")
    says = flags.effects()
    for name in (name for other, name in flag_cases() if other is row):
        form = dict(flags.flags_of(row)[name])
        given = deployment(**{name: value_for(form)})
        if row.generation == "native" or name not in says["nxdi"]:
            assert argument_problems(given, row, "m") == [], name
        argv = list(served(given, row))
        if "-m" in argv:
            vllm_options.api_server_parser(version).parse_args(argv[3:])
        else:
            vllm_options.serve_parser(version).parse_args(argv[2:])
        (wrong,) = problems_of(row, **{name: WRONG[form["takes"]]})
        assert f"m.engine_args.{name}" in wrong, wrong
        # Off is never an argument that the parser does not know.
        if form["takes"] in ("either", "on", "said"):
            argv = list(served(deployment(**{name: False}), row))
            parser = vllm_options.api_server_parser if "-m" in argv else vllm_options.serve_parser
            parser(version).parse_args(argv[3:] if "-m" in argv else argv[2:])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.vllm}")
def test_a_digest_differs_exactly_where_a_flag_may_change_a_graph(row: SdkRelease) -> None:
    """Natively the server compiles with its flags; before NxDI no flag of the server reaches the compiler."""
    bare, answers = deployment(), flags.answers_only()
    for name in (name for other, name in flag_cases() if other is row):
        given = deployment(**{name: value_for(dict(flags.flags_of(row)[name]))})
        changed = digest(given, row) != digest(bare, row)
        assert changed == (row.generation == "native" and name not in answers), name
        if row.generation != "native":
            assert compiled(given, row) == compiled(bare, row)
            told = argument_problems(given, row, "m") + argument_warnings(given, row, "m")
            assert bool(told) == (name not in answers or name in GPU_FLAGS), name


@pytest.mark.parametrize(
    ("release", "generation", "engine_args", "said"),
    [
        ("2.27.0", None, {"max-log-length": 5}, "did you mean 'max-log-len'?"),
        ("2.27.0", None, {"max-log": 5}, "max-log-len"),
        ("2.27.0", None, {"chat-temp": "/x"}, "chat-template"),
        ("2.32.0", None, {"disable-log-requests": True}, "set enable-log-requests: false"),
        ("2.32.0", None, {"enable-reasoning": True}, "set reasoning-parser alone"),
        ("2.32.0", None, {"sse-keep-alive-interval": 5}, "use SDK 2.33.0 with native"),
        ("2.23.0", None, {"shutdown-timeout": 5}, "(vLLM 0.21.0 to 0.29.0 has it)"),
        ("2.27.0", None, {"enable-auto-tool-choice": True}, "needs tool-call-parser beside it"),
        ("2.27.0", None, {"kv-cache-dtype": "fp8"}, "set quantization.kv_cache"),
        ("2.27.0", None, {"enable-lora": True, "lora-modules": ["a=/x"]}, "set lora"),
        ("2.32.0", None, {"enable-lora": True}, "set lora"),
        ("2.32.0", None, {"speculative-config": {"method": "eagle3"}}, "set speculation"),
        ("2.27.0", None, {"uvicorn-log-level": "loud"}, "must be one of"),
        ("2.27.0", None, {"seed": "many"}, "must be a whole number"),
        ("2.27.0", None, {"hf-token": "x"}, "is a secret"),
        ("2.27.0", None, {"pipeline-parallel-size": 2}, "is not there in any generation"),
    ],
)
def test_a_flag_that_the_server_would_end_at_is_refused_with_what_would_work(
    release: str, generation: str | None, engine_args: dict[str, Any], said: str
) -> None:
    found = problems_of(find_release(release, generation), **engine_args)
    assert any(said in problem for problem in found), found


def test_a_list_for_a_flag_that_takes_json_is_json_and_a_repeated_flag_is_repeated() -> None:
    row = find_release("2.27.0")
    argv = served(deployment(**{"allowed-origins": ["*"], "middleware": ["a.B", "c.D"]}), row)
    assert argv[argv.index("--allowed-origins") + 1] == '["*"]'
    assert [argv[at + 1] for at, part in enumerate(argv) if part == "--middleware"] == ["a.B", "c.D"]


def test_a_switch_that_the_compiler_would_decide_itself_is_told_off_and_counts() -> None:
    row = find_release("2.27.0")
    bare = deployment()
    off = replace(bare, neuron_config={"attn_kernel_enabled": False})
    assert "--no-attn-kernel-enabled" in compiled(off, row)
    assert digest(off, row) != digest(bare, row)
    # NxDI 0.3 has no way to say so.
    assert compiled(off, find_release("2.23.0")) == compiled(bare, find_release("2.23.0"))
    assert digest(off, find_release("2.23.0")) == digest(bare, find_release("2.23.0"))
