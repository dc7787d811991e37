# SPDX-License-Identifier: Apache-2.0
"""Does a model fit: from its config.json to parameters, bytes, KV cache, device memory, host memory and disk.

Parameters and KV bytes are exact for the architectures below. What a core needs beside them, what a load takes of the
host and how large an artifact is are estimates: each says its formula, and no plan calls them anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem

GIB = 1 << 30

#: Bytes of one number, by the names that config.json, vLLM and the engine use.
DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "float8_e4m3fn": 1,
    "f8e4m3": 1,
    "int8": 1,
    # 4 bits and an 8-bit scale for each 32 numbers.
    "mxfp4": 4.25 / 8,
}

#: config.json's model_type -> whether its MLP is a mixture of experts.
ARCHITECTURES: Mapping[str, bool] = {
    "llama": False,
    "mistral": False,
    "qwen2": False,
    "qwen3": False,
    "qwen3_moe": True,
    "mixtral": True,
    "gpt_oss": True,
}

#: quant_method of a checkpoint -> what its linear layers (or its experts alone) are stored in.
_QUANTIZED = {"fp8": "fp8", "modelopt": "fp8", "mxfp4": "mxfp4"}
_QUANTIZED_EXPERTS_ONLY = ("mxfp4",)

#: Generations whose engine adds query heads where the cores do not divide them.
PADDING_GENERATIONS = ("nxdi_v1",)

#: Of a core's memory, kept for the loaded programs, their scratch space and the runtime's buffers. An assumption: the
#: real figure is in the runtime's memory report after a load.
RESERVED_BYTES_PER_CORE = GIB

#: Bytes of the compiled programs of one artifact, without weights. An assumption, on the large side.
PROGRAM_BYTES = 2 * GIB

#: Share of the host's memory that loads may take; the rest is the system's, vLLM's and the page cache's.
HOST_SHARE = 0.85


class ConfigError(ValueError):
    """A config.json cannot be read as a model that is known here; the message says what is wrong with it."""


@dataclass(frozen=True)
class Heads:
    """How attention heads fall on the cores of one replica.

    Attributes:
        query: query heads with those that padding adds.
        key_value: KV heads as they are kept, each as often as it is replicated.
        strategy: `divided`, `replicated` (each KV head on several cores) or `converted` (one for each query head,
            the most memory that there is).
        padding: query heads that padding adds.
        replication: how often each KV head is kept.
    """

    query: int
    key_value: int
    strategy: str
    padding: int
    replication: float


@dataclass(frozen=True)
class ModelShape:
    """What config.json says of a model, as far as memory is concerned.

    Attributes:
        model_type: one of `ARCHITECTURES`.
        experts: experts of a layer, 0 for a dense MLP.
        expert_size: width of one expert, 0 for a dense MLP.
        dtype: what the checkpoint is stored in.
        quantization: what its quantized layers are stored in, None for none.
        max_positions: longest sequence in tokens that the model was made for, None where the file does not say.
    """

    model_type: str
    hidden_size: int
    layers: int
    query_heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary: int
    tied_embeddings: bool
    experts: int = 0
    expert_size: int = 0
    dtype: str = "bfloat16"
    quantization: Optional[str] = None
    max_positions: Optional[int] = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a config.json.

        Raises:
            ConfigError: it is none of a known architecture, or lacks a size.
        """
        text = config.get("text_config")
        source: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
        model_type = str(source.get("model_type"))
        if model_type not in ARCHITECTURES:
            raise ConfigError(
                "model_type %r is none of %s, so its memory cannot be told"
                % (model_type, ", ".join(sorted(ARCHITECTURES)))
            )
        hidden, heads = _size(source, "hidden_size"), _size(source, "num_attention_heads")
        is_mixture = ARCHITECTURES[model_type]
        return cls(
            model_type=model_type,
            hidden_size=hidden,
            layers=_size(source, "num_hidden_layers"),
            query_heads=heads,
            kv_heads=_size(source, "num_key_value_heads", heads),
            head_size=_size(source, "head_dim", hidden // heads),
            intermediate_size=_size(source, "intermediate_size"),
            vocabulary=_size(source, "vocab_size"),
            tied_embeddings=bool(source.get("tie_word_embeddings", False)),
            experts=_size(source, "num_local_experts" if "num_local_experts" in source else "num_experts")
            if is_mixture
            else 0,
            expert_size=_size(source, "moe_intermediate_size", _size(source, "intermediate_size")) if is_mixture else 0,
            dtype=str(source.get("torch_dtype") or source.get("dtype") or "bfloat16"),
            quantization=_quantization(source),
            max_positions=source.get("max_position_embeddings"),
        )

    @property
    def _attention(self) -> int:
        """Parameters of one layer's projections: queries and output, keys and values, and the biases some have."""
        queries, keys = self.query_heads * self.head_size, self.kv_heads * self.head_size
        weights = 2 * self.hidden_size * queries + 2 * self.hidden_size * keys
        biases = {
            "qwen2": queries + 2 * keys,
            # Biases of all four projections, and a sink for each head.
            "gpt_oss": queries + 2 * keys + self.hidden_size + self.query_heads,
        }
        return weights + biases.get(self.model_type, 0)

    @property
    def _mlp(self) -> int:
        """Parameters of one layer's MLP: gate, up and down; for a mixture of all experts, without their router."""
        if not self.experts:
            return 3 * self.hidden_size * self.intermediate_size
        biases = 2 * self.expert_size + self.hidden_size if self.model_type == "gpt_oss" else 0
        return self.experts * (3 * self.hidden_size * self.expert_size + biases)

    @property
    def _router(self) -> int:
        biases = self.experts if self.model_type == "gpt_oss" else 0
        return self.hidden_size * self.experts + biases

    @property
    def _norms(self) -> int:
        """Parameters of one layer's norms: before attention, before the MLP; Qwen3 also has one on queries and keys."""
        per_head = 2 * self.head_size if self.model_type in ("qwen3", "qwen3_moe") else 0
        return 2 * self.hidden_size + per_head

    @property
    def parameter_groups(self) -> Dict[str, int]:
        """Parameters by what they are for: `embedding`, `attention`, `mlp`, `router`, `norm`."""
        embeddings = self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)
        return {
            "embedding": embeddings,
            "attention": self.layers * self._attention,
            "mlp": self.layers * self._mlp,
            "router": self.layers * self._router,
            "norm": self.layers * self._norms + self.hidden_size,
        }

    @property
    def parameters(self) -> int:
        """All parameters, each counted once."""
        return sum(self.parameter_groups.values())

    def weights_bytes(self, dtype: str = "bfloat16") -> int:
        """Return the bytes of all weights in one dtype."""
        return math.ceil(self.parameters * dtype_bytes(dtype))

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the checkpoint's safetensors, by its own dtype and quantization; headers are not counted."""
        plain = dtype_bytes(self.dtype)
        small = dtype_bytes(self.quantization) if self.quantization else plain
        experts_only = self.quantization in _QUANTIZED_EXPERTS_ONLY
        quantized = ("mlp",) if experts_only else ("attention", "mlp")
        return math.ceil(
            sum(count * (small if name in quantized else plain) for name, count in self.parameter_groups.items())
        )

    def heads(self, tensor_parallel_size: int) -> Heads:
        """Return how heads fall on `tensor_parallel_size` cores, as NxDI does it.

        Query heads are padded to a multiple of the cores. KV heads that do not divide are replicated to one for each
        core where the cores are a multiple of them, and else to one for each query head.
        """
        extra = -self.query_heads % tensor_parallel_size
        query = self.query_heads + extra
        if self.query_heads == self.kv_heads:
            key_value, strategy = query, "divided"
        elif self.kv_heads >= tensor_parallel_size and self.kv_heads % tensor_parallel_size == 0:
            key_value, strategy = self.kv_heads, "divided"
        elif tensor_parallel_size % self.kv_heads == 0:
            key_value, strategy = tensor_parallel_size, "replicated"
        else:
            key_value, strategy = query, "converted"
        return Heads(query, key_value, strategy, extra, key_value / self.kv_heads)

    def kv_bytes_per_token(self, tensor_parallel_size: int = 1, dtype: str = "bfloat16") -> int:
        """Return the KV cache of one token on all cores together: 2 x layers x kept KV heads x head size x bytes."""
        kept = self.heads(tensor_parallel_size).key_value
        return math.ceil(2 * self.layers * kept * self.head_size * dtype_bytes(dtype))


@dataclass(frozen=True)
class Fit:
    """An estimate, per core in bytes, of what a replica needs of its cores' memory."""

    weights: int
    kv_cache: int
    activations: int
    reserved: int
    available: int
    heads: Heads

    @property
    def needed(self) -> int:
        """All of it together."""
        return self.weights + self.kv_cache + self.activations + self.reserved

    @property
    def fits(self) -> bool:
        """Whether the estimate stays within what the core has."""
        return self.needed <= self.available


def dtype_bytes(name: str) -> float:
    """Return the bytes of one number.

    Raises:
        ConfigError: the dtype is not known.
    """
    short = name[len("torch.") :] if name.startswith("torch.") else name
    if short not in DTYPE_BYTES:
        raise ConfigError("dtype %r is none of %s" % (name, ", ".join(sorted(DTYPE_BYTES))))
    return DTYPE_BYTES[short]


def _size(config: Mapping[str, Any], name: str, default: Optional[int] = None) -> int:
    value = config.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError("%s is %r, and must be a whole number of 1 or more" % (name, value))
    return value


def _quantization(config: Mapping[str, Any]) -> Optional[str]:
    found = config.get("quantization_config")
    if not isinstance(found, Mapping) or not found:
        return None
    method = str(found.get("quant_method"))
    if method not in _QUANTIZED or found.get("quant_algo", "FP8") != "FP8":
        raise ConfigError(
            "quant_method %r (quant_algo %r) is none of %s with FP8, so the checkpoint's size cannot be told"
            % (method, found.get("quant_algo"), ", ".join(sorted(_QUANTIZED)))
        )
    return _QUANTIZED[method]


def estimate_fit(
    shape: ModelShape,
    *,
    tensor_parallel_size: int,
    max_num_seqs: int,
    max_model_len: int,
    hbm_bytes_per_core: int,
    dtype: str = "bfloat16",
    kv_dtype: Optional[str] = None,
    kv_tokens: Optional[int] = None,
    prompt_tokens: Optional[int] = None,
) -> Fit:
    """Estimate what one core of a replica needs.

    Per core: weights = (parameters + what replicated KV heads and padded query heads add) x bytes / cores;
    KV cache = kv_tokens x bytes of a token / cores; activations = prompt_tokens x (4 x hidden + 2 x MLP width / cores)
    x bytes, for one prompt in work; and `RESERVED_BYTES_PER_CORE` for programs and runtime.

    Args:
        shape: the model.
        tensor_parallel_size: cores of the replica.
        max_num_seqs: sequences at once.
        max_model_len: tokens of a sequence.
        hbm_bytes_per_core: device memory of a logical core.
        dtype: what weights and activations are computed in.
        kv_dtype: what the KV cache is kept in; None for `dtype`.
        kv_tokens: tokens that the cache holds; None for every sequence at full length.
        prompt_tokens: longest prompt; None for `max_model_len`.
    """
    cores = tensor_parallel_size
    heads = shape.heads(cores)
    number = dtype_bytes(dtype)
    extra_kv = 2 * shape.hidden_size * shape.head_size * (heads.key_value - shape.kv_heads) * shape.layers
    extra_query = 2 * shape.hidden_size * shape.head_size * heads.padding * shape.layers
    weights = (shape.parameters + extra_kv + extra_query) * number / cores
    tokens = max_num_seqs * max_model_len if kv_tokens is None else kv_tokens
    cache = tokens * shape.kv_bytes_per_token(cores, kv_dtype or dtype) / cores
    prompt = max_model_len if prompt_tokens is None else prompt_tokens
    width = 4 * shape.hidden_size + 2 * (shape.expert_size or shape.intermediate_size) / cores
    return Fit(
        weights=math.ceil(weights),
        kv_cache=math.ceil(cache),
        activations=math.ceil(prompt * width * number),
        reserved=RESERVED_BYTES_PER_CORE,
        available=hbm_bytes_per_core,
        heads=heads,
    )


def fit_problems(fit: Fit, shape: ModelShape, tensor_parallel_size: int, where: str) -> List[Problem]:
    """Return the problem of a replica that does not fit its cores, nothing for one that does.

    Args:
        fit: the estimate.
        shape: the model.
        tensor_parallel_size: cores of the replica.
        where: the variable that holds the deployment.
    """
    if fit.fits:
        return []
    parts = "weights %.1f, KV cache %.1f, activations %.1f, reserved %.1f" % tuple(
        part / GIB for part in (fit.weights, fit.kv_cache, fit.activations, fit.reserved)
    )
    rule = "needs an estimated %.1f GiB of a core that has %.1f GiB (%s)" % (
        fit.needed / GIB,
        fit.available / GIB,
        parts,
    )
    if fit.weights + fit.reserved > fit.available:
        least = math.ceil(shape.weights_bytes() / max(fit.available - fit.reserved, 1))
        fix = "raise tensor_parallel_size to %d or more" % least
    else:
        fix = "raise tensor_parallel_size, or lower max_num_seqs or max_model_len"
    return [Problem("", where + ".tensor_parallel_size", tensor_parallel_size, rule, fix)]


def head_problems(
    shape: ModelShape, tensor_parallel_size: int, generation: str, where: str
) -> Tuple[List[Problem], List[Problem]]:
    """Return (problems, warnings) of a degree that does not divide the heads.

    vLLM compares the degree with the query heads before any engine starts (`verify_with_parallel_config`). The plugin
    around NxDI switches that off, because NxDI adds heads; nobody does for the other generations.

    Args:
        shape: the model.
        tensor_parallel_size: cores of the replica.
        generation: the SDK row's.
        where: the variable that holds the deployment.
    """
    heads = shape.heads(tensor_parallel_size)
    path = where + ".tensor_parallel_size"
    problems, warnings = [], []
    if heads.padding and generation not in PADDING_GENERATIONS:
        divisors = [str(count) for count in range(1, shape.query_heads + 1) if shape.query_heads % count == 0]
        rule = "does not divide the model's %d attention heads, and vLLM with %s starts with a divisor only" % (
            shape.query_heads,
            generation,
        )
        problems.append(Problem("", path, tensor_parallel_size, rule, "use one of %s" % ", ".join(divisors)))
    elif heads.padding:
        rule = "does not divide %d query heads: %d are added and compute nothing" % (shape.query_heads, heads.padding)
        warnings.append(Problem("", path, tensor_parallel_size, rule, "use a divisor of %d" % shape.query_heads))
    if heads.strategy == "converted":
        rule = "shares nothing with %d KV heads: each is kept %g times" % (shape.kv_heads, heads.replication)
        fix = "use a divisor or a multiple of %d" % shape.kv_heads
        warnings.append(Problem("", path, tensor_parallel_size, rule, fix))
    return problems, warnings


def length_problems(shape: ModelShape, max_model_len: int, where: str) -> List[Problem]:
    """Return the problem of a length in tokens that the model was not made for."""
    if shape.max_positions is None or max_model_len <= shape.max_positions:
        return []
    rule = "is over the model's %d positions" % shape.max_positions
    return [Problem("", where + ".max_model_len", max_model_len, rule, "give %d or less" % shape.max_positions)]


def host_bytes_per_load(checkpoint_bytes: int, generation: str, presharded: bool = False) -> int:
    """Estimate the host memory that one replica takes while it loads.

    NxDI reads a sharded artifact's files into one list (1 x the checkpoint), and without them builds the whole state
    dict and its shards beside it (2 x). The native plugin slices the files through the page cache, which replicas
    share and the kernel takes back; what each keeps is taken as a tenth.
    """
    if generation == "native":
        return math.ceil(0.1 * checkpoint_bytes)
    return checkpoint_bytes if presharded else 2 * checkpoint_bytes


def loads_at_once(host_memory_bytes: int, bytes_per_load: int, replicas: int) -> int:
    """Estimate how many replicas may load at once: `HOST_SHARE` of the host's memory / bytes of a load.

    Returns:
        1 to `replicas`, or 0 where not even one load fits.
    """
    return max(0, min(replicas, int(host_memory_bytes * HOST_SHARE // max(bytes_per_load, 1))))


def artifact_bytes(weights_bytes: int, presharded: bool = False) -> int:
    """Estimate the disk that one artifact takes: `PROGRAM_BYTES`, and with sharded checkpoints the weights again."""
    return PROGRAM_BYTES + (weights_bytes if presharded else 0)


def disk_bytes(checkpoints: List[int], artifacts: List[int]) -> Tuple[int, int]:
    """Return the disk that a host needs, in bytes: (in the end, while the largest artifact is made).

    A compilation writes its artifact beside the scratch directory, and both are whole before one is removed.
    """
    steady = sum(checkpoints) + sum(artifacts)
    return steady, steady + max(artifacts, default=0)
