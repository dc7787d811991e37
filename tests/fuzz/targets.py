# SPDX-License-Identifier: Apache-2.0
"""Every parser of what users, hosts and programs write, and every schema of settings: inputs, exceptions, oracle."""

from __future__ import annotations

import datetime
import io
import json
import math
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict
from email.message import Message
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ansible_collections.trainyard.neuron.plugins.action import roll_plan
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, registry, sdk
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, counters, runner
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest, progress, store, trust
from ansible_collections.trainyard.neuron.plugins.module_utils.plan import settings
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Kind, Schema
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import parse_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    TopologyError,
    parse_topology,
    table_topology,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import journal, metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import haproxy
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import (
    agreement,
    exposition,
    fence,
    layout,
    phases,
    slices,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import settings as serving
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks
from ansible_collections.trainyard.neuron.plugins.plugin_utils import heal, history
from ansible_collections.trainyard.neuron.plugins.plugin_utils.aliases import values_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import calibration
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import deployment, pinned_images, variables
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import TooLargeError, collect, plain
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import TABLE_FILE, read_table
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.building import build
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Settings
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.report.runs import (
    REPLICAS,
    record,
    summary_of,
)
from jsonschema import Draft202012Validator

from tests.fuzz.engine import Target
from tests.fuzz.mutations import mutated, mutated_json, mutated_text
from trainyard.bundle import contents, install
from trainyard.nodes.settings import NODES, NodesError, nodes_of
from trainyard.report import analysis, render
from trainyard.settings_file import read_yaml
from trainyard.sweep import engine as sweep_engine
from trainyard.sweep import spec

SCRATCH = Path(tempfile.gettempdir())
#: Written down apart from the code that reads them.
SWITCH_WORDS = {"true", "yes", "on", "1", "false", "no", "off", "0"}


# What must not be accepted: judged apart from the code that accepts, by the published JSON Schema and by arithmetic.


def not_finite(value: Any) -> str:
    """Return where data has a number that is none, empty for nowhere."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not finite"
    if isinstance(value, Mapping):
        return next((told for item in value.values() if (told := not_finite(item))), "")
    if isinstance(value, (list, tuple)):
        return next((told for item in value if (told := not_finite(item))), "")
    return ""


def outside(schema: Schema) -> Callable[[Any, Any], str]:
    """Return an oracle: what a schema's reader took must be valid by its JSON Schema, and finite."""
    validator = Draft202012Validator(schema.to_json())

    def oracle(given: Any, _accepted: Any) -> str:
        if told := not_finite(given):
            return told
        without = {key: value for key, value in given.items() if value is not None or not schema.null_is_unset}
        # Ansible's words for true and false are read as such: `-e name=0` gives no other.
        read = {key: _switched(schema, key, value) for key, value in without.items()}
        error = next(validator.iter_errors(_arrays(read)), None)
        return "" if error is None else f"{list(error.path)}: {error.message:.200}"

    return oracle


def _switched(schema: Schema, name: str, value: Any) -> Any:
    spec = schema.fields.get(name)
    kind = spec.check if spec is not None and isinstance(spec.check, Kind) else None
    is_switch = kind is not None and kind.json.get("type") == "boolean" and isinstance(value, str)
    return value.lower() in ("true", "yes", "on", "1") if is_switch and value.lower() in SWITCH_WORDS else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _arrays(item) for key, item in value.items()}
    return [_arrays(item) for item in value] if isinstance(value, (list, tuple)) else value


def examples_of(schema: Schema) -> list[dict[str, Any]]:
    """Return valid dictionaries of a schema: all examples, what is required, each field alone."""
    required = {name: spec.example for name, spec in schema.fields.items() if spec.required}
    whole = {name: spec.example for name, spec in schema.fields.items() if spec.example is not None}
    return [whole, required, *({**required, name: example} for name, example in whole.items())]


# The plan.

LLAMA: dict[str, Any] = {
    "name": "llama",
    "model": {"repo": "meta-llama/Llama-3.3-70B-Instruct", "revision": "6f6073b423013f6a7d4d9f39144961bfbfbc386b"},
    "sdk_release": "2.23.0",
    "tensor_parallel_size": 32,
    "data_parallel_size": 2,
    "max_num_seqs": 4,
    "max_model_len": 8192,
    "port": 8000,
    "neuron_config": {
        "on_device_sampling_config": {"do_sample": True, "dynamic": True, "global_topk": 256},
        "fused_qkv": True,
        "context_encoding_buckets": [1024, 8192],
    },
    "engine_args": {"max-log-len": 100, "allowed-origins": ["*"], "seed": 1},
    "environment": {"NEURON_RT_EXEC_TIMEOUT": "600"},
    "benchmark": {"requests": 100, "concurrency": 8, "sampling": {"temperature": 0.7}},
}
QWEN: dict[str, Any] = {
    "name": "qwen",
    "model": {"repo": "Qwen/Qwen3-32B", "revision": "9216db5781bf21249d130ec9da846c4624c16137"},
    "sdk_release": "2.27.0",
    "runtime": "container",
    "tensor_parallel_size": 16,
    "data_parallel_size": "fill",
    "max_num_seqs": 32,
    "max_model_len": 4096,
    "block_size": 32,
    "port": 8100,
    "cores": "32-63",
}
NATIVE: dict[str, Any] = {
    **{key: LLAMA[key] for key in ("name", "model", "tensor_parallel_size", "max_num_seqs", "max_model_len", "port")},
    "sdk_release": "2.32.0",
    "neuron_config": {"num_batched_tokens_buckets": [8192], "num_seqs_buckets": [4]},
}
JUDGED = {name: spec.example for name, spec in variables.VARIABLES.items() if spec.example is not None}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}
CONFIGS: list[dict[str, Any]] = [
    CONFIG,
    {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    {**CONFIG, "model_type": "qwen3_moe", "num_experts": 128, "moe_intermediate_size": 768, "head_dim": 128},
    {**CONFIG, "model_type": "gpt_oss", "num_local_experts": 32, "quantization_config": {"quant_method": "mxfp4"}},
    {"model_type": "gemma3", "text_config": {**CONFIG, "model_type": "gemma3_text"}, "vision_config": {}},
    {**CONFIG, "model_type": "llama4", "num_local_experts": 16, "intermediate_size_mlp": 16384},
    {**CONFIG, "model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0}},
]


def fleet(*deployments: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = {"trainyard_deployment_" + item["name"]: item for item in deployments}
    host = {"trainyard_instance_type": "trn2.48xlarge", "ansible_host": "10.0.0.1", **named}
    return {
        "hosts": {"a": {**host, **more}, "b": {**host, "ansible_host": "10.0.0.2", **more}},
        "beside": {"gateway": {"ansible_host": "10.0.0.3", "trainyard_router_port": 8080}},
        "configs": {"{repo}@{revision}".format(**LLAMA["model"]): CONFIG},
        "reported": {"a": table_topology("trn2.48xlarge").to_dict()},
    }


FLEETS = [
    fleet(LLAMA),
    fleet(QWEN),
    fleet(NATIVE),
    fleet({**LLAMA, "data_parallel_size": 1}, {**QWEN, "sdk_release": "2.23.0", "runtime": "venv", "block_size": None}),
    fleet(LLAMA, **JUDGED),
    *(fleet(LLAMA, **{name: example}) for name, example in JUDGED.items()),
]


def run_plan(given: Any) -> Any:
    """Plan as `trainyard plan` does, from variables that were read."""
    hosts, beside = given["hosts"], given["beside"]
    if not all(isinstance(part, dict) for part in (hosts, beside, *hosts.values(), *beside.values())):
        raise TypeError("not an inventory: Ansible gives mappings")
    collected = collect({**beside, **hosts}, list(map(str, hosts)), [*list(map(str, beside))[:1], "a"])
    collected["model_configs"] = {key: plain(value) for key, value in given["configs"].items()}
    collected["topologies"].update({key: plain(value) for key, value in given["reported"].items()})
    return collected, plan_fleet(collected).to_dict()


def inventories(value: Any) -> bool:
    """Tell what has the outer form that Ansible gives: hosts with names and variables with names."""
    keys = ("hosts", "beside", "configs", "reported")
    if not isinstance(value, dict) or not all(isinstance(value.get(key), dict) for key in keys):
        return False
    hosts = {**value["hosts"], **value["beside"]}
    return "a" in hosts and all(
        isinstance(name, str) and isinstance(host, dict) and all(isinstance(key, str) for key in host)
        for name, host in hosts.items()
    )


_DEPLOYMENT = Draft202012Validator(deployment.DEPLOYMENT.to_json())
_VARIABLES = {
    name: Draft202012Validator(spec.check.json)
    for name, spec in variables.VARIABLES.items()
    if isinstance(spec.check, Kind)
}


def wrong_plan(_given: Any, accepted: Any) -> str:
    """Say what of a planned inventory must have been refused."""
    collected, planned = accepted
    json.dumps(planned, allow_nan=False)
    rows = [row for host in collected["hosts"].values() for row in host.items()]
    for name, value in rows:
        if name.startswith("trainyard_deployment_") and value is not None:
            told = wrong_deployment(value)
        else:
            told = wrong_variable(name, value)
        if told:
            return f"{name}: {told}"
    return ""


def wrong_deployment(fields: dict[str, Any]) -> str:
    """Say what of a planned deployment must have been refused."""
    load = {key: item for key, item in (fields.get("benchmark") or {}).items() if item is not None}
    error = next(_DEPLOYMENT.iter_errors({**fields, **({"benchmark": load} if load else {})}), None)
    if error is not None:
        return f"{list(error.path)}: {error.message:.200}"
    for flag in fields.get("engine_args") or {}:
        bare = flag.lstrip("-").replace("_", "-")
        if any(owned.startswith(bare) for owned in deployment.OWNED_FLAGS):
            return f"the flag {flag} is one of the plan's"
    return not_finite(fields)


def wrong_variable(name: str, value: Any) -> str:
    """Say what of a planned host's variable must have been refused."""
    # Keys are counted and judged where they are read; Ansible's words for true and false are text.
    if name not in _VARIABLES or name in ("load_balancer_keys", "trainyard_teardown_data"):
        return ""
    if told := not_finite(value):
        return told
    unset = {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
    if isinstance(unset, datetime.date):
        return ""
    error = next(_VARIABLES[name].iter_errors(unset), None)
    return "" if error is None else error.message[:200]


def run_config(given: Any) -> Any:
    """Read a config.json and work out all that is worked out of one."""
    shape = ModelShape.from_config(plain(given))
    found = [shape.parameters, shape.checkpoint_bytes, shape.weights_bytes()]
    for degree in (1, 24, 64, 4096):
        found += [shape.heads(degree).key_value, shape.kv_bytes_per_token(degree)]
    return found


# Settings.


def read_keys(given: Any) -> Any:
    """Read key rows; a problem is a refusal."""
    wrong = settings.key_problems(plain(given))
    if wrong:
        raise PlanError(wrong)
    return given


def wrong_keys(given: Any, _accepted: Any) -> str:
    error = next(Draft202012Validator(settings.KEYS.json).iter_errors(given), None)
    return "" if error is None else error.message[:200]


def run_load(given: Any) -> Any:
    """Fill in a load and make the clients' command lines of it."""
    load = runner.resolve_load(given, 8)
    for client in clients.CLIENTS.values():
        try:
            made = client("/opt/client", "/opt/client.py")
            made.check({**load, "urls": ["http://a"], "cluster": {}})
        except clients.ClientError:
            continue
    json.dumps(load, allow_nan=False)
    return load


def run_objective(given: Any) -> Any:
    values, problems = settings.OBJECTIVE.read(given)
    if problems:
        raise PlanError(problems)
    return Objective(**values)


def run_sweep(given: Any) -> Any:
    """Read a sweep, make its combinations, and search as it would be searched."""
    wanted = spec.Spec.from_dict(plain(given))
    found = spec.combinations(wanted)
    if wanted.search is not None:
        tried = []

        def keeps(rate: float) -> bool:
            tried.append(rate)
            return rate < math.sqrt(wanted.search.low_per_s * wanted.search.high_per_s)

        sweep_engine.highest_rate(keeps, wanted.search)
        assert len(tried) < 100000
    return found


BUNDLES = [
    {
        "version": 1,
        "models": {"weights/acme/tiny/a": "acme/tiny"},
        "deployments": {"tiny": "weights/acme/tiny/a"},
        "images": [f"public.ecr.aws/neuron/vllm@sha256:{'b' * 64}"],
        "files": [{"path": "weights/acme/tiny/a/config.json", "size": 2, "sha256": "0" * 64}],
    }
]


def run_bundle(text: str) -> Any:
    """Read a bundle's manifest, and say what its fleet is to take from it."""
    document = contents.parsed(text)
    return install.variables(document, Path("/mnt"), "registry.example")


NODE_FILES = [
    {"nodes": [{"name": "east-1", "runner": ["ssh", "runner@10.0.0.5", "ansible-runner"]}, {"name": "here"}]},
]
SWEEPS = [
    {
        "deployment": "llama",
        "grid": {"max_num_seqs": [1, 4], "tensor_parallel_size": [32, 64]},
        "load": {"requests": 10},
        "loads": [{"concurrency": 4}, {"request_rate_per_s": 2.5}],
        "objective": {"time_per_output_token_ms": 50},
        "search": {"low_per_s": 0.5, "high_per_s": 20, "tolerance": 0.05},
        "price_per_host_hour_usd": 22.5,
        "order": "random",
    },
    {"deployment": "llama", "points": [{"max_num_seqs": 4}], "loads": [{}]},
]


def run_yaml(text: str) -> Any:
    """Read a file of YAML as a sweep's is read."""
    path = SCRATCH / "trainyard-fuzz.yml"
    path.write_text(text, encoding="utf-8", errors="replace")
    return spec.Spec.from_dict(read_yaml(path))


YAMLS = [
    yaml.safe_dump(SWEEPS[0]),
    yaml.safe_dump(SWEEPS[1]),
    "deployment: llama\ngrid: &g {max_num_seqs: [1, 4]}\npoints: [{port: 8000}, {port: 8100}]\n",
    "a: &a [1, 2]\nb: [*a, *a]\n",
    "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else '1'}]\n" for n in range(10)),
    "x: &x\n  - *x\n",
]


# Runs and reports.

ROWS = [record(index) for index in range(6)] + [record(7, outcome="failed", http_status=503, error="busy", ttft_s=None)]
RUNS: list[dict[str, Any]] = []


def example_report() -> dict[str, Any]:
    if not RUNS:
        built = build(summary_of(6), ROWS[:6], provenance="simulated", replicas=REPLICAS)
        RUNS.append(json.loads(built.model_dump_json()))
    return RUNS[0]


def run_report(given: Any) -> Any:
    """Read a run's directory and write every form of report of it."""
    report, rows = given
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "repeat-0").mkdir()
        (run / "report.json").write_text(report, encoding="utf-8", errors="replace")
        (run / "repeat-0/requests.jsonl").write_text(rows, encoding="utf-8", errors="replace")
        measured = analysis.read([run, run])
        objective = Objective(time_to_first_token_ms=500)
        return [render.markdown(measured, objective), render.as_csv(measured), render.html(measured[:1], objective)]


# What programs of hosts print, and files of hosts.


def run_neuron_ls(given: Any) -> Any:
    value = plain(given)
    topology = parse_topology(value, "trn2.48xlarge")
    return [topology.to_dict(), topology.legal_tensor_parallel]


NEURON_LS = [
    [
        {
            "neuron_device": index,
            "bdf": "00:1e.0",
            "connected_to": [1 - index],
            "nc_count": 4,
            "logical_neuroncore_config": 2,
            "memory_size": 96 << 30,
            "neuroncore_ids": [4 * index + core for core in range(4)],
            "numa_node": "0",
            "cpu_affinity": "0-47,96-143",
            "neuron_processes": [{"pid": 7, "command": "vllm", "neuroncore_ids": [0, 1]}],
        }
        for index in range(2)
    ],
    table_topology("trn2.48xlarge").to_dict(),
    table_topology("inf2.xlarge").to_dict(),
]


def run_holders(text: str) -> Any:
    """Read who holds cores, from what neuron-ls printed."""
    done = mock.Mock(returncode=0, stdout=text.encode("utf-8", "replace"), stderr=b"")
    with mock.patch.object(slices.subprocess, "run", return_value=done), mock.patch.object(slices.time, "sleep"):
        return slices.holders(slices.read_devices("neuron-ls"), slices.parse_cores("0-3"), lambda _pid: {})


STATE = {
    "version": journal.VERSION,
    "number": 3,
    "holder": None,
    "replicas": {"llama-0": {"step": "drain", "admitted": True, "release": "abc", "at": 1.0}},
}
NOW = journal.Moment(boot="b", now_s=100.0)
HOLDER = journal.Holder.of(
    journal.Claim(
        **{name: {"int": 1, "float": 600.0}.get(str(kind), "x") for name, kind in journal.Claim.__annotations__.items()}
    ),
    3,
    NOW,
)

OLD_STATE = {
    "version": 1,
    "holder": {"run": "r", "owner": "me@here", "pid": 1, "verb": "redeploy", "since": 1e9, "expires": 1e9 + 60},
    "replicas": {},
}


def run_state(text: str) -> Any:
    found = journal.parse(text, NOW, 1e9)
    return [json.dumps(found.to_dict()), found.holder.left_s(NOW) if found.holder else None]


SERVING = {
    "name": "llama-0",
    "argv": ["/opt/vllm", "--port", "8000"],
    "url": "http://10.0.0.1:8000",
    "cores": "0-31",
    "served_name": "llama",
    "devices": [0, 1],
    "agent_port": 9000,
    "environment": {"X": "1"},
    "gate": {"prompt": "Hello", "max_tokens": 4, "timeout_s": 60},
    "probe": {},
}


def run_serving(text: str) -> Any:
    found = serving.parse(text)
    return [found.listens_on, found.scratch, found.argv, found.gate.timeout_s + 1, found.agent_port + 1]


MANIFEST = manifest.of_files([{"path": "a", "size": 1, "sha256": "0" * 64}], "artifact", "d", {"x": 1}, {"y": "z"})


def run_manifest(text: str) -> Any:
    found = manifest.parse(text, "m")
    return [manifest.quick_problems(SCRATCH, found), manifest.dump(found)]


HAPROXY_STATE = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change
3 replicas_llama 1 a:llama-0 10.0.0.1 2 0 100 100 77 6 3 4 6 0 0 0 8000 - 0 0 - - 0
3 replicas_llama 2 a:llama-1 10.0.0.1 2 8 50 100 77 6 3 4 6 0 0 0 8001 - 0 0 - - 0
"""
HAPROXY_CSV = """# pxname,svname,qcur,scur,stot,status,econ,eresp,wretr,hrsp_5xx,req_tot,last_chk,check_status
replicas_llama,a:llama-0,0,2,100,UP,0,0,0,1,100,L7OK,L7OK
replicas_llama,a:llama-1,1,0,7,DRAIN,0,0,0,0,7,,
"""
CONFIGURATION = "backend replicas_llama\n    server a:llama-0 10.0.0.1:8000 check\n    server a:llama-1 [::1]:8001\n"


def run_haproxy(given: Any) -> Any:
    states, stats = given

    class Spoken(haproxy.Router):
        def command(self, text: str) -> str:
            return states if "state" in text else stats

    router = Spoken("/run/haproxy.sock")
    return [router.servers(), router.counts(), haproxy.with_configured_ports(states, CONFIGURATION)]


def run_configuration(text: str) -> Any:
    return haproxy.with_configured_ports(HAPROXY_STATE, text)


LOG = """INFO 11-30 10:00:01 [core.py:1] Loading safetensors checkpoint shards: 50% Completed | 3/6 [00:01<00:01]
ERROR Unable to find precompiled artifacts in /data/artifacts/abc
2026-Nov-30 10:00:00.0000 1:1 ERROR  NRT:nrt_init  Neuron device 0 is in use
torch.OutOfMemoryError: failed to allocate 96.00 GiB
Compiler status PASS 100%|##########| 12/12
"""


def run_log(text: str) -> Any:
    lines, state = text.splitlines(), phases.Progress("")
    for line in lines:
        state = phases.follow(state, line)
        phases.compiles(line, "/data/artifacts/abc")
    return [state, phases.diagnose(lines), phases.diagnose(lines, served=True)]


METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:request_success_total{finished_reason="stop",model_name="m"} 7.0
vllm:prompt_tokens_total{model_name="m"} 70
vllm:generation_tokens_total{model_name="m"} 700
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 6.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 12.0
vllm:time_to_first_token_seconds_sum{model_name="m"} 1.5
vllm:time_to_first_token_seconds_count{model_name="m"} 12
process_start_time_seconds 1.7e9
"""


def run_metrics(text: str) -> Any:
    reading = metrics.read(text)
    again = metrics.Reading.from_dict(json.loads(json.dumps(reading.to_dict())))
    later = again.since(reading).plus(reading)
    found: list[Any] = [later.in_flight, reading.ttft.mean, reading.ttft.quantile(0.9), reading.ttft.squared_spread]
    found += [exposition.totals(text), metrics.answers_load(text)]
    try:
        found.append(counters.snapshot_of(text).as_dict())
    except counters.UnreachableError:
        found.append(None)
    return found


PACKAGES = """aws-neuronx-dkms installed hold 2.21.37.0
aws-neuronx-tools installed install 2.25.145.0-1
aws-neuronx-runtime-lib config-files deinstall 2.27.0
"""
RPMS = "aws-neuronx-dkms 2.21.37.0-dkms\npackage aws-neuronx-tools is not installed\n"


def run_packages(text: str) -> Any:
    names = ["aws-neuronx-dkms", "aws-neuronx-tools"]
    found = [kind().read(lambda _argv: (0, text, ""), names) for kind in (host_packages.Apt, host_packages.Dnf)]
    return [host_packages.changes(each, {"aws-neuronx-dkms": "2.21"}) for each in found]


SDK_RELEASES = {"releases": json.loads(TABLE_FILE.read_text(encoding="utf-8"))["releases"][4:6]}
LSBLK = {
    "blockdevices": [
        {
            "name": "nvme1n1",
            "path": "/dev/nvme1n1",
            "type": "disk",
            "size": 1900000000000,
            "model": "Amazon EC2 NVMe Instance Storage",
            "serial": "AWS1",
            "fstype": None,
            "mountpoints": [None],
            "children": [],
            "ro": False,
        }
    ]
}


def run_lsblk(text: str) -> Any:
    def run(argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "lsblk":
            return 0, text, ""
        return (0, '{"signatures": []}', "") if argv[0] == "wipefs" else (2, "", "")

    with mock.patch.object(disks, "busy", return_value=False):
        return [str(disk) for disk in disks.candidates(run, ".*Instance Storage")]


EXPORT = "MD_LEVEL=raid0\nMD_DEVICES=4\nMD_NAME=any:data\nMD_UUID=1:2:3:4\nTYPE=ext4\nUSAGE=filesystem\nLABEL=data\n"


def run_export(text: str) -> Any:
    run = lambda _argv: (0, text, "")  # noqa: E731
    return [disks.member_of(run, "/dev/x"), disks.filesystem(run, "/dev/x")]


PROGRESS = {"phase": "copy", "bytes_done": 5, "bytes_total": 10, "bytes_per_s": 2, "state": "running"}


def run_progress(text: str) -> Any:
    path = SCRATCH / "trainyard-fuzz.json"
    path.write_text(text, encoding="utf-8", errors="replace")
    return [progress.describe(progress.read(path)), sdk.read_note(path), layout.entry_of(path)]


LOCK = store.lock_text("me")


def run_ranges(text: str) -> Any:
    return [parse_ranges(text), slices.parse_cores(text)]


NEURON_CONFIG = {"neuron_config": {"tp_degree": 32, "seq_len": 8192, "max_batch_size": 4, "logical_nc_config": 2}}
ARGV = ["vllm", "--tensor-parallel-size", "32", "--max-model-len", "8192", "--max-num-seqs=4", "--block-size", "32"]


def run_agreement(text: str) -> Any:
    made = json.loads(text)
    if not isinstance(made, dict):
        raise ValueError("its reader takes none but a mapping")
    return agreement.disagreements(ARGV, {"NEURON_LOGICAL_NC_CONFIG": "2"}, made)


KEYS_FILE = """ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ user@host
restrict,command="/usr/bin/python3 -m send",expiry-time="202611301200" ssh-ed25519 AAAA trainyard job peer
"""


def run_authorized(text: str) -> Any:
    return trust._without(text.splitlines(), "job", "peer", 1.7e9)


NOTE = {"digest": "0" * 64, "replicas": [8000, 8001], "agents": [9000]}


def run_note(text: str) -> Any:
    path = SCRATCH / "trainyard-fuzz.note"
    path.write_text(text + "\ntable inet trainyard {\n}\n", encoding="utf-8", errors="replace")
    with mock.patch.object(fence, "LOADED", path):
        return fence._noted()


IMAGES_FILE = f"# by digest\nregistry.example/neuron/vllm:1.0 sha256:{'0' * 64}\n"
TOKEN = '{"token": "abc", "expires_in": 300}'


CALIBRATION = json.loads(calibration.PUBLISHED.read_text(encoding="utf-8"))


def run_calibration(text: str) -> Any:
    """Constants that are taken are finite, within their bounds, and all there."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise calibration.CalibrationError(str(error)) from error
    values = calibration.calibration_of(data, "mutated").values.to_dict()
    assert all(low <= values[name] <= high for name, (low, high) in calibration.BOUNDS.items())
    return values


def run_images_file(text: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trainyard_images.txt")
        file.write_text(text, encoding="utf-8", errors="replace")
        return pinned_images.read(str(file))


FINDING = {"finding": "quarantine_device", "host": "trn2-a", "device": "3", "alert": "UncorrectableECC", "over": "no"}
ALERT = {"labels": {**FINDING, "alertname": "UncorrectableECC"}, "status": {"state": "active"}}
EVENT = json.dumps({"at_s": 1.0, "what": "heal", "state": "begun", "replicas": ["a:m-0"], "deployments": ["m"]})


def run_alerts(text: str) -> Any:
    alerts = json.loads(text)
    return heal.findings_of(alerts) if isinstance(alerts, list) else ([], [])


def run_history(text: str) -> Any:
    """Decide by a history that anything may have happened to."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, history.NAME)
        file.write_text(text, encoding="utf-8", errors="replace")
        stalled = heal.Finding(heal.RESTART, "a", "m-0")
        replica = heal.Replica("a:m-0", "a", "m-0", "m", "m", (0,), active="failed", serving=False)
        return heal.decide(stalled, heal.Fleet((replica,), hosts=("a",)), history.read(file), heal.Limits(), 10.0)


def run_token(text: str) -> Any:
    """Ask a registry that wants a token first, and says anything when it is asked for one."""
    headers = Message()
    headers["WWW-Authenticate"] = 'Bearer realm="https://registry.example/token"'

    def urlopen(request: urllib.request.Request, timeout: float) -> Any:
        if "/token" in request.full_url or request.headers.get("Authorization"):
            return io.BytesIO(text.encode("utf-8", "replace"))
        raise urllib.error.HTTPError(request.full_url, 401, "Unauthorized", headers, None)

    with mock.patch("urllib.request.urlopen", urlopen):
        return registry.digest_of("registry.example/neuron/vllm:1.0")


TARGETS: tuple[Target, ...] = (
    Target("plan", mutated(FLEETS).filter(inventories), run_plan, (PlanError, TooLargeError), wrong_plan, weight=12),
    Target("config.json", mutated(CONFIGS), run_config, (ConfigError, TooLargeError), weight=3),
    Target(
        "redeploy",
        mutated(examples_of(settings.REDEPLOY)),
        lambda given: Settings.from_dict(given).floor_of(8),
        (RollError,),
        outside(settings.REDEPLOY),
        weight=3,
    ),
    Target(
        "canary",
        mutated(examples_of(settings.CANARY)),
        Thresholds.from_dict,
        (RollError,),
        outside(settings.CANARY),
        weight=3,
    ),
    Target(
        "hooks",
        mutated([settings.HOOKS.defaults, {"before": ["a.yml"]}, {"drain": ["a"], "undrain": ["b"]}]),
        roll_plan.files,
        (RollError,),
        outside(settings.HOOKS),
    ),
    Target("load", mutated(examples_of(settings.LOAD)), run_load, (runner.RunError,), outside(settings.LOAD), weight=3),
    Target(
        "objective",
        mutated([{**example, "request_latency_ms": 5} for example in examples_of(settings.OBJECTIVE)]),
        run_objective,
        (PlanError,),
        outside(settings.OBJECTIVE),
    ),
    Target(
        "keys",
        mutated([[settings.KEY_ROW.defaults | {"name": "a", "sha256": "0" * 64}], examples_of(settings.KEY_ROW)[:1]]),
        read_keys,
        (PlanError, TooLargeError),
        wrong_keys,
    ),
    Target("nodes", mutated(NODE_FILES), nodes_of, (NodesError,), outside(NODES)),
    Target("bundle", mutated_json(BUNDLES), run_bundle, (contents.BundleError,)),
    Target("sweep", mutated(SWEEPS), run_sweep, (spec.SpecError, TooLargeError), outside(spec.SWEEP), weight=2),
    Target("yaml", mutated_text(YAMLS), run_yaml, (spec.SpecError, FileError)),
    Target(
        "report",
        mutated_json([example_report()]).map(lambda text: (text, "")),
        run_report,
        (ReportError,),
        weight=2,
    ),
    Target(
        "requests",
        mutated_text(["".join(json.dumps(row) + "\n" for row in ROWS)]).map(
            lambda text: (json.dumps(example_report()), text)
        ),
        run_report,
        (ReportError,),
    ),
    Target(
        "requests as data",
        mutated_json(ROWS).map(lambda text: (json.dumps(example_report()), text.replace("\n", ""))),
        run_report,
        (ReportError,),
    ),
    Target("neuron-ls", mutated(NEURON_LS), run_neuron_ls, (TopologyError, TooLargeError), weight=2),
    Target("holders of cores", mutated_json(NEURON_LS[:1]), run_holders, (serving.ServingError,)),
    Target(
        "state.json",
        mutated_json([STATE, {**STATE, "holder": asdict(HOLDER)}, OLD_STATE]),
        run_state,
        (ValueError,),
        weight=2,
    ),
    Target("serving settings", mutated_json([SERVING]), run_serving, (serving.ServingError,), weight=2),
    Target("manifest", mutated_json([MANIFEST]), run_manifest, (manifest.ManifestError,)),
    Target(
        "haproxy",
        mutated_text([HAPROXY_STATE]).map(lambda text: (text, HAPROXY_CSV)),
        run_haproxy,
        (haproxy.RouterError,),
    ),
    Target(
        "haproxy csv",
        mutated_text([HAPROXY_CSV]).map(lambda text: (HAPROXY_STATE, text)),
        run_haproxy,
        (haproxy.RouterError,),
    ),
    Target("haproxy.cfg", mutated_text([CONFIGURATION]), run_configuration, ()),
    Target("log", mutated_text([LOG, "x" * 39000]), run_log, ()),
    Target("metrics", mutated_text([METRICS]), run_metrics, ()),
    Target("packages", mutated_text([PACKAGES, RPMS]), run_packages, ()),
    Target("calibration", mutated_json([CALIBRATION]), run_calibration, (calibration.CalibrationError,)),
    Target("SDK releases", mutated_json([SDK_RELEASES]), read_table, (PlanError,)),
    Target("lsblk", mutated_json([LSBLK]), run_lsblk, (disks.StorageError,)),
    Target("mdadm and blkid", mutated_text([EXPORT]), run_export, (disks.StorageError,)),
    Target("progress", mutated_json([PROGRESS]), run_progress, ()),
    Target("lock", mutated_text([LOCK]), store.lock_holder, ()),
    Target("neuron_config.json", mutated_json([NEURON_CONFIG]), run_agreement, (ValueError, RecursionError)),
    Target("aliases", mutated(FLEETS), values_of, (RecursionError,)),
    Target("fence's note", mutated_json([NOTE]), run_note, ()),
    Target("ranges", mutated_text(["0-31,48", "0"]), run_ranges, (ValueError,)),
    Target("trainyard_images.txt", mutated_text([IMAGES_FILE]), run_images_file, (PlanError,)),
    Target(
        "finding",
        mutated([FINDING]).filter(lambda one: isinstance(one, Mapping)),
        heal.finding_of,
        (heal.FindingError,),
    ),
    Target("alerts", mutated_json([[ALERT]]), run_alerts, (ValueError, RecursionError)),
    Target("history", mutated_text([EVENT]), run_history, (history.HistoryError,)),
    Target("registry's token", mutated_text([TOKEN]), run_token, (registry.RegistryError,)),
    Target("authorized_keys", mutated_text([KEYS_FILE]), run_authorized, ()),
)
