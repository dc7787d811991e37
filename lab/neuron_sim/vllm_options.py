# SPDX-License-Identifier: Apache-2.0
"""The options of vLLM's server, by vLLM version.

One line an option: names, kind, first and last minor version of vLLM 0.x (of those below) that has it. Source: the
argument definitions of the AWS fork at neuron-2.23-vllm-v0.7.2 (V0) and of vLLM 0.9.1 (V0), 0.11.0, 0.13.0, 0.16.0
(V1) and 0.24.0; choices that depend on the accelerator are left open.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

_OPTIONS = """\
model str 7-24
task str 7-7
tokenizer str 7-24
tokenizer-mode str 13-24
tokenizer-mode choice:auto,slow,mistral,custom 9-11
trust-remote-code switch 9-24
skip-tokenizer-init flag 7-7
revision str 7-24
code-revision str 7-24
tokenizer-revision str 7-24
tokenizer-mode choice:auto,slow,mistral 7-7
trust-remote-code flag 7-7
allowed-local-media-path str 7-24
allowed-media-domains str+ 11-24
download-dir str 7-24
safetensors-load-strategy str 11-24
safetensors-prefetch-num-threads int 24-24
safetensors-prefetch-block-size int 24-24
model-loader-extra-config json 9-24
ignore-patterns str+ 9-24
use-tqdm-on-load switch 9-24
load-format str 7-24
config-format str 7-7
dtype choice:auto,half,float16,bfloat16,float,float32 7-24
kv-cache-dtype choice:auto,fp8,fp8_e5m2,fp8_e4m3 7-7
max-model-len int 7-24
guided-decoding-backend choice:outlines,lm-format-enforcer,xgrammar 7-7
logits-processor-pattern str 7-16
model-impl str 7-24
override-attention-dtype str 11-24
logits-processors str+ 11-24
io-processor-plugin str 11-24
renderer-num-workers int 24-24
distributed-executor-backend choice:ray,mp,uni,external_launcher 7-7
pipeline-parallel-size|-pp int 7-24
master-addr str 13-24
master-port int 13-24
nnodes|-n int 13-24
node-rank|-r int 13-24
distributed-timeout-seconds int 24-24
cpu-distributed-timeout-seconds int 24-24
numa-bind switch 24-24
numa-bind-nodes int+ 24-24
numa-bind-cpus str+ 24-24
device-ids str 24-24
tensor-parallel-size|-tp int 7-24
decode-context-parallel-size|-dcp int 11-24
dcp-comm-backend choice:ag_rs,a2a 24-24
dcp-kv-cache-interleave-size int 13-24
cp-kv-cache-interleave-size int 13-24
prefill-context-parallel-size|-pcp int 13-24
data-parallel-size|-dp int 9-24
data-parallel-rank|-dpn int 11-24
data-parallel-size-local|-dpl int 9-24
data-parallel-address|-dpa str 9-24
data-parallel-rpc-port|-dpp int 9-24
data-parallel-backend|-dpb str 9-24
data-parallel-hybrid-lb|-dph switch 13-24
data-parallel-external-lb|-dpe switch 13-24
data-parallel-multi-port-external-lb|-dpm flag 24-24
enable-expert-parallel|-ep switch 16-24
enable-ep-weight-filter switch 24-24
all2all-backend str 24-24
all2all-backend str 16-16
data-parallel-hybrid-lb switch 11-11
enable-expert-parallel switch 9-13
all2all-backend str 13-13
enable-dbo switch 11-24
ubatch-size int 16-24
enable-elastic-ep switch 24-24
dbo-decode-token-threshold int 11-24
dbo-prefill-token-threshold int 11-24
disable-nccl-for-dp-synchronization switch 13-24
enable-eplb switch 11-24
eplb-config json 11-24
expert-placement-strategy choice:linear,round_robin 11-24
num-redundant-experts int 11-11
eplb-window-size int 11-11
eplb-step-interval int 11-11
eplb-log-balancedness switch 11-11
max-parallel-loading-workers int 7-24
ray-workers-use-nsight switch 9-24
disable-custom-all-reduce switch 9-24
ray-workers-use-nsight flag 7-7
block-size intchoice:8,16,32,64,128 7-7
enable-prefix-caching switch 7-24
prefix-caching-hash-algo choice:sha256,sha256_cbor,xxhash,xxhash_cbor 13-24
prefix-caching-hash-algo choice:sha256,sha256_cbor 11-11
prefix-caching-hash-algo choice:builtin,sha256 9-9
disable-sliding-window flag 7-7
use-v2-block-manager flag 7-9
num-lookahead-slots int 7-11
seed int 7-24
hf-config-path str 9-24
swap-space float 7-16
kv-cache-dtype choice:auto,bfloat16,fp8,fp8_e4m3,fp8_e5m2,fp8_inc,fp8_ds_mla 13-16
kv-cache-dtype choice:auto,bfloat16,fp8,fp8_e4m3,fp8_e5m2,fp8_inc 11-11
kv-cache-dtype choice:auto,fp8,fp8_e4m3,fp8_e5m2 9-9
cpu-offload-gb float 7-24
cpu-offload-params str 24-24
offload-group-size int 24-24
offload-num-in-group int 24-24
offload-prefetch-step int 24-24
offload-params str 24-24
language-model-only switch 24-24
calculate-kv-scales switch 9-24
kv-cache-dtype-skip-layers str+ 24-24
kv-sharing-fast-prefill switch 11-24
mamba-cache-dtype choice:auto,float32,float16,bfloat16 24-24
mamba-ssm-cache-dtype choice:auto,float32,float16,bfloat16 24-24
mamba-cache-dtype choice:auto,float32,float16 13-16
mamba-ssm-cache-dtype choice:auto,float32,float16 13-16
mamba-block-size int 13-24
mamba-cache-mode choice:all,align,none 16-24
kv-offloading-size float 13-24
kv-offloading-backend choice:native,lmcache 13-24
offload-backend choice:auto,uva,prefetch 24-24
mamba-cache-dtype choice:auto,float32 11-11
mamba-ssm-cache-dtype choice:auto,float32 11-11
gpu-memory-utilization float 7-24
kv-cache-memory-bytes int 11-24
kv-cache-dtype str 24-24
num-gpu-blocks-override int 7-24
max-num-batched-tokens int 7-24
max-num-seqs int 7-24
max-num-partial-prefills int 9-24
max-long-partial-prefills int 9-24
cuda-graph-sizes int+ 9-11
long-prefill-token-threshold int 9-24
max-logprobs int 7-24
logprobs-mode choice:raw_logits,raw_logprobs,processed_logits,processed_logprobs 11-24
use-fp64-gumbel switch 24-24
disable-sliding-window switch 9-24
disable-cascade-attn switch 9-24
skip-tokenizer-init switch 9-24
enable-prompt-embeds switch 9-24
disable-log-stats flag 7-24
aggregate-engine-logging flag 13-24
fail-on-environ-validation switch 24-24
shutdown-timeout int 24-24
gdn-prefill-backend choice:flashinfer,triton,cutedsl 24-24
enable-log-requests switch 11-24
disable-log-requests switch 11-16
quantization|-q str 7-24
quantization-config json 24-24
allow-deprecated-quantization switch 16-24
enforce-eager switch 9-24
enable-return-routed-experts switch 16-24
rope-scaling json 7-11
rope-theta float 7-11
hf-overrides json 7-7
enforce-eager flag 7-7
max-seq-len-to-capture int 7-9
disable-custom-all-reduce flag 7-7
tokenizer-pool-size int 7-9
tokenizer-pool-type str 7-9
tokenizer-pool-extra-config json 9-9
limit-mm-per-prompt json 9-16
enable-mm-embeds switch 13-24
media-io-kwargs json 11-24
tokenizer-pool-extra-config str 7-7
limit-mm-per-prompt str 7-7
limit-mm-per-prompt str 24-24
mm-processor-kwargs json 7-24
mm-processor-cache-gb float 11-24
disable-mm-preprocessor-cache switch 9-9
enable-lora switch 9-24
enable-lora-bias switch 9-11
disable-mm-preprocessor-cache flag 7-7
disable-mm-preprocessor-cache flag 11-11
mm-processor-cache-type choice:shm,lru 11-24
mm-shm-cache-max-object-size-mb int 11-24
mm-encoder-only switch 16-24
mm-encoder-tp-mode choice:weights,data 11-24
mm-encoder-attn-backend str 13-24
mm-encoder-attn-dtype choice:fp8 24-24
mm-encoder-fp8-scale-path str 24-24
mm-encoder-fp8-scale-save-path str 24-24
mm-encoder-fp8-scale-save-margin float 24-24
interleave-mm-strings switch 11-24
skip-mm-profiling switch 11-24
video-pruning-rate float 11-24
mm-tensor-ipc choice:direct_rpc,torch_shm 24-24
enable-lora flag 7-7
enable-lora-bias flag 7-7
max-loras int 7-24
max-lora-rank int 7-24
lora-extra-vocab-size int 7-11
lora-dtype choice:auto,float16,bfloat16 7-24
enable-tower-connector-lora switch 16-24
long-lora-scaling-factors str+ 9-9
long-lora-scaling-factors str 7-7
max-cpu-loras int 7-24
fully-sharded-loras switch 9-24
lora-target-modules str+ 24-24
default-mm-loras json 11-24
specialize-active-lora switch 16-24
enable-mixed-moe-lora-format switch 24-24
enable-prompt-adapter switch 9-9
fully-sharded-loras flag 7-7
enable-prompt-adapter flag 7-7
max-prompt-adapters int 7-9
max-prompt-adapter-token int 7-9
device choice:auto,cuda,neuron,cpu,tpu,xpu,hpu 9-9
speculative-config json 9-16
show-hidden-metrics-for-version str 9-24
device choice:auto,cuda,neuron,cpu,openvino,tpu,xpu,hpu 7-7
num-scheduler-steps int 7-9
multi-step-stream-outputs switch 9-9
multi-step-stream-outputs storebool 7-7
scheduler-delay-factor float 7-9
preemption-mode choice:swap,recompute 9-9
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
served-model-name str+ 7-24
qlora-adapter-name-or-path str 7-9
pt-load-map-location json 9-24
attention-backend str 13-24
mamba-backend str 24-24
enable-mamba-cache-stochastic-rounding switch 24-24
mamba-cache-philox-rounds int 24-24
guided-decoding-backend choice:auto,outlines,lm-format-enforcer,xgrammar,guidance,auto,xgrammar,guidance 9-9
guided-decoding-disable-fallback switch 9-9
guided-decoding-disable-any-whitespace switch 9-9
guided-decoding-disable-additional-properties switch 9-9
enable-reasoning switch 9-9
otlp-traces-endpoint str 7-24
collect-detailed-traces str+ 9-24
kv-cache-metrics switch 13-24
kv-cache-metrics-sample float 13-24
cudagraph-metrics switch 13-24
enable-layerwise-nvtx-tracing switch 13-24
enable-mfu-metrics switch 16-24
enable-logging-iteration-details switch 16-24
jit-monitor-verbose switch 24-24
collect-detailed-traces str 7-7
disable-async-output-proc flag 7-9
config-format json 9-24
hf-token str 9-24
hf-overrides str 9-24
pooler-config json 11-24
scheduling-policy choice:fcfs,priority 7-24
enable-chunked-prefill switch 9-24
disable-chunked-mm-input switch 9-24
scheduler-cls str 9-24
scheduler-reserve-full-isl switch 24-24
watermark float 24-24
prefill-schedule-interval int 24-24
disable-hybrid-kv-cache-manager switch 9-24
async-scheduling switch 11-24
stream-interval int 13-24
cudagraph-capture-sizes int+ 13-24
max-cudagraph-capture-size int 13-24
ir-op-priority json 24-24
enable-flashinfer-autotune switch 16-24
moe-backend str 24-24
linear-backend str 24-24
speculative-config|-sc json 24-24
spec-method str 24-24
spec-model str 24-24
spec-tokens int 24-24
diffusion-config|-dc json 24-24
override-neuron-config json 7-9
override-pooler-config json 7-11
compilation-config|-O json 7-11
additional-config json 9-24
structured-outputs-config json 11-24
profiler-config json 13-24
optimization-level str 13-24
performance-mode choice:balanced,interactivity,throughput 24-24
weight-transfer-config json 16-24
kv-transfer-config json 7-24
kv-events-config json 9-24
ec-transfer-config json 13-24
compilation-config|-cc json 13-24
attention-config|-ac json 13-24
reasoning-config json 24-24
kernel-config json 16-24
worker-cls str 7-24
worker-extension-cls str 9-24
enable-multimodal-encoder-data-parallel flag 11-11
enable-multimodal-encoder-data-parallel switch 9-9
block-size int 9-24
generation-config str 7-24
override-generation-config json 7-24
enable-sleep-mode switch 9-24
enable-cumem-allocator switch 24-24
enable-sleep-mode flag 7-7
calculate-kv-scales flag 7-7
disable-log-requests flag 7-9
host str 7-24
port int 7-24
data-parallel-supervisor-port int 24-24
dp-supervisor-probe-interval-s float 24-24
dp-supervisor-probe-timeout-s float 24-24
dp-supervisor-probe-failure-threshold int 24-24
uds str 11-24
uvicorn-log-level choice:critical,error,warning,info,debug,trace 16-24
uvicorn-log-level choice:debug,info,warning,error,critical,trace 7-13
disable-uvicorn-access-log switch 11-24
disable-access-log-for-endpoints str 16-24
allow-credentials switch 11-24
allowed-origins str+ 11-24
allowed-methods str+ 11-24
allowed-headers str+ 11-24
api-key str+ 11-24
disable-uvicorn-access-log flag 9-9
allow-credentials flag 7-9
allowed-origins json 7-9
allowed-methods json 7-9
allowed-headers json 7-9
api-key str 7-9
lora-modules str+ 7-24
prompt-adapters str+ 7-9
chat-template str 7-24
chat-template-content-format str 7-24
trust-request-chat-template switch 11-24
default-chat-template-kwargs json 16-24
response-role str 7-24
ssl-keyfile str 7-24
ssl-certfile str 7-24
ssl-ca-certs str 7-24
enable-ssl-refresh switch 11-24
enable-ssl-refresh flag 9-9
ssl-cert-reqs int 7-24
ssl-ciphers str 16-24
root-path str 7-24
middleware str+ 11-24
return-tokens-as-token-ids switch 11-24
disable-frontend-multiprocessing switch 11-16
enable-request-id-headers switch 11-24
enable-auto-tool-choice switch 11-24
exclude-tools-when-tool-choice-none switch 11-24
middleware append 7-9
return-tokens-as-token-ids flag 7-9
disable-frontend-multiprocessing flag 7-9
enable-request-id-headers flag 7-9
enable-auto-tool-choice flag 7-9
enable-reasoning flag 7-7
reasoning-parser str 7-24
reasoning-parser-plugin str 13-24
distributed-executor-backend str 11-24
distributed-executor-backend choice:ray,mp,uni,external_launcher,ExecutorBase 9-9
tool-call-parser str 7-24
tool-parser-plugin str 7-24
tool-server str 11-24
log-config-file str 9-24
max-log-len int 7-24
disable-fastapi-docs switch 11-24
enable-prompt-tokens-details switch 11-24
enable-server-load-tracking switch 11-24
enable-force-include-usage switch 11-24
enable-tokenizer-info-endpoint switch 11-24
enable-log-outputs switch 11-24
enable-log-deltas switch 16-24
h11-max-incomplete-event-size int 11-24
h11-max-header-count int 11-24
log-error-stack switch 11-24
tokens-only switch 13-24
fingerprint-mode choice:full,hash,custom,none 24-24
fingerprint-value str 24-24
enable-offline-docs switch 16-24
enable-flash-late-interaction switch 24-24
disable-fastapi-docs flag 7-9
enable-prompt-tokens-details flag 7-9
enable-server-load-tracking flag 9-9
headless flag 9-24
data-parallel-start-rank|-dpr int 9-24
api-server-count|-asc int 9-24
config str 9-24
grpc flag 24-24
task choice:auto,generate,embedding,embed,classify,score,reward,transcription,draft 9-11
runner choice:auto,generate,pooling,draft 11-24
convert choice:auto,none,embed,classify 16-24
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


def _minor(vllm: tuple[int, ...]) -> int:
    known = (7, 9, 11, 13, 16, 24)
    return max(minor for minor in known if minor <= max(vllm[1], known[0]))


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
