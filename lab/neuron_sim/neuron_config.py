# SPDX-License-Identifier: Apache-2.0
"""NxDI's configuration object as data: what ``neuron_config.json`` holds for given settings.

Source: ``NeuronConfig`` in ``models/config.py`` of neuronx-distributed-inference at 0.3.5591 and 0.7.14366: names,
defaults and the checks that raise. Settings that only exist in later versions appear for those.
"""

from __future__ import annotations

import copy
from typing import Any

CONFIG_FILE = "neuron_config.json"
MODEL_FILE = "model.pt"

_SAMPLING: dict[str, Any] = {
    "do_sample": False,
    "top_k": 1,
    "top_p": 1.0,
    "temperature": 1.0,
    "dynamic": False,
    "deterministic": False,
    "global_topk": 256,
}

# ``LoraServingConfig`` of ``modules/lora_serving/config.py``.
_LORA: dict[str, Any] = {"max_loras": 1, "max_lora_rank": 16, "max_cpu_loras": 100, "target_modules": None}

# Defaults that depend on nothing else.
_PLAIN: dict[str, Any] = {
    "padding_side": "right",
    "allow_input_truncation": False,
    "on_cpu": False,
    "output_logits": False,
    "is_prefill_stage": None,
    "vocab_parallel": False,
    "layer_boundary_markers": False,
    "fused_qkv": False,
    "sequence_parallel_enabled": False,
    "weight_gather_seq_len_threshold": 32768,
    "attn_cls": "NeuronLlamaAttention",
    "is_continuous_batching": False,
    "kv_cache_padding_size": 0,
    "on_device_sampling_config": None,
    "async_mode": False,
    "enable_bucketing": False,
    "bucket_n_active_tokens": False,
    "context_encoding_buckets": None,
    "token_generation_buckets": None,
    "quantized": False,
    "quantized_checkpoints_path": None,
    "quantization_type": "per_tensor_symmetric",
    "quantization_dtype": "int8",
    "modules_to_not_convert": None,
    "draft_model_modules_to_not_convert": None,
    "kv_cache_quant": False,
    "speculation_length": 0,
    "enable_fused_speculation": False,
    "enable_eagle_speculation": False,
    "is_eagle_draft": False,
    "enable_eagle_draft_input_norm": False,
    "token_tree_config": None,
    "is_medusa": False,
    "medusa_speculation_length": 0,
    "num_medusa_heads": 0,
    "medusa_tree": None,
    "is_block_kv_layout": False,
    "is_prefix_caching": False,
    "is_chunked_prefill": False,
    "lora_config": None,
    "tp_degree": 1,
    "pp_degree": 1,
    "ep_degree": 1,
    "save_sharded_checkpoint": False,
    "skip_sharding": False,
    "qk_layernorm": False,
    "start_rank_id": 0,
    "flash_decoding_enabled": False,
    "disable_kv_cache_tiling": False,
    "kv_cache_tiling": False,
    "k_cache_transposed": False,
    "qkv_kernel_enabled": False,
    "qkv_kernel_nbsd_layout": False,
    "mlp_kernel_enabled": False,
    "fused_rmsnorm_skip_gamma": False,
    "mlp_kernel_fuse_residual_add": False,
    "qkv_kernel_fuse_residual_add": False,
    "quantized_mlp_kernel_enabled": False,
    "activation_quantization_type": None,
    "attn_tkg_nki_kernel_enabled": False,
    "attn_tkg_builtin_kernel_enabled": False,
    "attn_block_tkg_nki_kernel_enabled": False,
    "rmsnorm_quantize_kernel_enabled": False,
    "cc_pipeline_tiling_factor": 2,
    "target": None,
    "weights_to_skip_layout_optimization": [],
}
_SINCE_4: dict[str, Any] = {
    "prefix_buckets": None,
    "attention_dtype": None,
    "cp_degree": 1,
    "cast_type": "config",
    "enable_spill_reload_dge": False,
    "chunked_prefill_config": None,
    "apply_seq_ids_mask": False,
}
_SINCE_7: dict[str, Any] = {
    "attention_dp_degree": 1,
    "mlp_cp_degree": 1,
    "moe_tp_degree": 1,
    "moe_ep_degree": 1,
    "windowed_context_encoding_size": None,
    "scratchpad_page_size": None,
    "is_eagle3": False,
    "qkv_nki_kernel_enabled": False,
    "qkv_cte_nki_kernel_fuse_rope": False,
    "attn_block_tkg_nki_kernel_cascaded_attention": False,
}
# Settings that default to another one: name, and where the value comes from.
_FOLLOWS = (
    ("n_active_tokens", "seq_len"),
    ("n_positions", "seq_len"),
    ("max_context_length", "seq_len"),
    ("max_length", "seq_len"),
    ("rpl_reduce_dtype", "torch_dtype"),
    ("ctx_batch_size", "batch_size"),
    ("tkg_batch_size", "batch_size"),
    ("max_batch_size", "batch_size"),
    ("kv_cache_batch_size", "batch_size"),
    ("spec_batch_size", "batch_size"),
    ("pa_num_blocks", "batch_size"),
    ("pa_block_size", "seq_len"),
    ("attn_block_tkg_nki_kernel_cache_update", "attn_block_tkg_nki_kernel_enabled"),
)


def sampling_config(settings: dict[str, Any]) -> dict[str, Any]:
    """``OnDeviceSamplingConfig`` from settings of the same names."""
    return {name: settings.get(name, default) for name, default in _SAMPLING.items()}


def lora_config(settings: dict[str, Any]) -> dict[str, Any]:
    """``LoraServingConfig`` from ``inference_demo``'s settings; its own name for adapters that come and go differs."""
    found: dict[str, Any] = {name: settings.get(name, default) for name, default in _LORA.items()}
    found["dynamic_multi_lora"] = bool(settings.get("enable_dynamic_multi_lora"))
    return found


def build(settings: dict[str, Any], *, nxdi: str, lnc: int, target: str) -> dict[str, Any]:
    """The complete ``neuron_config`` for the settings that were given.

    Args:
        settings: names and values; unknown names are left out, as NxDI only warns of them.
        nxdi: NxDI version.
        lnc: logical core configuration when the settings do not say.
        target: platform, such as ``trn2``; there 0.3 skips the warm-up unless told.

    Raises:
        AssertionError: a bucket longer than the sequence, and what else NxDI asserts.
    """
    minor = int(nxdi.split(".")[1])
    config: dict[str, Any] = copy.deepcopy(_PLAIN)
    if minor >= 4:
        config |= copy.deepcopy(_SINCE_4)
    if minor >= 7:
        config |= copy.deepcopy(_SINCE_7)
    config |= {"batch_size": 1, "seq_len": 128, "torch_dtype": "bfloat16", "overrides_torch_dtype": False}
    config["attn_kernel_enabled"] = None if minor >= 4 else False
    config["skip_warmup"] = target == "trn2" and minor <= 3
    config["logical_nc_config"] = lnc
    given = {name: value for name, value in settings.items() if value is not None}
    config |= {name: value for name, value in given.items() if name in config}
    if "torch_dtype" in given:
        config["overrides_torch_dtype"] = True
    for name, source in _FOLLOWS:
        config[name] = given.get(name, config[source])
    config["max_new_tokens"] = given.get("max_new_tokens", config["seq_len"] - config["max_context_length"]) or None
    config["buckets"] = given.get("buckets", [config["seq_len"]])
    config["world_size"] = given.get("world_size") or config["tp_degree"] * config["pp_degree"] * config["ep_degree"]
    config["local_ranks_size"] = given.get("local_ranks_size") or config["world_size"]
    if given.get("enable_lora"):
        config["lora_config"] = lora_config(given)
    if isinstance(config["on_device_sampling_config"], dict):
        config["on_device_sampling_config"] = sampling_config(config["on_device_sampling_config"])
    _check(config)
    return config


def _check(config: dict[str, Any]) -> None:
    context, generation = config["context_encoding_buckets"], config["token_generation_buckets"]
    if context and max(context) > config["max_context_length"]:
        raise AssertionError(f"Context bucket {max(context)} should be <= {config['max_context_length']}")
    if generation and max(generation) > config["max_length"]:
        raise AssertionError(f"Token generation bucket {max(generation)} should be <= {config['max_length']}")
    if config["quantized"] and config["quantized_checkpoints_path"] is None:
        raise AssertionError("quantized_checkpoints_path is required")
    if config["is_chunked_prefill"] and not config["is_block_kv_layout"]:
        raise AssertionError("is_block_kv_layout has to be true for chunked prefill")


def powers_of_two(longest: int) -> list[int]:
    """The buckets that NxDI makes when it is asked for bucketing without a list: 128, 256, ... up to the length."""
    buckets = []
    size = 128
    while size < longest:
        buckets.append(size)
        size *= 2
    return [*buckets, longest]


def bucket_lists(config: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Lengths of the prefill and of the decode graphs, ascending."""
    lists = []
    for name, longest in (
        ("context_encoding_buckets", "max_context_length"),
        ("token_generation_buckets", "max_length"),
    ):
        if config.get(name):
            lists.append(sorted(config[name]))
        else:
            lists.append(powers_of_two(config[longest]) if config.get("enable_bucketing") else [config[longest]])
    return lists[0], lists[1]


def graph_count(config: dict[str, Any]) -> int:
    """How many graphs the compiler has to build for this configuration."""
    prefill, decode = bucket_lists(config)
    return len(prefill) + len(decode)
