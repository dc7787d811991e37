# SPDX-License-Identifier: Apache-2.0
"""How each serving generation is spoken to, as data; `rendering.py` interprets it.

The flags, variables and defaults are those of the vLLM fork (branch releases/v2.23.0-v0), of the Neuron plugin 0.2.0
with vLLM 0.11, and of the native plugin's documentation in the SDK; `inference_demo`'s flags were read at NxDI
0.3.5591, 0.4.7422, 0.5.9230, 0.6.10598, 0.7.14366 and on its main branch, and a flag is taken as known from the first
of them that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Mapping, NamedTuple, Tuple

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, NXDI_V0, NXDI_V1


class DemoFlag(NamedTuple):
    """A flag of `inference_demo`: the NxDI that first has it, its spelling, and what it takes.

    `takes` is `switch` (nothing: it is there or not), `int`, `float`, `text`, or `ints` or `texts` (a list).
    """

    since: Tuple[int, int]
    flag: str
    takes: str


#: Engine settings that `inference_demo` takes, by the NxDI that first has the flag and by what the flag takes.
_DEMO_SETTINGS: Mapping[Tuple[int, int], Mapping[str, str]] = {
    (0, 3): {
        "switch": "async_mode attn_block_tkg_nki_kernel_cache_update attn_block_tkg_nki_kernel_enabled "
        "attn_kernel_enabled attn_tkg_builtin_kernel_enabled attn_tkg_nki_kernel_enabled bucket_n_active_tokens "
        "disable_kv_cache_tiling enable_bucketing flash_decoding_enabled fused_qkv fused_rmsnorm_skip_gamma "
        "is_block_kv_layout is_chunked_prefill is_continuous_batching is_prefix_caching k_cache_transposed "
        "kv_cache_quant layer_boundary_markers mlp_kernel_enabled mlp_kernel_fuse_residual_add output_logits "
        "qkv_kernel_enabled qkv_kernel_fuse_residual_add qkv_kernel_nbsd_layout quantized "
        "quantized_mlp_kernel_enabled rmsnorm_quantize_kernel_enabled save_sharded_checkpoint enable_lora "
        "enable_fused_speculation enable_eagle_speculation "
        "sequence_parallel_enabled skip_sharding skip_warmup vocab_parallel",
        "int": "batch_size cc_pipeline_tiling_factor ctx_batch_size ep_degree kv_cache_batch_size "
        "kv_cache_padding_size local_ranks_size logical_nc_config max_batch_size max_context_length max_length "
        "max_new_tokens n_active_tokens n_positions pa_block_size pa_num_blocks pad_token_id pp_degree seq_len "
        "max_lora_rank max_loras speculation_length start_rank_id tkg_batch_size tp_degree "
        "weight_gather_seq_len_threshold world_size",
        "float": "capacity_factor quantize_clamp_bound",
        "text": "activation_quantization_type padding_side quantization_dtype quantization_type "
        "draft_model_path quantized_checkpoints_path rpl_reduce_dtype torch_dtype",
        "ints": "context_encoding_buckets token_generation_buckets",
        "texts": "target_modules modules_to_not_convert",
    },
    (0, 4): {
        "switch": "apply_seq_ids_mask disable_normalize_top_k_affinities early_expert_affinity_modulation "
        "enable_spill_reload_dge fused_shared_experts",
        "int": "cp_degree max_num_seqs",
        "text": "attention_dtype cast_type router_act_fn router_dtype",
        "ints": "prefix_buckets",
    },
    (0, 5): {
        "switch": "attn_block_cte_nki_kernel_enabled enable_output_completion_notifications",
        "int": "attention_dp_degree scratchpad_page_size",
    },
    (0, 6): {"switch": "strided_context_parallel_kernel_enabled"},
    (0, 7): {
        "switch": "attn_block_tkg_nki_kernel_cascaded_attention enable_dynamic_multi_lora is_eagle3 "
        "mlp_tkg_nki_kernel_enabled qkv_cte_nki_kernel_fuse_rope qkv_nki_kernel_enabled",
        "int": "max_cpu_loras mlp_cp_degree moe_ep_degree moe_tp_degree windowed_context_encoding_size",
    },
    (0, 10): {
        "switch": "kv_direct_cast",
        "int": "sampling_dp_degree",
        "text": "k_quant_method kv_quant_dtype v_quant_method",
    },
}
#: Flags whose spelling is not the setting's name with hyphens.
_DEMO_SPELLINGS = {
    "start_rank_id": "--start_rank_id",
    "local_ranks_size": "--local_ranks_size",
    "is_block_kv_layout": "--enable-block-kv-layout",
    "is_prefix_caching": "--enable-prefix-caching",
    "is_chunked_prefill": "--enable-chunked-prefill",
    # A file with the list.
    "modules_to_not_convert": "--modules-to-not-convert-file",
}


def _demo_flags() -> Dict[str, DemoFlag]:
    """Return every setting's flag, by the setting's name in neuron_config.json."""
    return {
        name: DemoFlag(since, _DEMO_SPELLINGS.get(name, "--" + name.replace("_", "-")), takes)
        for since, kinds in _DEMO_SETTINGS.items()
        for takes, names in kinds.items()
        for name in names.split()
    }


DEMO_FLAGS: Mapping[str, DemoFlag] = _demo_flags()

#: The keys of on_device_sampling_config that `inference_demo` takes, in the order they are written.
DEMO_SAMPLING_FLAGS: Mapping[str, DemoFlag] = {
    "top_k": DemoFlag((0, 3), "--top-k", "int"),
    "do_sample": DemoFlag((0, 3), "--do-sample", "switch"),
    "dynamic": DemoFlag((0, 3), "--dynamic", "switch"),
    "global_topk": DemoFlag((0, 3), "--global-topk", "int"),
    "top_p": DemoFlag((0, 3), "--top-p", "float"),
    "temperature": DemoFlag((0, 3), "--temperature", "float"),
    "top_k_kernel_enabled": DemoFlag((0, 5), "--top-k-kernel-enabled", "switch"),
}

#: Settings that are on or off by themselves where nothing is said, so that off is said with `--no-` -> first NxDI.
DEMO_EITHER: Mapping[str, Tuple[int, int]] = {"attn_kernel_enabled": (0, 4), "kv_direct_cast": (0, 10)}

#: Flags that `inference_demo` dropped again: setting -> first NxDI without it.
DEMO_DROPPED: Mapping[str, Tuple[int, int]] = {
    "attn_block_cte_nki_kernel_enabled": (0, 10),
    "attn_tkg_builtin_kernel_enabled": (0, 10),
    "attn_tkg_nki_kernel_enabled": (0, 10),
    "mlp_tkg_nki_kernel_enabled": (0, 10),
}

#: Architectures that `inference_demo` compiles (its --model-type) -> first NxDI that does.
DEMO_MODEL_TYPES: Mapping[str, Tuple[int, int]] = {
    "llama": (0, 3),
    "mixtral": (0, 3),
    "dbrx": (0, 3),
    "qwen2": (0, 5),
    "qwen3": (0, 5),
    "qwen3_moe": (0, 6),
    "mistral": (0, 10),
    "gemma3": (0, 10),
}

#: config.json's model_type -> what `inference_demo` calls it, where the two differ.
DEMO_MODEL_TYPE_OF: Mapping[str, str] = {"gemma3_text": "gemma3"}

#: Architectures that another one's program computes as well: (config.json's, the one that is said).
SAME_PROGRAM = frozenset((("mistral", "llama"),))

#: What the native plugin's documentation has a recipe for: config.json's model_type -> first SDK release.
NATIVE_MODEL_TYPES: Mapping[str, Tuple[int, int]] = {
    "llama": (2, 31),
    "gpt_oss": (2, 31),
    "qwen3_vl": (2, 31),
    "qwen3": (2, 33),
    "qwen3_moe": (2, 33),
}

#: quant_method of checkpoints that NxDI's own way of quantizing may be given.
NXDI_QUANTIZED = ("fp8",)

#: Words in a repository's name that say that its checkpoint is none of the plain model whose name is beside them.
TELLING_WORDS = (
    *(
        "gguf",
        "awq",
        "gptq",
        "bnb",
        "exl2",
        "mlx",
        "4bit",
        "8bit",
        "int4",
        "int8",
        "fp8",
        "nvfp4",
        "mxfp4",
        "w4a16",
        "w8a8",
    ),
    *("vl", "vision", "omni", "next", "guard", "embedding", "reranker", "reward", "lora", "adapter", "eagle", "eagle3"),
)


def _words(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


#: How the class of a model ends that writes text. Source: the names in transformers' and vLLM's registries.
WRITES_TEXT = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ForCausalLMEagle", "ForCausalLMEagle3")

#: config.json's model_type -> what the name of its class in `architectures` begins with, before `For`.
ARCHITECTURE_CLASSES: Mapping[str, Tuple[str, ...]] = {
    "llama": ("Llama", "Mistral"),
    "mistral": ("Mistral", "Llama"),
    "mixtral": ("Mixtral",),
    "dbrx": ("Dbrx",),
    "qwen2": ("Qwen2",),
    "qwen3": ("Qwen3",),
    "qwen3_moe": ("Qwen3Moe",),
    "gpt_oss": ("GptOss",),
    "qwen3_vl": ("Qwen3VL",),
    "qwen2_5_vl": ("Qwen2_5_VL",),
    "mllama": ("Mllama",),
    "llama4": ("Llama4",),
    "gemma3": ("Gemma3",),
    "gemma3_text": ("Gemma3",),
}

#: Ways to stretch positions that vLLM has, by their names in config.json.
ROPE_KINDS = (
    *("default", "llama3", "linear", "dynamic", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "longrope", "su"),
    *("mrope", "proportional", "ntk", "mllama4", "xdrope"),
)

#: Parsers of calls of tools, of every vLLM from 0.7 to 0.32 (`ToolParserManager`).
TOOL_PARSERS = _words(
    "apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 ernie45 functiongemma "
    "gemma4 gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hunyuan_a13b hy_v3 inkling internlm jamba "
    "kimi_k2 kimi_k3 lfm2 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax minimax_m1 minimax_m2 "
    "minimax_m3 mistral olmo3 openai phi4_mini_json poolside_v1 pythonic qwen3_coder qwen3_xml seed_oss solar_open2 "
    "step3 step3p5 step_deepresearch xlam"
)

#: Parsers of calls that are one family's alone -> its architectures.
PARSER_FAMILIES: Mapping[str, Tuple[str, ...]] = {
    "llama3_json": ("llama",),
    "llama4_json": ("llama4",),
    "llama4_pythonic": ("llama4", "llama"),
    "mistral": ("mistral", "mixtral"),
    "openai": ("gpt_oss",),
    "gemma4": ("gemma4",),
}

#: Parsers of reasoning, of the same (`ReasoningParserManager`).
REASONING_PARSERS = _words(
    "cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 ernie45 gemma4 glm45 glm47 granite holo2 "
    "hunyuan_a13b hy_v3 identity inkling kimi_k2 kimi_k3 mimo minimax_m2 minimax_m2_append_think minimax_m3 mistral "
    "nemotron_v3 olmo3 openai_gptoss poolside_v1 qwen3 seed_oss solar_open2 step3 step3p5"
)

#: Flags that configure what only GPUs have.
GPU_FLAGS = _words(
    "attention-backend cpu-offload-gb cpu-offload-params cuda-graph-sizes cudagraph-capture-sizes device-ids "
    "disable-custom-all-reduce disable-nccl-for-dp-synchronization enable-bf16x3-router-gemm enable-cumem-allocator "
    "enable-dbo enable-eplb enable-flashinfer-autotune enable-sleep-mode gdn-prefill-backend kda-prefill-backend "
    "kv-offloading-backend kv-offloading-size linear-backend mamba-backend max-cudagraph-capture-size moe-backend "
    "offload-backend swap-space"
)

#: What the native plugin's reference has in neuron_config (SDK 2.32, and what its design pages name beside it).
NATIVE_SETTINGS = (
    *("num_batched_tokens_buckets", "num_seqs_buckets", "kv_segment_size_buckets", "decode_context_length_buckets"),
    *("on_device_sampling_config", "quantization", "modules_to_not_convert", "enable_structured_outputs"),
    *(
        "ep_degree",
        "fp8_packed_kv",
        "eagle_aux_hidden_state_layer_ids",
        "tensor_capture",
        "tensor_replacement",
        "is_matryoshka",
    ),
)

#: Settings of the native plugin for a part of a deployment of several servers, which its start refuses elsewhere.
COMPONENT_SETTINGS = (
    *("embedding_dp_size", "lm_head_dp_size", "mlp_dp_size", "attention_dp_size", "apply_prefill_dcp"),
)

#: Keys of neuron_config that speak to the planner and not to the engine.
PLANNER_KEYS = ("model_type",)


@dataclass(frozen=True)
class Generation:
    """How one generation is started, configured and compiled.

    Templates hold `{venv}`, `{weights}`, `{artifact}`, `{work_dir}`, `{replica}`, `{cores}`, `{lnc}` and
    `{core_count}`.

    Attributes:
        name: `nxdi_v0`, `nxdi_v1` or `native`.
        serve: program and model for a virtual environment.
        serve_container: the same inside the image.
        compiler: `inference_demo`, or `serve` where the server itself compiles at its first start.
        fixed_flags: flags that every server of the generation has; None for a flag without a value.
        config_flag: the flag that carries engine settings.
        config_path: keys around the settings in that flag's JSON.
        config_keys: settings that are given to the server; None for all. The fork sets each given key on the loaded
            configuration as it stands in the JSON, which only the sampling configuration survives.
        cores_variable: names the cores that the process may use.
        artifact_variable: names the directory of the compiled model.
        serve_environment: what else the server's environment holds.
        compile_environment: what else the compiler's environment holds.
        block_size_flag: whether the server takes a block size; the fork forces its own.
        prefix_follows_blocks: whether prefix caching is on exactly where a block size is given, since the plugin
            takes a block size only with it.
        null_blocks: blocks that the plugin adds to those it is given, compiled in as well; read in plugin 0.2.0, and
            taken to be so in the later ones, whose source is not public.
        settings: engine defaults that `inference_demo` does not have by itself.
        continuous_batching: `always`, or `several` where it needs two sequences.
        prompt_limit_key: engine setting by which the server refuses prompts over max_context_length; empty where it
            admits them and fails.
        cpu_sampling_variable: says that the artifact samples on the CPU; empty where none is needed.
        translate: whether NxDI's settings are told in the native plugin's words.
    """

    name: str
    serve: Tuple[str, ...]
    serve_container: Tuple[str, ...]
    compiler: str
    fixed_flags: Mapping[str, Any]
    config_flag: str
    config_path: Tuple[str, ...]
    config_keys: Any
    cores_variable: str
    artifact_variable: str
    serve_environment: Mapping[str, str]
    compile_environment: Mapping[str, str]
    block_size_flag: bool
    prefix_follows_blocks: bool
    null_blocks: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    continuous_batching: str = "several"
    prompt_limit_key: str = ""
    cpu_sampling_variable: str = ""
    translate: bool = False


#: Whether KV blocks of a common beginning are shared.
PREFIX_FLAG = "enable-prefix-caching"

#: True of every replica of every generation.
COMMON_ENVIRONMENT: Mapping[str, str] = {
    # The profiler's capture would fill the disk.
    "NEURON_RT_INSPECT_ENABLE": "0",
    # NxDI reads the documented name, the runtime of older releases the other one; two opinions would be worse than one.
    "NEURON_LOGICAL_NC_CONFIG": "{lnc}",
    "NEURON_RT_VIRTUAL_CORE_SIZE": "{lnc}",
    # The weights are on disk and pinned: a server that asks the hub could get others, or be rate limited.
    "HF_HUB_OFFLINE": "1",
}

COMMON_SERVE_ENVIRONMENT: Mapping[str, str] = {
    "{cores_variable}": "{cores}",
    "{artifact_variable}": "{artifact}",
    "NEURON_PROCESS_TAG": "{replica}",
    # Stale files of another replica or of the last start would be added to the counters.
    "PROMETHEUS_MULTIPROC_DIR": "/run/vllm/{replica}/metrics",
}

#: The runtime's latency-sensitive threads, where CPUs are set aside for them.
PROXY_VARIABLE = "NEURON_RT_LOW_LATENCY_TASKS_CPU_AFFINITY"

_NXDI_SERVE_ENVIRONMENT = {
    "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference",
    # Milliseconds between the server and its engine; a first request can wait long.
    "VLLM_RPC_TIMEOUT": "100000",
    # NxDI's default is one directory for all, in which two starts overwrite each other.
    "BASE_COMPILE_WORK_DIR": "/run/vllm/{replica}/compile",
}
_DEMO_ENVIRONMENT = {
    "BASE_COMPILE_WORK_DIR": "{work_dir}",
    # As many as the artifact is made for, and not all of the host's: others may be serving on them.
    "NEURON_RT_NUM_CORES": "{core_count}",
    "NEURON_RT_EXEC_TIMEOUT": "600",
}

#: Seconds. The documentation knows the first by both names; its defaults (600) are too short for a 70B model.
_NATIVE_TIMEOUTS = {
    "VLLM_NEURON_COMPILATION_TIMEOUT": "2400",
    "NEURON_LIBTORCH_COMPILATION_TIMEOUT": "2400",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "1200",
    "VLLM_ENGINE_READY_TIMEOUT_S": "5400",
}

GENERATIONS: Mapping[str, Generation] = {
    NXDI_V0: Generation(
        name=NXDI_V0,
        serve=("{venv}/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "{weights}"),
        serve_container=("python", "-m", "vllm.entrypoints.openai.api_server", "--model", "{weights}"),
        compiler="inference_demo",
        # V0 logs each request with its prompt, unless told not to.
        fixed_flags={"device": "neuron", "use-v2-block-manager": True, "disable-log-requests": True},
        config_flag="override-neuron-config",
        config_path=(),
        config_keys=("on_device_sampling_config", "enable_fused_speculation"),
        cores_variable="NEURON_RT_VISIBLE_CORES",
        artifact_variable="NEURON_COMPILED_ARTIFACTS",
        serve_environment=_NXDI_SERVE_ENVIRONMENT,
        compile_environment={"XLA_DENSE_GATHER_FACTOR": "0", **_DEMO_ENVIRONMENT},
        block_size_flag=False,
        prefix_follows_blocks=False,
        null_blocks=0,
        continuous_batching="always",
        cpu_sampling_variable="NEURON_ON_DEVICE_SAMPLING_DISABLED",
    ),
    NXDI_V1: Generation(
        name=NXDI_V1,
        serve=("{venv}/bin/vllm", "serve", "{weights}"),
        serve_container=("vllm", "serve", "{weights}"),
        compiler="inference_demo",
        fixed_flags={"enable-log-requests": False},
        config_flag="additional-config",
        config_path=("override_neuron_config",),
        config_keys=None,
        cores_variable="NEURON_RT_VISIBLE_CORES",
        artifact_variable="NEURON_COMPILED_ARTIFACTS",
        serve_environment=_NXDI_SERVE_ENVIRONMENT,
        compile_environment=_DEMO_ENVIRONMENT,
        block_size_flag=True,
        prefix_follows_blocks=True,
        null_blocks=1,
        cpu_sampling_variable="NEURON_ON_DEVICE_SAMPLING_DISABLED",
        # What the plugin compiles by itself when it finds no artifact.
        settings={"enable_bucketing": True, "padding_side": "right"},
    ),
    NATIVE: Generation(
        name=NATIVE,
        serve=("{venv}/bin/vllm", "serve", "{weights}"),
        serve_container=("vllm", "serve", "{weights}"),
        compiler="serve",
        fixed_flags={"enable-log-requests": False},
        config_flag="additional-config",
        config_path=("neuron_config",),
        config_keys=None,
        cores_variable="NEURON_VISIBLE_DEVICES",
        artifact_variable="VLLM_CACHE_ROOT",
        # A graph that is not in the cache stops the start, instead of being compiled anew for the best part of an hour.
        serve_environment={**_NATIVE_TIMEOUTS, "VLLM_NEURON_DISABLE_WARMUP_COMPILE": "1"},
        compile_environment=_NATIVE_TIMEOUTS,
        block_size_flag=True,
        prefix_follows_blocks=False,
        null_blocks=0,
        translate=True,
    ),
}

_NATIVE_ROUTE = {"VLLM_NEURON_BACKEND": "neuron_native"}

#: Where one vLLM line of a generation differs: (generation, vLLM) -> the attributes that do.
VARIANTS: Mapping[Tuple[str, Any], Mapping[str, Any]] = {
    (NXDI_V0, "0.7.2"): {"continuous_batching": "several"},
    # This fork could start its unfinished V1 engine.
    (NXDI_V0, "0.9.1"): {"serve_environment": {**GENERATIONS[NXDI_V0].serve_environment, "VLLM_USE_V1": "0"}},
    # Documented from SDK 2.29 on, in the tutorial of Llama 3.3 70B in FP8.
    (NXDI_V1, "0.16.0"): {"prompt_limit_key": "max_prompt_length"},
    # Its cache of traces works only where the route is named, although it is the default.
    (NATIVE, "0.29.0"): {
        "serve_environment": {**GENERATIONS[NATIVE].serve_environment, **_NATIVE_ROUTE},
        "compile_environment": {**GENERATIONS[NATIVE].compile_environment, **_NATIVE_ROUTE},
    },
}

#: Variables that a runtime no longer reads: variable -> (first SDK release without it, why).
REMOVED_VARIABLES: Mapping[str, Tuple[Tuple[int, int], str]] = {
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": ((2, 32), "runtime 2.34 removed it, and warns of it at each start"),
}

#: Number formats that only trn3 computes with: the plugin says so on trn2 and ends.
TRN3_QUANTIZATIONS = ("mxfp4", "mxfp8")

#: Sequences at once that a mixture of Qwen3 needs, and the SDK release that says so.
QWEN3_MOE_SEQUENCES, QWEN3_MOE_RELEASE = 16, (2, 28)

#: Settings of the engine that follow from a deployment's field or from the host, and where to say them instead.
OWNED_SETTINGS: Mapping[str, str] = {
    "tp_degree": "tensor_parallel_size",
    "local_ranks_size": "tensor_parallel_size",
    "world_size": "tensor_parallel_size",
    "batch_size": "max_num_seqs",
    "seq_len": "max_model_len",
    "torch_dtype": "dtype",
    "pa_block_size": "block_size",
    "logical_nc_config": "trainyard_logical_nc_config on the host",
}

#: Settings that multiply the ranks of NxDI's world (tp x pp x ep), and where to say what is meant instead.
RANK_SETTINGS: Mapping[str, str] = {"ep_degree": "expert_parallel", "pp_degree": "tensor_parallel_size"}

#: NxDI's setting -> the native plugin's that means the same.
NATIVE_NAMES: Mapping[str, str] = {"context_encoding_buckets": "num_batched_tokens_buckets"}

#: Settings that NxDI and the native plugin both know.
NATIVE_TOO = ("ep_degree",)

#: Settings that stand beside the native plugin's neuron_config in its JSON, not in it.
NATIVE_SIBLINGS = ("vision_neuron_config", "mm_language_model_only")

#: What of NxDI's on-device sampling the native plugin has no word for.
NXDI_SAMPLING_KEYS = ("do_sample", "dynamic", "deterministic", "global_topk", "top_k_kernel_enabled")

#: Legal segment sizes of the native plugin's prefill, tokens.
NATIVE_SEGMENTS = (512, 1024, 2048, 4096, 8192)

#: Flags of other generations that a server would refuse or misread: generation -> flag -> why.
FOREIGN_FLAGS: Mapping[str, Mapping[str, str]] = {
    NXDI_V0: {},
    NXDI_V1: {
        "device": "the plugin finds the device itself",
        "use-v2-block-manager": "vLLM V1 has no such flag",
    },
    NATIVE: {
        "device": "the plugin finds the device itself",
        "use-v2-block-manager": "vLLM V1 has no such flag",
    },
}

#: Variables of other generations: generation -> variable -> (values that are wrong, None for any; why).
FOREIGN_VARIABLES: Mapping[str, Mapping[str, Tuple[Any, str]]] = {
    NXDI_V0: {"VLLM_USE_V1": (("1",), "the fork serves with V0 only")},
    NXDI_V1: {"VLLM_USE_V1": (("0",), "the plugin serves with V1 only")},
    NATIVE: {
        "VLLM_USE_V1": (("0",), "the plugin serves with V1 only"),
        "VLLM_NEURON_FRAMEWORK": (None, "the native plugin has no other framework"),
    },
}
