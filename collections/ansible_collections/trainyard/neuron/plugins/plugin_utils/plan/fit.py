# SPDX-License-Identifier: Apache-2.0
"""Does a model fit: from its config.json to parameters, bytes, KV cache, device memory, host memory and disk.

Parameters and KV bytes are exact for the architectures below. What a core needs beside them, what a load takes of the
host and how large an artifact is are estimates: each says its formula, and no plan calls them anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

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
    "gemma3": False,
    "qwen3_moe": True,
    "mixtral": True,
    "gpt_oss": True,
    "llama4": True,
}

#: model_type of a part that reads text -> the architecture that it is.
PARTS_THAT_READ: Mapping[str, str] = {
    "gemma3_text": "gemma3",
    "llama4_text": "llama4",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}

#: Position encodings of config.json that do not make a longer sequence of the one that the file names.
_UNSCALED_ROPES = ("default", "llama3", "longrope", "su", "mrope", "proportional")

#: quant_method of a checkpoint -> what its linear layers (or its experts alone) are stored in.
_QUANTIZED = {"fp8": "fp8", "modelopt": "fp8", "mxfp4": "mxfp4"}
_QUANTIZED_EXPERTS_ONLY = ("mxfp4",)

#: Generations whose engine adds query heads where the cores do not divide them.
PADDING_GENERATIONS = ("nxdi_v1",)

#: Of a core's memory, kept for the loaded programs, their scratch space and the runtime's buffers. An assumption: the
#: real figure is in the runtime's memory report after a load.
RESERVED_BYTES_PER_CORE = GIB

#: What runtimes from 2.35 on keep of each core beside that, for profiles of transfers between host and device.
PROFILE_RESERVED_BYTES_PER_CORE = 64 << 20
PROFILE_RUNTIME = (2, 35)

#: Bytes of the compiled programs of one artifact, without weights. An assumption, on the large side.
PROGRAM_BYTES = 2 * GIB

#: Share of the host's memory that loads may take; the rest is the system's, vLLM's and the page cache's.
HOST_SHARE = 0.85


#: No model is wider, and none has more heads, experts or layers: a config.json that says so is not one.
MOST_WIDTH, MOST_HEADS = 1 << 26, 1 << 14

#: No sequence is stretched further.
MOST_STRETCH = 1 << 16


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
        rope_type: how positions are stretched (`yarn`, `linear`); empty where they are not, or where the model's own
            code has it done.
        rope_positions: longest sequence with the positions stretched, None where they are not.
        plain_positions: longest sequence of an engine that does not stretch them, None where they are not.
        dense_layers: layers of a mixture whose MLP is dense.
        dense_size: width of that MLP.
        shared_size: width of the expert of each layer that every token passes.
        sees: whether there is a part for images, which none of these sizes counts.
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
    rope_type: str = ""
    rope_positions: Optional[int] = None
    plain_positions: Optional[int] = None
    dense_layers: int = 0
    dense_size: int = 0
    shared_size: int = 0
    sees: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a config.json.

        Raises:
            ConfigError: it is none of a known architecture, or lacks a size.
        """
        if not isinstance(config, Mapping):
            raise ConfigError("it is a %s and no mapping" % type(config).__name__)
        text = config.get("text_config")
        source: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
        given = str(source.get("model_type"))
        model_type = PARTS_THAT_READ.get(given, given)
        if model_type not in ARCHITECTURES:
            raise ConfigError(
                "model_type %r is none of %s, so its memory cannot be told" % (given, ", ".join(sorted(ARCHITECTURES)))
            )
        hidden, heads = _size(source, "hidden_size"), _size(source, "num_attention_heads", most=MOST_HEADS)
        dtype = str(source.get("torch_dtype") or source.get("dtype") or "bfloat16")
        dtype_bytes(dtype)
        is_mixture = ARCHITECTURES[model_type]
        layers = _size(source, "num_hidden_layers", most=MOST_HEADS)
        step = _size(source, "interleave_moe_layer_step", 1)
        longest = (
            _size(source, "max_position_embeddings") if source.get("max_position_embeddings") is not None else None
        )
        is_llama4 = model_type == "llama4"
        kv_heads = _size(source, "num_key_value_heads", heads, MOST_HEADS)
        if heads % kv_heads:
            raise ConfigError("num_attention_heads (%d) is no multiple of num_key_value_heads (%d)" % (heads, kv_heads))
        return cls(
            model_type=model_type,
            hidden_size=hidden,
            layers=layers,
            query_heads=heads,
            kv_heads=kv_heads,
            head_size=_size(source, "head_dim", hidden // heads),
            intermediate_size=_size(source, "intermediate_size"),
            vocabulary=_size(source, "vocab_size"),
            tied_embeddings=bool(source.get("tie_word_embeddings", model_type == "gemma3")),
            experts=_size(
                source, "num_local_experts" if "num_local_experts" in source else "num_experts", most=MOST_HEADS
            )
            if is_mixture
            else 0,
            expert_size=_size(source, "moe_intermediate_size", _size(source, "intermediate_size")) if is_mixture else 0,
            dtype=dtype,
            quantization=_quantization(source),
            max_positions=longest,
            dense_layers=layers - layers // step if is_llama4 else 0,
            dense_size=_size(source, "intermediate_size_mlp") if is_llama4 else 0,
            shared_size=_size(source, "intermediate_size") if is_llama4 else 0,
            sees="vision_config" in config,
            **_positions(source, model_type, longest),
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
        """Parameters of all layers' MLPs: gate, up and down; for a mixture of all experts, without their router."""
        if not self.experts:
            return self.layers * 3 * self.hidden_size * self.intermediate_size
        biases = 2 * self.expert_size + self.hidden_size if self.model_type == "gpt_oss" else 0
        experts = self.experts * (3 * self.hidden_size * self.expert_size + biases)
        shared, dense = 3 * self.hidden_size * self.shared_size, 3 * self.hidden_size * self.dense_size
        return (self.layers - self.dense_layers) * (experts + shared) + self.dense_layers * dense

    @property
    def _router(self) -> int:
        biases = self.experts if self.model_type == "gpt_oss" else 0
        return self.hidden_size * self.experts + biases

    @property
    def _norms(self) -> int:
        """Parameters of one layer's norms: before attention and MLP, for some also after, or on queries and keys."""
        per_head = 2 * self.head_size if self.model_type in ("qwen3", "qwen3_moe", "gemma3") else 0
        return (4 if self.model_type == "gemma3" else 2) * self.hidden_size + per_head

    @property
    def parameter_groups(self) -> Dict[str, int]:
        """Parameters by what they are for: `embedding`, `attention`, `mlp`, `router`, `norm`."""
        embeddings = self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)
        return {
            "embedding": embeddings,
            "attention": self.layers * self._attention,
            "mlp": self._mlp,
            "router": (self.layers - self.dense_layers) * self._router,
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

    def adapter_bytes(self, rank: int, modules: Sequence[str]) -> int:
        """Return the bytes of one adapter that changes the named layers, in float32 as NxDI keeps it."""
        queries, keys = self.query_heads * self.head_size, self.kv_heads * self.head_size
        width = self.expert_size or self.intermediate_size
        sides = {
            "q_proj": self.hidden_size + queries,
            "k_proj": self.hidden_size + keys,
            "v_proj": self.hidden_size + keys,
            "o_proj": queries + self.hidden_size,
        }
        return 4 * rank * self.layers * sum(sides.get(name, self.hidden_size + width) for name in modules)

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
    adapters: int = 0
    draft: int = 0

    @property
    def needed(self) -> int:
        """All of it together."""
        return self.weights + self.kv_cache + self.activations + self.reserved + self.adapters + self.draft

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


def _size(config: Mapping[str, Any], name: str, default: Optional[int] = None, most: int = 0) -> int:
    value = config.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= (most or MOST_WIDTH):
        raise ConfigError("%s is %.40r, and must be a whole number of 1 to %d" % (name, value, most or MOST_WIDTH))
    return value


def _positions(config: Mapping[str, Any], model_type: str, longest: Optional[int]) -> Dict[str, Any]:
    """Return how far a model's positions are stretched, as vLLM works it out; nothing where they are not.

    YaRN multiplies the length that it was trained with, the others the one that the file names. Gemma 3 names the
    length after stretching.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not rope:
        return {}
    if not isinstance(rope, Mapping):
        raise ConfigError("rope_scaling is %.40r, and must be a mapping" % (rope,))
    kind, factor = str(rope.get("rope_type") or rope.get("type") or "default"), rope.get("factor")
    if kind in _UNSCALED_ROPES or longest is None or model_type == "gemma3":
        return {}
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor <= MOST_STRETCH:
        raise ConfigError("rope_scaling.factor is %.40r, and must be a number above 0" % (factor,))
    plain = _size(rope, "original_max_position_embeddings", longest) if "yarn" in kind else longest
    stretched = longest if kind != "yarn" and "yarn" in kind else int(plain * factor)
    return {"rope_type": kind, "rope_positions": stretched, "plain_positions": plain}


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
    reserved_bytes: int = RESERVED_BYTES_PER_CORE,
) -> Fit:
    """Estimate what one core of a replica needs.

    Per core: weights = (parameters + what replicated KV heads and padded query heads add) x bytes / cores;
    KV cache = kv_tokens x bytes of a token / cores; activations = prompt_tokens x (4 x hidden + 2 x MLP width / cores)
    x bytes, for one prompt in work; and `reserved_bytes` for programs and runtime.

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
        reserved_bytes: what `reserved_bytes_per_core` says of the runtime.
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
        reserved=reserved_bytes,
        available=hbm_bytes_per_core,
        heads=heads,
    )


def reserved_bytes_per_core(runtime: Tuple[int, ...]) -> int:
    """Return what is kept of a core for programs and the runtime, by the runtime's version."""
    return RESERVED_BYTES_PER_CORE + (PROFILE_RESERVED_BYTES_PER_CORE if runtime[:2] >= PROFILE_RUNTIME else 0)


def fit_problems(fit: Fit, tensor_parallel_size: int, where: str, degrees: Sequence[int] = ()) -> List[Problem]:
    """Return the problem of a replica that does not fit its cores, nothing for one that does.

    Args:
        fit: the estimate.
        tensor_parallel_size: cores of the replica.
        where: the variable that holds the deployment.
        degrees: what the host runs and the model's heads allow; empty where that is not known.
    """
    if fit.fits:
        return []
    named = [
        ("weights", fit.weights),
        ("KV cache", fit.kv_cache),
        ("activations", fit.activations),
        ("reserved", fit.reserved),
        *((name, part) for name, part in (("adapters", fit.adapters), ("draft", fit.draft)) if part),
    ]
    parts = ", ".join("%s %.1f" % (name, part / GIB) for name, part in named)
    rule = "needs an estimated %.1f GiB of a core that has %.1f GiB (%s)" % (
        fit.needed / GIB,
        fit.available / GIB,
        parts,
    )
    least = tensor_parallel_size + 1
    lower = "lower max_num_seqs or max_model_len"
    if fit.weights + fit.reserved > fit.available:
        least = max(least, math.ceil(fit.weights * tensor_parallel_size / max(fit.available - fit.reserved, 1)))
        lower = "use a host with more cores, or quantized weights"
    wider = [degree for degree in degrees if degree >= least]
    if wider:
        fix = "raise tensor_parallel_size to %s" % _either(wider)
        fix += ", or %s" % lower if least == tensor_parallel_size + 1 else ""
    elif degrees:
        fix = lower
    else:
        fix = "raise tensor_parallel_size to %d or more" % least
        fix += ", or %s" % lower if least == tensor_parallel_size + 1 else ""
    return [Problem("", where + ".tensor_parallel_size", tensor_parallel_size, rule, fix)]


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))


def degrees_for(shape: ModelShape, legal: Sequence[int], generation: str) -> List[int]:
    """Return the legal degrees of a host that a model's heads allow; arguments as `head_problems`."""
    return [degree for degree in legal if generation in PADDING_GENERATIONS or not shape.heads(degree).padding]


def head_problems(
    shape: ModelShape, tensor_parallel_size: int, generation: str, where: str, legal: Sequence[int] = ()
) -> Tuple[List[Problem], List[Problem]]:
    """Return (problems, warnings) of a degree that does not divide the heads.

    vLLM compares the degree with the query heads before any engine starts (`verify_with_parallel_config`). The plugin
    around NxDI switches that off, because NxDI adds heads; nobody does for the other generations.

    Args:
        shape: the model.
        tensor_parallel_size: cores of the replica.
        generation: the SDK row's.
        where: the variable that holds the deployment.
        legal: degrees that the host runs; empty where that is not known.
    """
    heads = shape.heads(tensor_parallel_size)
    path = where + ".tensor_parallel_size"
    problems, warnings = [], []
    tried = legal or range(1, shape.query_heads + 1)
    divisors = [degree for degree in tried if shape.query_heads % degree == 0]
    if heads.padding and generation not in PADDING_GENERATIONS:
        rule = "does not divide the model's %d attention heads, and vLLM with %s starts with a divisor only" % (
            shape.query_heads,
            generation,
        )
        problems.append(Problem("", path, tensor_parallel_size, rule, "use %s" % _either(divisors)))
    elif heads.padding:
        rule = "does not divide %d query heads: %d are added and compute nothing" % (shape.query_heads, heads.padding)
        warnings.append(Problem("", path, tensor_parallel_size, rule, "use %s" % _either(divisors)))
    if heads.strategy == "converted":
        rule = "shares nothing with %d KV heads: each is kept %g times" % (shape.kv_heads, heads.replication)
        sharing = [degree for degree in tried if shape.heads(degree).strategy != "converted" and degree in divisors]
        warnings.append(Problem("", path, tensor_parallel_size, rule, "use %s" % _either(sharing or [1])))
    return problems, warnings


def length_problems(
    shape: ModelShape, max_model_len: int, where: str, generation: str = ""
) -> Tuple[List[Problem], List[Problem]]:
    """Return (problems, warnings) of a length in tokens that the model was not made for.

    NxDI stretches positions for Llama 3 alone; vLLM does what config.json says.

    Args:
        shape: the model.
        max_model_len: tokens of a sequence.
        where: the variable that holds the deployment.
        generation: the SDK row's.
    """
    if shape.max_positions is None:
        return [], []
    path, limit = where + ".max_model_len", shape.max_positions
    if shape.rope_positions is None or shape.plain_positions is None:
        rule = "is over the model's %d positions" % limit
    elif generation.startswith("nxdi"):
        limit = shape.plain_positions
        rule = "is over the %d positions that are left where rope_scaling (%s) is not read, as by NxDI" % (
            limit,
            shape.rope_type,
        )
    else:
        limit = shape.rope_positions
        rule = "is over the model's %d positions (rope_scaling %s from %d)" % (
            limit,
            shape.rope_type,
            shape.plain_positions,
        )
    if max_model_len > limit:
        return [Problem("", path, max_model_len, rule, "give %d or less" % limit)], []
    if shape.rope_positions is not None and "yarn" in shape.rope_type and max_model_len > shape.max_positions:
        rule = "is over max_position_embeddings (%d): vLLM after 2026-09 no longer multiplies it for YaRN" % (
            shape.max_positions
        )
        fix = "write the stretched length into config.json, or by engine_args.hf-overrides, before an upgrade"
        return [], [Problem("", path, max_model_len, rule, fix)]
    return [], []


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
