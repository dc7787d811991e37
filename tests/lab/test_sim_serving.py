# SPDX-License-Identifier: Apache-2.0
"""vLLM on Neuron as its callers and its unit see it."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.neuron_sim import sdk, vllm_options
from tests.lab.sim_support import TINY_MODEL, Server, SimHost, eventually

CHAT = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    releases = ["2.23.0", "2.27.0", "2.32.0"]
    latency = {"kind": "fixed", "ttft_ms": 10, "itl_ms": 4}
    with SimHost(tmp_path_factory.mktemp("host"), sdk_releases=releases, latency=latency) as host:
        yield host


@pytest.fixture
def host(installed: SimHost) -> Iterator[SimHost]:
    yield installed
    installed.stop()
    shutil.rmtree(installed.root / "artifact", ignore_errors=True)
    shutil.rmtree(installed.model / "neuron-compiled-artifacts", ignore_errors=True)


@pytest.fixture(scope="module")
def v0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that only ask."""
    latency = {"kind": "fixed", "ttft_ms": 10, "itl_ms": 4}
    with SimHost(tmp_path_factory.mktemp("v0"), latency=latency) as host:
        yield host.serve_v0("--served-model-name", "tiny").wait_ready()


def compiled(host: SimHost, *extra: str, release: str = "2.23.0", name: str = "artifact") -> str:
    target = str(host.root / name)
    argv = ["--model-path", str(host.model), "--compiled-model-path", target, "--torch-dtype", "bfloat16"]
    argv += ["--tp-degree", "32", "--batch-size", "4", "--seq-len", "8192", "--max-context-length", "8192"]
    argv += ["--on-device-sampling", "--compile-only", "--prompt", "x", *extra]
    result = host.run(
        host.venv(release) / "inference_demo", "--model-type", "llama", "--task-type", "causal-lm", "run", *argv
    )
    assert result.returncode == 0, result.stderr
    return target


def completion(server: Server, **body: Any) -> tuple[int, Any]:
    status, text = server.request("/v1/completions", {"prompt": "one two three", "max_tokens": 4, **body})
    return status, json.loads(text) if text else None


# -- the interface -------------------------------------------------------------------------------------------


def test_completion_counts_its_tokens(v0: Server) -> None:
    answer = v0.json("/v1/completions", {"model": "tiny", "prompt": "one two three", "max_tokens": 7})
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 7
    assert answer["choices"][0]["finish_reason"] == "length"


def test_greedy_output_is_the_same_each_time_and_sampled_is_not(v0: Server) -> None:
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 12}
    greedy = {
        v0.json("/v1/chat/completions", {**body, "temperature": 0})["choices"][0]["message"]["content"] for _ in "ab"
    }
    sampled = {
        v0.json("/v1/chat/completions", {**body, "temperature": 1})["choices"][0]["message"]["content"] for _ in "ab"
    }
    assert len(greedy) == 1 and len(sampled) == 2


def test_stream_sends_tokens_then_usage_then_done(v0: Server) -> None:
    body = {
        "model": "tiny",
        "messages": CHAT,
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, text = v0.request("/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert status == 200 and events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    # A server that is late sends several tokens in one chunk, as vLLM does.
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1]]
    assert len("".join(pieces).split(" ")) == 1 + 5 and len(pieces) <= 5
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_models_version_and_health(v0: Server) -> None:
    assert [card["id"] for card in v0.json("/v1/models")["data"]] == ["tiny"]
    assert v0.json("/v1/models")["data"][0]["max_model_len"] == 8192
    assert v0.json("/version")["version"] == sdk.release("2.23.0").vllm
    assert v0.request("/health") == (200, "") and v0.request("/ping", {})[0] == 200


def test_wrong_requests_are_answered_as_errors(v0: Server) -> None:
    assert v0.request("/v1/completions", {"model": "other", "prompt": "x"})[0] == 404
    assert v0.request("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 9000})[0] == 400
    assert v0.request("/v1/completions", {"model": "tiny"})[0] == 400
    assert v0.request("/nothing")[0] == 404
    body = json.dumps({"model": "tiny", "prompt": "x"}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", v0.port)
    connection.request("POST", "/v1/completions", body)
    assert connection.getresponse().status == 400
    connection.close()


def test_counters_agree_with_what_was_sent(v0: Server) -> None:
    """vLLM's metric names; the benchmark cross-checks them."""
    before = v0.metric("generation_tokens_total"), v0.metric("request_success_total")
    for _ in range(3):
        v0.json("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 6})
    assert v0.metric("generation_tokens_total") - before[0] == 18
    assert v0.metric("request_success_total") - before[1] == 3
    assert v0.metric("num_requests_running") == 0


def test_client_that_leaves_frees_its_slot(v0: Server) -> None:
    """vLLM aborts a request whose client disconnects."""
    aborted = v0.metric("request_success_total")
    connection = http.client.HTTPConnection("127.0.0.1", v0.port)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 5000, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read(10)
    answer.close()
    connection.close()
    eventually(lambda: v0.metric("request_success_total") > aborted)
    eventually(lambda: v0.metric("num_requests_running") == 0 or completion(v0, model="tiny", max_tokens=1))
    assert 'finished_reason="abort"} 1.0' in v0.request("/metrics")[1]


def test_requests_over_the_slots_wait_in_order(host: SimHost) -> None:
    """max_num_seqs slots and a queue: five equal requests on four slots take two rounds."""
    server = host.serve_v0().wait_ready()
    connections = []
    started = time.monotonic()
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = json.dumps({"prompt": "x", "max_tokens": 51})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        connections.append(connection)
    eventually(lambda: server.metric("num_requests_waiting") == 1)
    assert server.metric("num_requests_running") == 4
    for connection in connections:
        assert connection.getresponse().read()
        connection.close()
    assert time.monotonic() - started > 2 * (0.010 + 50 * 0.004)


def test_api_key_is_asked_for_below_v1(host: SimHost) -> None:
    server = host.serve_v0("--api-key", "secret").wait_ready()
    assert server.request("/v1/models")[0] == 401
    assert server.request("/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200


def test_metric_names_follow_the_line_of_vllm(host: SimHost, v0: Server) -> None:
    """engine/metrics.py (V0): gpu_cache_usage_perc; v1/metrics/loggers.py: kv_cache_usage_perc, engine label."""
    server = host.serve_v1("--no-enable-prefix-caching").wait_ready()
    old, new = v0.request("/metrics")[1], server.request("/metrics")[1]
    assert "vllm:gpu_cache_usage_perc{" in old and "vllm:kv_cache_usage_perc{" not in old
    assert 'vllm:kv_cache_usage_perc{engine="0",' in new and "vllm:inter_token_latency_seconds_bucket" in new


# -- command lines of the generations ------------------------------------------------------------------------


def refused(host: SimHost, release: str, *argv: str) -> str:
    result = host.run(host.venv(release) / "vllm", "serve", host.model, *argv)
    assert result.returncode == 2, result.stderr
    return str(result.stderr)


def test_options_of_v0_are_refused_by_v1_and_native(host: SimHost) -> None:
    """vLLM 0.11 and 0.24 have neither --device nor --use-v2-block-manager nor --override-neuron-config."""
    assert "unrecognized arguments: --device neuron" in refused(host, "2.27.0", "--device", "neuron")
    for release in ("2.27.0", "2.32.0"):
        assert "unrecognized arguments: --use-v2-block-manager" in refused(host, release, "--use-v2-block-manager")
        assert "unrecognized arguments" in refused(host, release, "--override-neuron-config", "{}")


def test_device_is_an_abbreviation_where_device_ids_exists() -> None:
    """vLLM 0.24 takes --device neuron for --device-ids neuron: argparse's abbreviations are on in vLLM."""
    assert vllm_options.serve_parser((0, 24, 0)).parse_args(["m", "--device", "neuron"]).device_ids == ["neuron"]


def test_options_of_later_lines_are_refused_by_v0_and_v1(host: SimHost) -> None:
    """--async-scheduling came with V1, --shutdown-timeout after 0.16."""
    assert "unrecognized arguments: --async-scheduling" in refused(host, "2.23.0", "--async-scheduling")
    assert "unrecognized arguments: --shutdown-timeout 5" in refused(host, "2.27.0", "--shutdown-timeout", "5")


def test_types_and_choices_are_argparse_errors(host: SimHost) -> None:
    assert "argument --port: invalid int value: 'x'" in refused(host, "2.27.0", "--port", "x")
    assert "argument --block-size: invalid choice: 33" in refused(host, "2.23.0", "--block-size", "33")


def test_serve_refuses_the_model_as_an_option(host: SimHost) -> None:
    """vllm serve --model M is a ValueError of vLLM, not of argparse."""
    for release in ("2.23.0", "2.27.0"):
        result = host.run(host.venv(release) / "vllm", "serve", "--model", host.model)
        assert result.returncode == 1 and "With `vllm serve`, you should provide the model" in result.stderr


def test_underscores_in_options_count_as_dashes() -> None:
    """FlexibleArgumentParser of vLLM."""
    options = vllm_options.serve_parser((0, 11, 0)).parse_args(
        ["m", "--max_model_len", "8k", "--tensor_parallel_size=4"]
    )
    assert (options.max_model_len, options.tensor_parallel_size) == (8000, 4)


def test_version_option(host: SimHost) -> None:
    assert host.run(host.venv("2.27.0") / "vllm", "--version").stdout == "0.11.0\n"


def test_port_in_use_fails_at_once(host: SimHost) -> None:
    first = host.serve_v0().wait_ready()
    second = host.serve_v0("--port", str(first.port), cores="32-63")
    assert second.wait_exit() == 1 and "Address already in use" in second.log


# -- artifacts -----------------------------------------------------------------------------------------------


def test_v0_without_the_variable_recompiles_and_deletes_at_every_start(host: SimHost) -> None:
    """V0 loader: the path below the model is emptied first."""
    host.serve_v0().wait_ready()
    (path,) = (host.model / "neuron-compiled-artifacts").iterdir()
    (path / "left-behind").touch()
    host.stop()
    again = host.serve_v0().wait_ready()
    assert "Recompiling..." in again.log
    assert not (path / "left-behind").exists() and (path / "model.pt").exists()


def test_wrong_artifact_path_recompiles_silently_into_it(host: SimHost) -> None:
    """Both loaders take a missing file as "compile it"."""
    target = host.root / "artifact"
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(target)}).wait_ready()
    assert f"Failed to load the model from {target} Recompiling..." in server.log
    assert (target / "model.pt").exists()


def test_present_artifact_is_loaded_and_nothing_compiled(host: SimHost) -> None:
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": compiled(host)}).wait_ready()
    assert "Recompiling" not in server.log and "Sharding weights on load..." in server.log


def test_plugin_ignores_overrides_on_a_present_artifact(host: SimHost) -> None:
    """Plugin 0.2.0: a warning and nothing else."""
    target = compiled(host, release="2.27.0")
    overrides = json.dumps({"override_neuron_config": {"async_mode": True}})
    env = {"NEURON_COMPILED_ARTIFACTS": target}
    extra = ("--additional-config", overrides, "--no-enable-prefix-caching")
    server = host.serve_v1(*extra, cores="0-31", tp=32, env=env).wait_ready()
    assert "Using pre-compiled artifacts, override_neuron_config will be ignored" in server.log


def test_empty_variable_counts_as_set_in_v0_and_as_unset_in_the_plugin(host: SimHost) -> None:
    """`is not None` in the fork's loader, truth in the plugin's."""
    server = host.serve_v1("--no-enable-prefix-caching", env={"NEURON_COMPILED_ARTIFACTS": ""}).wait_ready()
    assert "neuron-compiled-artifacts" in server.log
    host.stop()
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": ""}).wait_ready()
    assert "neuron-compiled-artifacts" not in server.log
    (host.root / "model.pt").unlink()  # it was compiled into the working directory


def test_incomplete_artifact_is_compiled_again(host: SimHost) -> None:
    """neuron_config.json without model.pt: the loader's ValueError means recompile."""
    target = Path(compiled(host))
    (target / "model.pt").unlink()
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(target)}).wait_ready()
    assert "Recompiling..." in server.log and (target / "model.pt").exists()


def test_artifact_for_more_cores_than_visible_fails(host: SimHost) -> None:
    """NRT_STATUS 9: not enough cores to load."""
    server = host.serve_v0(cores="0-15", tp=16, env={"NEURON_COMPILED_ARTIFACTS": compiled(host)})
    assert server.wait_exit() == 1 and "LOAD_NOT_ENOUGH_NC" in server.log


def test_artifact_of_a_newer_compiler_fails(host: SimHost) -> None:
    """A runtime loads what its own compiler made, and what older ones did."""
    target = Path(compiled(host))
    lines = (target / "model.pt").read_text().splitlines()
    lines[1] = "compiler 99.0"
    (target / "model.pt").write_text("\n".join(lines) + "\n")
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(target)})
    assert server.wait_exit() == 1 and "NEFF version mismatch" in server.log


def test_artifact_whose_weights_moved_fails(host: SimHost) -> None:
    """Sharding on load reads the path of the compile, not the server's."""
    target = Path(compiled(host))
    config = json.loads((target / "neuron_config.json").read_text())
    config["_name_or_path"] = "/data/weights/elsewhere"
    (target / "neuron_config.json").write_text(json.dumps(config))
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(target)})
    assert server.wait_exit() == 1 and "/data/weights/elsewhere" in server.log


def test_request_longer_than_the_compiled_length_kills_the_engine(host: SimHost) -> None:
    """NxDI model_wrapper.py raises inside the engine: a long prompt finds that less was compiled."""
    target = compiled(host, "--max-context-length", "64", "--seq-len", "128")
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": target}).wait_ready()
    assert completion(server, prompt=list(range(60)))[0] == 200
    assert completion(server, prompt=list(range(65)))[0] == 500
    assert "Inputs supplied (65 tokens) are longer than max_context_length (64 tokens)" in server.log
    assert server.wait_exit() == 0


def test_native_caches_graphs_and_can_forbid_compiling(host: SimHost) -> None:
    """VLLM_NEURON_DISABLE_WARMUP_COMPILE=1 makes a cache miss fatal; a second start finds the graphs."""
    cache = {"VLLM_CACHE_ROOT": str(host.root / "cache")}
    strict = {**cache, "VLLM_NEURON_DISABLE_WARMUP_COMPILE": "1"}
    assert host.serve_v1(release="2.32.0", env=strict).wait_exit() == 1
    host.serve_v1(release="2.32.0", env=cache).wait_ready()
    host.stop()
    assert len(list(host.root.glob("cache/neuron/compile_cache/*/.compilation_complete"))) == 1
    assert "Using cached graphs" in host.serve_v1(release="2.32.0", env=strict).wait_ready().log


# -- what cannot work ----------------------------------------------------------------------------------------


def test_misaligned_slice_of_native_dies_at_warm_up(host: SimHost) -> None:
    """Disaggregation tutorial: a slice starts at a multiple of its own size, else prefill warm-up fails."""
    server = host.serve_v1(release="2.32.0", cores="4-11", tp=8, env={"VLLM_CACHE_ROOT": str(host.root / "cache")})
    assert server.wait_exit() == 1
    assert "Collective operation REDUCE_SCATTER" in server.log
    assert "status=2 message=Invalid" in server.log and "Model warmup failed for prefill bucket" in server.log


def test_misaligned_slice_of_nxdi_dies_at_its_first_request(host: SimHost) -> None:
    """NxDI turns the warm-up's failure into a warning (derived: the first request meets it again)."""
    server = host.serve_v0(cores="4-11", tp=8).wait_ready()
    assert completion(server)[0] == 500
    assert "Collective operation REDUCE_SCATTER" in server.log and server.wait_exit() == 0


def test_heads_that_do_not_divide_are_refused_by_v0_and_padded_by_the_plugin(host: SimHost) -> None:
    """vLLM's own check; the plugin switches it off because NxDI pads."""
    odd = host.make_model("odd", {**TINY_MODEL, "num_attention_heads": 20, "head_dim": 4})
    server = host.serve_v0("--model", str(odd))
    assert server.wait_exit() == 1
    assert "attention heads (20) must be divisible by tensor parallel size (32)" in server.log
    argv = [host.venv("2.27.0") / "vllm", "serve", odd, "--tensor-parallel-size", "16", "--max-num-seqs", "4"]
    argv += ["--no-enable-prefix-caching", "--port", str(server.port), "--max-model-len", "1024"]
    assert host.start(*argv, port=server.port, env={"NEURON_RT_VISIBLE_CORES": "0-15"}).wait_ready()


def test_length_over_the_models_positions_is_refused(host: SimHost) -> None:
    """vLLM 0.7 to 0.9: max_model_len against max_position_embeddings."""
    short = host.make_model("short", {**TINY_MODEL, "max_position_embeddings": 4096})
    server = host.serve_v0("--model", str(short))
    assert server.wait_exit() == 1 and "greater than the derived max_model_len" in server.log


def test_model_that_does_not_fit_hbm_fails_to_allocate(host: SimHost) -> None:
    """Device-memory page: 24 GB a logical core; 70B in BF16 on 4 cores is 35 GB each."""
    big = {**TINY_MODEL, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "head_dim": 128}
    model = host.make_model("big", {**big, "num_attention_heads": 64, "vocab_size": 128256})
    server = host.serve_v0("--model", str(model), cores="0-3", tp=4)
    assert server.wait_exit() == 1
    assert "TDRV:log_dev_mem Failed to allocate" in server.log and "status=4" in server.log


def test_architecture_that_the_loader_does_not_know_is_refused(host: SimHost) -> None:
    """V0's list has no Qwen3 at SDK 2.23; the plugin's has."""
    qwen = host.make_model("qwen", {**TINY_MODEL, "architectures": ["Qwen3ForCausalLM"]})
    server = host.serve_v0("--model", str(qwen))
    assert server.wait_exit() == 1 and "are not supported on Neuron for now" in server.log


def test_prefix_caching_of_the_plugin_needs_a_block_size(host: SimHost) -> None:
    """Plugin 0.2.0 platform.py asserts it; prefix caching is vLLM's default in V1."""
    server = host.serve_v1()
    assert server.wait_exit() == 1 and "When prefix caching is enabled, block_size must be set." in server.log


def test_tensor_parallel_that_the_topology_lacks_is_refused(tmp_path: Path) -> None:
    """optimum-neuron#619: trn1's collectives support 1, 2, 8, 16 or a multiple of 32 cores."""
    with SimHost(tmp_path, instance_type="trn1.32xlarge", logical_nc_config=1) as trn1:
        server = trn1.serve_v0(cores="0-3", tp=4)
        assert server.wait_exit() == 1 and "NRT:nrt_load_collectives Unsupported topology" in server.log


# -- starting and stopping -----------------------------------------------------------------------------------


def test_nothing_answers_before_the_engine_is_up(tmp_path: Path) -> None:
    """vllm#50282: the port is bound early, connections are refused until the end of load and compile."""
    with SimHost(tmp_path, time_scale=0.004) as slow:
        server = slow.serve_v0()
        eventually(lambda: slow.busy_devices())
        assert server.request("/health")[0] == 0
        assert "Application startup complete." not in server.log
        server.wait_ready()
        assert server.log.index("Finished weights loading") < server.log.index("Application startup complete.")


def stream_until_stopped(server: Server) -> bytes:
    """Begin a long stream, ask the server to stop, return what still came."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps({"prompt": "x", "max_tokens": 100, "stream": True})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read(20)
    server.process.send_signal(signal.SIGTERM)
    try:
        text += answer.read()
    except (http.client.IncompleteRead, ConnectionError) as error:
        text += getattr(error, "partial", b"")
    connection.close()
    return text


def test_sigterm_aborts_streams_before_shutdown_timeout_existed(host: SimHost) -> None:
    """vLLM 0.17 and older: SIGTERM ends streams at once; the status is 0 all the same."""
    for server in (
        host.serve_v0().wait_ready(),
        host.serve_v1("--no-enable-prefix-caching", cores="32-47").wait_ready(),
    ):
        assert b"[DONE]" not in stream_until_stopped(server)
        assert server.wait_exit() == 0


def test_sigterm_drains_with_a_shutdown_timeout(host: SimHost) -> None:
    """vLLM 0.18 and newer: --shutdown-timeout N lets what runs finish."""
    cache = {"VLLM_CACHE_ROOT": str(host.root / "cache")}
    server = host.serve_v1("--shutdown-timeout", "20", release="2.32.0", env=cache).wait_ready()
    assert stream_until_stopped(server).endswith(b"data: [DONE]\n\n")
    assert server.wait_exit() == 0


def test_engines_death_is_noticed_by_a_request_in_v0_and_by_a_watchdog_in_v1(host: SimHost) -> None:
    """launcher.py: V0 ends its server in the handler of a failed request, V1 looks every five seconds; status 0."""
    old = host.serve_v0(cores="0-31").wait_ready()
    new = host.serve_v1("--no-enable-prefix-caching", cores="32-47").wait_ready()
    for pid in host.owner_pids():
        host.run("/bin/kill", "-9", str(pid))
    assert new.wait_exit(12) == 0
    assert old.process.poll() is None
    assert old.request("/health")[0] == 500
    assert old.wait_exit() == 0
