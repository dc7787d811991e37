# SPDX-License-Identifier: Apache-2.0
"""The options of ``inference_demo run``, by NxDI version.

One line an option: name, kind, then what differs. ``since`` and ``until`` are the minor version of NxDI 0.x that first
and last has it. Source: ``inference_demo.py`` of aws-neuron/neuronx-distributed-inference at the tags 0.3.5591,
0.4.7422, 0.5.9230, 0.6.10598 and 0.7.14366 and on main (0.10); 0.8 and 0.9 have no tag and are taken as 0.7 with
nothing removed. A test compares this table with the upstream names.
"""

from __future__ import annotations

import argparse
import enum
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Model type -> the minor version of NxDI that first takes it on the command line.
MODEL_TYPES = {
    "llama": 3,
    "mistral": 10,
    "mixtral": 3,
    "dbrx": 3,
    "qwen2": 5,
    "qwen3": 5,
    "qwen3_moe": 6,
    "gemma3": 10,
}
_CHOICES = {
    "quantization": ("per_tensor_symmetric", "per_channel_symmetric", "expert_wise_per_channel_symmetric"),
    "activation": ("dynamic",),
    "cast": ("config", "as-declared"),
}
_DTYPES = {"float32": 3, "float16": 3, "bfloat16": 3, "float8_e4m3fn": 10, "float8_e5m2": 10}

_OPTIONS = """\
model-path str required
compiled-model-path str required
benchmark flag
check-accuracy-mode accuracy default=skip-accuracy-check
expected-outputs-path str since=7
expected-outputs-path file until=6
divergence-difference-tol float default=0.001
tol-map str
num-tokens-to-check int
prompt append required dest=prompts
top-k int default=1
top-p float default=1.0
temperature float default=1.0
global-topk int
do-sample flag
dynamic flag
pad-token-id int default=0
top-k-kernel-enabled flag since=5
torch-dtype dtype
batch-size int
padding-side str
allow-input-truncation flag
seq-len int
n-active-tokens int
n-positions int
max-context-length int
max-new-tokens int
max-length int
rpl-reduce-dtype dtype
attention-dtype dtype since=4
output-logits flag
vocab-parallel flag
layer-boundary-markers flag
fused-qkv flag
sequence-parallel-enabled flag
weight-gather-seq-len-threshold int
flash-decoding-enabled flag
ctx-batch-size int
tkg-batch-size int
max-batch-size int
is-continuous-batching flag
kv-cache-batch-size int
kv-cache-padding-size int
disable-kv-cache-tiling flag
on-device-sampling flag
sampling-dp-degree int since=10
enable-bucketing flag
bucket-n-active-tokens flag
context-encoding-buckets int+
prefix-buckets int+ since=4
token-generation-buckets int+
quantized flag
quantized-checkpoints-path str
quantization-type quantization
kv-cache-quant flag
k-quant-method quantmethod default=per_tensor_symmetric since=10
v-quant-method quantmethod default=per_tensor_symmetric since=10
kv-quant-dtype dtype default=float8_e4m3fn since=10
kv-direct-cast switch default=True since=10
quantization-dtype str
modules-to-not-convert-file modules dest=modules_to_not_convert_lists
capacity-factor float
early-expert-affinity-modulation flag since=4
disable-normalize-top-k-affinities flag since=4
fused-shared-experts flag since=4
router-act-fn str since=4
router-dtype str since=4
draft-model-path str
draft-model-tp-degree int
compiled-draft-model-path str
enable-fused-speculation flag
enable-eagle-speculation flag
enable-eagle-draft-input-norm flag
speculation-length int
spec-batch-size int
is-medusa flag
medusa-speculation-length int
num-medusa-heads int
medusa-tree-json json dest=medusa_tree
token-tree-json json dest=token_tree_config
tp-degree int
cp-degree int since=4
mlp-cp-degree int since=7
attention-dp-degree int since=5
pp-degree int
ep-degree int
moe-tp-degree int default=1 since=7
moe-ep-degree int default=1 since=7
world-size int
start_rank_id int
local_ranks_size int
enable-torch-dist flag
save-sharded-checkpoint flag
skip-sharding flag
enable-block-kv-layout flag dest=is_block_kv_layout
pa-num-blocks int
pa-block-size int
enable-chunked-prefill flag dest=is_chunked_prefill
enable-prefix-caching flag dest=is_prefix_caching
max-num-seqs int since=4
cp-max-num-seqs int until=3
cp-num-active-blocks int until=3
async-mode flag
windowed-context-encoding-size int since=7
enable-lora flag
enable-dynamic-multi-lora flag since=7
max-loras int default=1
max-lora-rank int default=16
target-modules str+
max-cpu-loras int default=1 since=7
max-loras-on-cpu int until=6
lora-ckpt-path append dest=lora_ckpt_paths
lora-ckpt-path-cpu append dest=lora_ckpt_paths_cpu since=7
lora-ckpt-json str dest=lora_ckpt_json since=7
adapter-id append dest=adapter_ids
qkv-kernel-enabled flag
qkv-nki-kernel-enabled flag since=7
qkv-cte-nki-kernel-fuse-rope flag since=7
qkv-kernel-nbsd-layout flag
attn-kernel-enabled switch since=4
strided-context-parallel-kernel-enabled flag since=6
attn-kernel-enabled flag until=3
mlp-kernel-enabled flag
mlp-tkg-nki-kernel-enabled flag since=7 until=9
quantized-mlp-kernel-enabled flag
fused-rmsnorm-skip-gamma flag
activation-quantization-type activation
rmsnorm-quantize-kernel-enabled flag
quantize-clamp-bound float default=inf
mlp-kernel-fuse-residual-add flag
qkv-kernel-fuse-residual-add flag
attn-tkg-nki-kernel-enabled flag until=9
attn-tkg-builtin-kernel-enabled flag until=9
attn-block-tkg-nki-kernel-enabled flag
attn-block-tkg-nki-kernel-cascaded-attention flag since=7
attn-block-tkg-nki-kernel-cache-update flag
attn-block-cte-nki-kernel-enabled flag since=5 until=9
k-cache-transposed flag
is-eagle3 flag since=7
logical-neuron-cores int
logical-nc-config int
cc-pipeline-tiling-factor int default=2
enable-spill-reload-dge flag since=4
scratchpad-page-size int since=5
on-cpu flag
benchmark-report-path str default=./benchmark_report.json since=4
capture-indices indices
input-capture-save-dir str
cast-type cast default=config since=4
skip-warmup flag
skip-compile flag
compile-only flag
compile-dry-run flag
hlo-debug flag
apply-seq-ids-mask flag since=4
input-start-offsets int+ since=4
enable-output-completion-notifications flag since=5
"""


# argparse names a converter when it refuses a value, so these have upstream's names.


def _dtype_converter(minor: int) -> Callable[[str], str]:
    def to_torch_dtype(text: str) -> str:
        # Upstream asserts inside its converter, so a wrong name is an AssertionError and no message of argparse.
        if _DTYPES.get(text, 99) > minor:
            raise AssertionError(f"Unsupported dtype: {text}")
        return text

    return to_torch_dtype


def load_json_file(path: str) -> Any:
    """The content of a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def get_modules_to_not_convert_json(path: str) -> Any:
    """The content of a file."""
    return load_json_file(path)


def validate_file_exists(path: str) -> str:
    """The path, when there is a file.

    Raises:
        argparse.ArgumentError: there is none. Upstream raises it with an argument too few, which is a TypeError.
    """
    if not Path(path).is_file():
        raise TypeError("ArgumentError.__init__() missing 1 required positional argument: 'message'")
    return path


def str_to_quantization_type(text: str) -> str:
    """A way to quantize, as neuronx_distributed calls it."""
    if text not in (*_CHOICES["quantization"], "per_key_symmetric"):
        raise ValueError(text)
    return text


class StringOrIntegers(argparse.Action):
    """Whole numbers, or the one word ``auto``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Take the values.

        Raises:
            argparse.ArgumentTypeError: neither; argparse does not catch it here, so it ends the command.
        """
        del parser, option_string
        words: Sequence[str] = values
        if [word.lower() for word in words] == ["auto"]:
            setattr(namespace, self.dest, "auto")
            return
        for word in words:
            if word.lower() == "auto":
                raise argparse.ArgumentTypeError("'auto' can only be used once and not with other arguments.")
            if not word.lstrip("+-").isdigit():
                raise argparse.ArgumentTypeError(f"'{word}' is not a valid input. It must be 'auto' or an integer.")
        setattr(namespace, self.dest, [int(word) for word in words])


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "json": load_json_file,
    "modules": get_modules_to_not_convert_json,
    "file": validate_file_exists,
    "quantmethod": str_to_quantization_type,
}


def _accuracy_modes(minor: int) -> Any:
    names = ["skip-accuracy-check", "token-matching", "logit-matching"]
    names += ["draft-logit-matching"] if minor >= 7 else []
    return enum.Enum("CheckAccuracyMode", {name.upper().replace("-", "_"): name for name in names})


def _keywords(kind: str, minor: int) -> dict[str, Any]:
    if kind == "flag":
        return {"action": "store_true"}
    if kind == "switch":
        return {"action": argparse.BooleanOptionalAction}
    if kind == "append":
        return {"action": "append", "type": str}
    if kind == "accuracy":
        modes = _accuracy_modes(minor)
        return {"type": modes, "choices": list(modes)}
    if kind == "indices":
        return {"action": StringOrIntegers, "nargs": "+"}
    if kind == "dtype":
        return {"type": _dtype_converter(minor)}
    if kind in _CHOICES:
        return {"choices": _CHOICES[kind]}
    converter = _CONVERTERS[kind.rstrip("+")]
    return {"type": converter, "nargs": "+"} if kind.endswith("+") else {"type": converter}


def _add(parser: argparse._ActionsContainer, line: str, minor: int) -> None:
    name, kind, *extras = line.split()
    extra = dict(part.partition("=")[::2] for part in extras)
    if not int(extra.pop("since", "0")) <= minor <= int(extra.pop("until", "99")):
        return
    keywords = _keywords(kind, minor)
    if "required" in extra:
        keywords["required"] = True
    if "dest" in extra:
        keywords["dest"] = extra["dest"]
    if "default" in extra:
        converter = keywords.get("type", str)
        keywords["default"] = extra["default"] == "True" if kind == "switch" else converter(extra["default"])
    parser.add_argument(f"--{name}", **keywords)


def build_parser(nxdi: str) -> argparse.ArgumentParser:
    """The command line of ``inference_demo`` at this NxDI version, such as ``0.3.5591``."""
    minor = int(nxdi.split(".")[1])
    parser = argparse.ArgumentParser(prog="inference_demo")
    types = [name for name, since in MODEL_TYPES.items() if since <= minor]
    parser.add_argument("--model-type", type=str, choices=types, required=True)
    parser.add_argument("--task-type", type=str, required=True)
    run = parser.add_subparsers(dest="command").add_parser("run")
    lnc = run.add_mutually_exclusive_group()
    for line in _OPTIONS.splitlines():
        _add(lnc if line.startswith("logical-") else run, line, minor)
    return parser
