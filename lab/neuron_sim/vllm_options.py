# SPDX-License-Identifier: Apache-2.0
"""The options of vLLM's server, by vLLM version.

One line an option: names, kind, first and last minor version of vLLM 0.x (of those below) that has it. Source: the
argument definitions of the AWS fork at neuron-2.23-vllm-v0.7.2 (7) and releases/v2.23.0-v0 (8), and of vLLM 0.9.1,
0.11.0, 0.13.0, 0.16.0, 0.21.0, 0.24.0 and 0.29.0. Choices that depend on the accelerator are left open.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

_OPTIONS = """\
model str 7-29
task str 7-7
tokenizer str 7-29
tokenizer-mode str 13-29
tokenizer-mode choice:auto,slow,mistral,custom 8-11
trust-remote-code switch 8-29
skip-tokenizer-init flag 7-7
revision str 7-29
code-revision str 7-29
tokenizer-revision str 7-29
tokenizer-mode choice:auto,slow,mistral 7-7
trust-remote-code flag 7-7
allowed-local-media-path str 7-29
allowed-media-domains str+ 11-29
download-dir str 7-29
safetensors-load-strategy str 11-29
safetensors-prefetch-num-threads int 21-29
safetensors-prefetch-block-size int 21-29
model-loader-extra-config json 8-29
ignore-patterns str+ 8-29
use-tqdm-on-load switch 8-29
load-format str 7-29
config-format str 7-7
dtype choice:auto,half,float16,bfloat16,float,float32 7-29
kv-cache-dtype choice:auto,fp8,fp8_e5m2,fp8_e4m3 7-7
max-model-len int 7-29
guided-decoding-backend choice:outlines,lm-format-enforcer,xgrammar 7-7
logits-processor-pattern str 7-16
model-impl str 7-29
override-attention-dtype str 11-24
logits-processors str+ 11-29
io-processor-plugin str 11-29
renderer-num-workers int 21-29
distributed-executor-backend choice:ray,mp,uni,external_launcher 7-7
pipeline-parallel-size|-pp int 7-29
master-addr str 13-29
master-port int 13-29
nnodes|-n int 13-29
node-rank|-r int 13-29
distributed-timeout-seconds int 21-29
cpu-distributed-timeout-seconds int 24-29
numa-bind switch 21-29
numa-bind-nodes int+ 21-29
numa-bind-cpus str+ 21-29
device-ids str 24-29
tensor-parallel-size|-tp int 7-29
decode-context-parallel-size|-dcp int 11-29
dcp-comm-backend choice:ag_rs,a2a 21-29
dcp-q-replicate switch 29-29
dcp-kv-cache-interleave-size int 13-29
cp-kv-cache-interleave-size int 13-29
prefill-context-parallel-size|-pcp int 13-29
data-parallel-size|-dp int 8-29
data-parallel-rank|-dpn int 11-29
data-parallel-size-local|-dpl int 8-29
data-parallel-address|-dpa str 8-29
data-parallel-rpc-port|-dpp int 8-29
data-parallel-backend|-dpb str 9-29
data-parallel-hybrid-lb|-dph switch 13-29
data-parallel-external-lb|-dpe switch 13-29
data-parallel-multi-port-external-lb|-dpm flag 24-29
enable-expert-parallel|-ep switch 16-29
enable-batch-sharded-sampling switch 29-29
enable-ep-weight-filter switch 21-29
data-parallel-hybrid-lb switch 11-11
enable-expert-parallel switch 8-13
all2all-backend str 13-29
enable-dbo switch 11-29
ubatch-size int 16-29
enable-elastic-ep switch 21-29
dbo-decode-token-threshold int 11-29
dbo-prefill-token-threshold int 11-29
disable-nccl-for-dp-synchronization switch 13-29
enable-eplb switch 11-29
eplb-config json 11-29
expert-placement-strategy choice:linear,round_robin 11-29
num-redundant-experts int 11-11
eplb-window-size int 11-11
eplb-step-interval int 11-11
eplb-log-balancedness switch 11-11
max-parallel-loading-workers int 7-29
ray-workers-use-nsight switch 8-29
disable-custom-all-reduce switch 8-29
ray-workers-use-nsight flag 7-7
block-size intchoice:8,16,32,64,128 7-7
enable-prefix-caching switch 7-29
prefix-caching-hash-algo choice:sha256,sha256_cbor,xxhash,xxhash_cbor 13-29
prefix-cache-retention-interval str 29-29
prefix-caching-hash-algo choice:sha256,sha256_cbor 11-11
prefix-caching-hash-algo choice:builtin,sha256 8-9
disable-sliding-window flag 7-7
use-v2-block-manager flag 7-9
num-lookahead-slots int 7-11
seed int 7-29
hf-config-path str 8-29
swap-space float 7-16
kv-cache-dtype choice:auto,bfloat16,fp8,fp8_e4m3,fp8_e5m2,fp8_inc,fp8_ds_mla 13-16
kv-cache-dtype choice:auto,bfloat16,fp8,fp8_e4m3,fp8_e5m2,fp8_inc 11-11
kv-cache-dtype choice:auto,fp8,fp8_e4m3,fp8_e5m2 8-9
cpu-offload-gb float 7-29
cpu-offload-params str 21-29
offload-group-size int 21-29
offload-num-in-group int 21-29
offload-prefetch-step int 21-29
offload-params str 21-29
language-model-only switch 21-29
calculate-kv-scales switch 8-24
kv-cache-dtype-skip-layers str+ 21-29
kv-sharing-fast-prefill switch 11-29
mamba-cache-dtype choice:auto,float32,float16,bfloat16 24-29
mamba-ssm-cache-dtype choice:auto,float32,float16,bfloat16 24-29
mamba-cache-dtype choice:auto,float32,float16 13-21
mamba-ssm-cache-dtype choice:auto,float32,float16 13-21
mamba-block-size int 13-29
prefix-match-unit int 29-29
mamba-cache-mode choice:all,align,none 16-29
replayssm-buffer-len int 29-29
use-replayssm switch 29-29
kv-offloading-size float 13-29
kv-offloading-backend choice:native,lmcache 13-29
offload-backend choice:auto,uva,prefetch 21-29
mamba-cache-dtype choice:auto,float32 11-11
mamba-ssm-cache-dtype choice:auto,float32 11-11
gpu-memory-utilization float 7-29
kv-cache-memory-bytes int 11-29
kv-cache-dtype str 21-29
num-gpu-blocks-override int 7-29
max-num-batched-tokens int 7-29
max-num-scheduled-tokens int 29-29
max-num-seqs int 7-29
max-num-queued-reqs int 29-29
max-num-queued-tokens int 29-29
max-num-partial-prefills int 8-24
max-long-partial-prefills int 8-24
cuda-graph-sizes int+ 8-11
long-prefill-token-threshold int 8-29
max-logprobs int 7-29
logprobs-mode choice:raw_logits,raw_logprobs,processed_logits,processed_logprobs 11-29
use-fp64-gumbel switch 24-29
enable-trace-replay switch 29-29
disable-sliding-window switch 8-29
disable-cascade-attn switch 8-29
skip-tokenizer-init switch 8-29
enable-prompt-embeds switch 8-29
disable-log-stats flag 7-29
aggregate-engine-logging flag 13-29
fail-on-environ-validation switch 21-29
shutdown-timeout int 21-29
gdn-prefill-backend choice:flashinfer,triton,cutedsl 24-29
kda-prefill-backend choice:auto,triton,flashkda 29-29
gdn-prefill-backend choice:flashinfer,triton 21-21
enable-log-requests switch 11-29
disable-log-requests switch 11-16
quantization|-q str 7-29
quantization-config json 24-29
allow-deprecated-quantization switch 16-29
enforce-eager switch 8-29
enable-return-routed-experts switch 16-29
return-sampling-mask switch 29-29
rope-scaling json 7-11
rope-theta float 7-11
hf-overrides json 7-7
enforce-eager flag 7-7
max-seq-len-to-capture int 7-9
disable-custom-all-reduce flag 7-7
tokenizer-pool-size int 7-9
tokenizer-pool-type str 7-9
tokenizer-pool-extra-config json 8-9
limit-mm-per-prompt json 8-16
enable-mm-embeds switch 13-29
media-io-kwargs json 11-29
tokenizer-pool-extra-config str 7-7
limit-mm-per-prompt str 7-7
limit-mm-per-prompt str 21-29
mm-processor-kwargs json 7-29
mm-processor-cache-gb float 11-29
disable-mm-preprocessor-cache switch 8-9
enable-lora switch 8-29
enable-lora-bias switch 8-11
disable-mm-preprocessor-cache flag 7-7
disable-mm-preprocessor-cache flag 11-11
mm-processor-cache-type choice:shm,lru 11-29
mm-hasher-algorithm choice:blake3,sha256,sha512 29-29
mm-shm-cache-max-object-size-mb int 11-29
mm-encoder-only switch 16-29
mm-encoder-tp-mode choice:weights,data 11-29
mm-encoder-attn-backend str 13-29
mm-encoder-attn-dtype choice:fp8 21-29
mm-encoder-fp8-scale-path str 21-29
mm-encoder-fp8-scale-save-path str 21-29
mm-encoder-fp8-scale-save-margin float 21-29
interleave-mm-strings switch 11-29
skip-mm-profiling switch 11-29
video-pruning-rate float 11-29
video-pruning-method choice:evs,vidcom2 29-29
mm-tensor-ipc choice:direct_rpc,torch_shm 21-29
mm-processor-device str 29-29
mm-ipc-gpu-memory-gb float 29-29
mm-device-do-normalize switch 29-29
enable-lora flag 7-7
enable-lora-bias flag 7-7
max-loras int 7-29
max-lora-rank int 7-29
lora-extra-vocab-size int 7-11
lora-dtype choice:auto,float16,bfloat16 7-29
enable-tower-connector-lora switch 16-29
long-lora-scaling-factors str+ 8-9
long-lora-scaling-factors str 7-7
max-cpu-loras int 7-29
fully-sharded-loras switch 8-29
lora-target-modules str+ 21-29
default-mm-loras json 11-29
specialize-active-lora switch 16-29
enable-mixed-moe-lora-format switch 24-29
enable-moe-shared-loras switch 29-29
enable-prompt-adapter switch 8-9
fully-sharded-loras flag 7-7
enable-prompt-adapter flag 7-7
max-prompt-adapters int 7-9
max-prompt-adapter-token int 7-9
device choice:auto,cuda,neuron,cpu,tpu,xpu,hpu 8-9
speculative-config json 8-16
show-hidden-metrics-for-version str 8-29
device choice:auto,cuda,neuron,cpu,openvino,tpu,xpu,hpu 7-7
num-scheduler-steps int 7-9
multi-step-stream-outputs switch 8-9
multi-step-stream-outputs storebool 7-7
scheduler-delay-factor float 7-9
preemption-mode choice:swap,recompute 8-9
enable-chunked-prefill storebool 7-7
speculative-model str 7-7
speculative-model-quantization str 7-7
num-speculative-tokens int 7-7
speculative-disable-mqa-scorer flag 7-7
speculative-token-tree str 7-7
speculative-draft-tensor-parallel-size|-spec-draft-tp int 7-7
speculative-max-model-len int 7-7
speculative-disable-by-batch-size int 7-7
ngram-prompt-lookup-max int 7-7
ngram-prompt-lookup-min int 7-7
spec-decoding-acceptance-method choice:rejection_sampler,typical_acceptance_sampler 7-7
typical-acceptance-sampler-posterior-threshold float 7-7
typical-acceptance-sampler-posterior-alpha float 7-7
disable-logprobs-during-spec-decoding storebool 7-7
model-loader-extra-config str 7-7
ignore-patterns append 7-7
preemption-mode str 7-7
served-model-name str+ 7-29
qlora-adapter-name-or-path str 7-9
pt-load-map-location json 8-29
attention-backend str 13-29
mamba-backend str 21-29
mamba-ssu-algorithm choice:auto,simple,vertical,horizontal 29-29
enable-mamba-cache-stochastic-rounding switch 21-29
mamba-cache-philox-rounds int 21-29
guided-decoding-backend choice:auto,outlines,lm-format-enforcer,xgrammar,guidance 8-9
guided-decoding-disable-fallback switch 8-9
guided-decoding-disable-any-whitespace switch 8-9
guided-decoding-disable-additional-properties switch 8-9
enable-reasoning switch 8-9
otlp-traces-endpoint str 7-29
collect-detailed-traces str+ 8-29
per-request-spec-decode-metrics choice:none,summary,detailed 29-29
kv-cache-metrics switch 13-29
kv-cache-metrics-sample float 13-29
cudagraph-metrics switch 13-29
enable-layerwise-nvtx-tracing switch 13-29
enable-mfu-metrics switch 16-29
enable-logging-iteration-details switch 16-29
jit-monitor-mode choice:warn,error 29-29
jit-monitor-verbose switch 24-29
collect-detailed-traces str 7-7
disable-async-output-proc flag 7-9
config-format json 8-29
hf-token str 8-29
hf-overrides str 8-29
model-class-overrides json 29-29
pooler-config json 11-29
scheduling-policy choice:fcfs,priority 7-29
enable-chunked-prefill switch 8-29
disable-chunked-mm-input switch 8-29
scheduler-cls str 8-29
scheduler-reserve-full-isl switch 21-29
watermark float 24-29
prefill-schedule-interval int 24-29
disable-hybrid-kv-cache-manager switch 9-29
async-scheduling switch 11-29
stream-interval int 13-29
cudagraph-capture-sizes int+ 13-29
max-cudagraph-capture-size int 13-29
ir-op-priority json 21-29
enable-flashinfer-autotune switch 16-29
enable-bf16x3-router-gemm switch 29-29
moe-backend str 21-29
linear-backend str 24-29
speculative-config|-sc json 21-29
spec-method str 24-29
spec-model str 24-29
spec-tokens int 24-29
diffusion-config|-dc json 24-29
override-neuron-config json 7-9
override-pooler-config json 7-11
compilation-config|-O json 7-11
additional-config json 8-29
structured-outputs-config json 11-29
profiler-config json 13-29
optimization-level str 13-29
performance-mode choice:balanced,interactivity,throughput 21-29
weight-transfer-config json 16-29
kv-transfer-config json 7-29
kv-events-config json 8-29
ec-transfer-config json 13-29
ec-manager-config json 29-29
compilation-config|-cc json 13-29
attention-config|-ac json 13-29
reasoning-config json 21-29
kernel-config json 16-29
worker-cls str 7-29
worker-extension-cls str 8-29
enable-fault-tolerance switch 29-29
fault-tolerance-config json 29-29
enable-multimodal-encoder-data-parallel flag 11-11
enable-multimodal-encoder-data-parallel switch 8-9
block-size int 8-29
generation-config str 7-29
override-generation-config json 7-29
enable-sleep-mode switch 8-29
enable-cumem-allocator switch 24-29
enable-sleep-mode flag 7-7
calculate-kv-scales flag 7-7
disable-log-requests flag 7-9
host str 7-29
port int 7-29
data-parallel-supervisor-port int 24-29
dp-supervisor-probe-interval-s float 24-29
dp-supervisor-probe-timeout-s float 24-29
dp-supervisor-probe-failure-threshold int 24-29
uds str 11-29
uvicorn-log-level choice:critical,error,warning,info,debug,trace 16-29
uvicorn-log-level choice:debug,info,warning,error,critical,trace 7-13
disable-uvicorn-access-log switch 11-29
disable-access-log-for-endpoints str 16-29
allow-credentials switch 11-29
allowed-origins str+ 11-29
allowed-methods str+ 11-29
allowed-headers str+ 11-29
api-key str+ 11-29
disable-uvicorn-access-log flag 8-9
allow-credentials flag 7-9
allowed-origins json 7-9
allowed-methods json 7-9
allowed-headers json 7-9
api-key str 7-9
lora-modules str+ 7-29
prompt-adapters str+ 7-9
chat-template str 7-29
chat-template-content-format str 7-29
trust-request-chat-template switch 11-29
default-chat-template-kwargs json 16-29
response-role str 7-29
ssl-keyfile str 7-29
ssl-certfile str 7-29
ssl-ca-certs str 7-29
enable-ssl-refresh switch 11-29
enable-ssl-refresh flag 8-9
ssl-cert-reqs int 7-29
ssl-ciphers str 16-29
root-path str 7-29
middleware str+ 11-29
return-tokens-as-token-ids switch 11-29
disable-frontend-multiprocessing switch 11-16
enable-request-id-headers switch 11-29
enable-auto-tool-choice switch 11-29
exclude-tools-when-tool-choice-none switch 11-29
middleware append 7-9
return-tokens-as-token-ids flag 7-9
disable-frontend-multiprocessing flag 7-9
enable-request-id-headers flag 7-9
enable-auto-tool-choice flag 7-9
enable-reasoning flag 7-7
reasoning-parser str 7-29
reasoning-parser-plugin str 13-29
distributed-executor-backend str 11-29
distributed-executor-backend choice:ray,mp,uni,external_launcher,ExecutorBase 8-9
tool-call-parser str 7-29
tool-parser-plugin str 7-29
tool-server str 11-29
log-config-file str 8-29
max-log-len int 7-29
disable-fastapi-docs switch 11-29
enable-prompt-tokens-details switch 11-29
enable-per-request-metrics switch 29-29
enable-server-load-tracking switch 11-29
enable-force-include-usage switch 11-29
sse-keep-alive-interval int 29-29
enable-tokenizer-info-endpoint switch 11-29
enable-log-outputs switch 11-29
enable-log-deltas switch 16-29
cohere-is-reasoning-model switch 29-29
cohere-format str 29-29
h11-max-incomplete-event-size int 11-29
h11-max-header-count int 11-29
log-error-stack switch 11-29
tokens-only switch 13-29
fingerprint-mode choice:full,hash,custom,none 21-29
fingerprint-value str 21-29
enable-offline-docs switch 16-29
enable-flash-late-interaction switch 21-29
disable-fastapi-docs flag 7-9
enable-prompt-tokens-details flag 7-9
enable-server-load-tracking flag 8-9
headless flag 8-29
data-parallel-start-rank|-dpr int 8-29
api-server-count|-asc int 8-29
config str 8-29
grpc flag 21-29
task choice:auto,generate,embedding,embed,classify,score,reward,transcription,draft 8-11
runner choice:auto,generate,pooling,draft 11-29
convert choice:auto,none,embed,classify 16-29
convert choice:auto,none,embed,classify,reward 11-13
"""


class ModelOptionError(ValueError):
    """``vllm serve --model M``: refused by vLLM itself, after its arguments were parsed."""


class _Parser(argparse.ArgumentParser):
    """argparse with vLLM's one habit: underscores in an option's name count as dashes."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after ``--max_model_len`` has become ``--max-model-len``."""
        given = []
        for item in args or []:
            name, equals, value = item.partition("=")
            given.append(name.replace("_", "-") + equals + value if item.startswith("--") else item)
        return super().parse_known_args(given, namespace)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"Value {text} cannot be converted to json.loads.") from None


def _length(text: str) -> int:
    """A number, or vLLM's short form of one: ``8k`` is 8000 and ``8K`` is 8192."""
    factors = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    return int(float(text[:-1]) * factors[text[-1]]) if text[-1:] in factors else int(text)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError("Expected 'true' or 'false'.")


_TYPES = {"str": str, "int": int, "float": float, "json": _json}


def _keywords(kind: str) -> dict[str, Any]:
    if kind == "flag":
        return {"action": "store_true"}
    if kind == "switch":
        return {"action": argparse.BooleanOptionalAction}
    if kind == "storebool":
        return {"nargs": "?", "const": True, "type": _boolean}
    if kind == "append":
        return {"action": "append", "type": str}
    name, _, choices = kind.partition(":")
    if name == "choice":
        return {"choices": choices.split(",")}
    if name == "intchoice":
        return {"type": int, "choices": [int(choice) for choice in choices.split(",")]}
    return {"type": _TYPES[kind.rstrip("+")], **({"nargs": "+"} if kind.endswith("+") else {})}


_KNOWN = (7, 8, 9, 11, 13, 16, 21, 24, 29)


def _minor(vllm: tuple[int, ...]) -> int:
    """The newest known version that is not newer than this one."""
    return max(minor for minor in _KNOWN if minor <= max(vllm[1], _KNOWN[0]))


def _add_options(parser: argparse.ArgumentParser, minor: int) -> None:
    for line in _OPTIONS.splitlines():
        names, kind, versions = line.split()
        first, last = versions.split("-")
        if not int(first) <= minor <= int(last):
            continue
        flags = [name if name.startswith("-") else f"--{name}" for name in names.split("|")]
        keywords = _keywords(kind)
        if flags[0] in ("--max-model-len", "--max-num-batched-tokens") and minor > 7:
            keywords["type"] = _length
        parser.add_argument(*flags, **keywords)


def api_server_parser(vllm: tuple[int, ...]) -> argparse.ArgumentParser:
    """``python -m vllm.entrypoints.openai.api_server``; from 0.11 on it takes (and ignores) a positional model."""
    minor = _minor(vllm)
    parser = _Parser(prog="api_server.py", description="vLLM OpenAI-Compatible RESTful API server.")
    if minor >= 11:
        parser.add_argument("model_tag", nargs="?")
    _add_options(parser, minor)
    return parser


def serve_parser(vllm: tuple[int, ...]) -> argparse.ArgumentParser:
    """``vllm serve``; the positional model is required in 0.7 and optional later."""
    minor = _minor(vllm)
    parser = _Parser(prog="vllm serve")
    if minor == 7:
        parser.add_argument("model_tag")
    else:
        parser.add_argument("model_tag", nargs="?")
    if minor == 7:
        parser.add_argument("--config", type=str, default="")
    _add_options(parser, minor)
    return parser
