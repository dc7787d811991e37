# SPDX-License-Identifier: Apache-2.0
"""Published models by their exact repository, so that a plan can be made with no checkpoint and no network at hand.

The sizes are those of each model's config.json at its hub; a config.json that is at hand is asked first. A repository
that is not here is not known, whatever its name resembles: a quantized copy or a vision model has a name that contains
that of another architecture.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ConfigError, ModelShape

_LLAMA_3_ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rope_scaling": _LLAMA_3_ROPE,
}
_LLAMA_3_0 = {**_LLAMA, "max_position_embeddings": 8192, "rope_scaling": None}
_LLAMA_2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
_QWEN2 = {"model_type": "qwen2", "vocab_size": 152064, "max_position_embeddings": 32768}
_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "head_dim": 128,
    "num_key_value_heads": 8,
}
_QWEN3_MOE = {**_QWEN3, "model_type": "qwen3_moe", "num_experts": 128, "num_key_value_heads": 4}
_MISTRAL = {"model_type": "mistral", "num_key_value_heads": 8, "max_position_embeddings": 32768}
_MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_key_value_heads": 8, "vocab_size": 32000}
_GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "quantization_config": {"quant_method": "mxfp4"},
}
_GEMMA3 = {"model_type": "gemma3_text", "vocab_size": 262208, "max_position_embeddings": 131072, "head_dim": 256}
_LLAMA_4 = {
    "model_type": "llama4_text",
    "vocab_size": 202048,
    "head_dim": 128,
    "intermediate_size_mlp": 16384,
    "num_key_value_heads": 8,
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int = 0) -> Dict[str, Any]:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return {**sizes, "num_key_value_heads": kv_heads} if kv_heads else sizes


def _seen(model_type: str, text: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the config.json of a model that also sees; of its eyes only that they are there is known here."""
    return {"model_type": model_type, "text_config": text, "vision_config": {}}


_TIED = {"tie_word_embeddings": True}
_131K, _LONG = {"max_position_embeddings": 131072}, {"max_position_embeddings": 262144}
_LLAMA_70B = {**_LLAMA, **_sizes(8192, 28672, 80, 64)}
_LLAMA_8B = {**_LLAMA, **_sizes(4096, 14336, 32, 32)}
_LLAMA_3_2_ROPE = {"rope_scaling": {**_LLAMA_3_ROPE, "factor": 32.0}}
_QWEN3_4B = {**_QWEN3, **_sizes(2560, 9728, 36, 32), **_TIED}
_QWEN3_30B = {**_QWEN3_MOE, **_sizes(2048, 6144, 48, 32), "moe_intermediate_size": 768}
_QWEN3_235B = {**_QWEN3_MOE, **_sizes(4096, 12288, 94, 64), "moe_intermediate_size": 1536}
_QWEN3_480B = {**_QWEN3_MOE, **_sizes(6144, 8192, 62, 96, 8), "moe_intermediate_size": 2560, "num_experts": 160}
_QWEN_14B, _QWEN_32B = _sizes(5120, 13824, 48, 40, 8), _sizes(5120, 27648, 64, 40, 8)
_MODELOPT_FP8 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
_MISTRAL_24B = {**_MISTRAL, **_sizes(5120, 32768, 40, 32), "head_dim": 128, "vocab_size": 131072}
_EYES_LLAMA = {"model_type": "mllama_text_model", "vocab_size": 128256, "max_position_embeddings": 131072}

#: Repository after its organisation -> config.json, by organisation.
_PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "meta-llama": {
        **{name: {**_LLAMA_2, **_sizes(4096, 11008, 32, 32)} for name in ("Llama-2-7b-hf", "Llama-2-7b-chat-hf")},
        **{name: {**_LLAMA_2, **_sizes(5120, 13824, 40, 40)} for name in ("Llama-2-13b-hf", "Llama-2-13b-chat-hf")},
        **{name: {**_LLAMA_2, **_sizes(8192, 28672, 80, 64, 8)} for name in ("Llama-2-70b-hf", "Llama-2-70b-chat-hf")},
        **{
            name: {**_LLAMA_3_0, **_sizes(4096, 14336, 32, 32)}
            for name in ("Meta-Llama-3-8B", "Meta-Llama-3-8B-Instruct")
        },
        **{
            name: {**_LLAMA_3_0, **_sizes(8192, 28672, 80, 64)}
            for name in ("Meta-Llama-3-70B", "Meta-Llama-3-70B-Instruct")
        },
        **{
            before + "Llama-3.1-" + size + after: config
            for before in ("", "Meta-")
            for after in ("", "-Instruct")
            for size, config in (
                ("8B", _LLAMA_8B),
                ("70B", _LLAMA_70B),
                ("405B", {**_LLAMA, **_sizes(16384, 53248, 126, 128)}),
            )
        },
        **{
            "Llama-3.2-1B" + after: {
                **_LLAMA,
                **_sizes(2048, 8192, 16, 32),
                **_LLAMA_3_2_ROPE,
                **_TIED,
                "head_dim": 64,
            }
            for after in ("", "-Instruct")
        },
        **{
            "Llama-3.2-3B" + after: {**_LLAMA, **_sizes(3072, 8192, 28, 24), **_LLAMA_3_2_ROPE, **_TIED}
            for after in ("", "-Instruct")
        },
        **{
            "Llama-3.2-11B-Vision" + after: _seen("mllama", {**_EYES_LLAMA, **_sizes(4096, 14336, 40, 32, 8)})
            for after in ("", "-Instruct")
        },
        **{
            "Llama-3.2-90B-Vision" + after: _seen("mllama", {**_EYES_LLAMA, **_sizes(8192, 28672, 100, 64, 8)})
            for after in ("", "-Instruct")
        },
        "Llama-3.3-70B-Instruct": _LLAMA_70B,
        **{
            "Llama-4-Scout-17B-16E" + after: _seen(
                "llama4",
                {
                    **_LLAMA_4,
                    **_sizes(5120, 8192, 48, 40, 8),
                    "num_local_experts": 16,
                    "max_position_embeddings": 10485760 if after else 262144,
                },
            )
            for after in ("", "-Instruct")
        },
        **{
            "Llama-4-Maverick-17B-128E" + after: _seen(
                "llama4",
                {
                    **_LLAMA_4,
                    **_sizes(5120, 8192, 48, 40, 8),
                    "num_local_experts": 128,
                    "interleave_moe_layer_step": 2,
                    "max_position_embeddings": 1048576 if after else 262144,
                },
            )
            for after in ("", "-Instruct")
        },
    },
    "TinyLlama": {
        "TinyLlama-1.1B-Chat-v1.0": {
            **_LLAMA_2,
            **_sizes(2048, 5632, 22, 32, 4),
            "max_position_embeddings": 2048,
        }
    },
    "deepseek-ai": {
        "DeepSeek-R1-Distill-Llama-8B": _LLAMA_8B,
        "DeepSeek-R1-Distill-Llama-70B": _LLAMA_70B,
        "DeepSeek-R1-Distill-Qwen-1.5B": {
            **_QWEN2,
            **_sizes(1536, 8960, 28, 12, 2),
            "vocab_size": 151936,
            "max_position_embeddings": 131072,
        },
        "DeepSeek-R1-Distill-Qwen-7B": {
            **_QWEN2,
            **_sizes(3584, 18944, 28, 28, 4),
            "max_position_embeddings": 131072,
        },
        "DeepSeek-R1-Distill-Qwen-14B": {**_QWEN2, **_QWEN_14B, "max_position_embeddings": 131072},
        "DeepSeek-R1-Distill-Qwen-32B": {**_QWEN2, **_QWEN_32B, "max_position_embeddings": 131072},
    },
    "Qwen": {
        **{
            "Qwen2.5-" + size + after: config
            for after in ("", "-Instruct")
            for size, config in (
                ("0.5B", {**_QWEN2, **_sizes(896, 4864, 24, 14, 2), **_TIED, "vocab_size": 151936}),
                ("1.5B", {**_QWEN2, **_sizes(1536, 8960, 28, 12, 2), **_TIED, "vocab_size": 151936}),
                ("3B", {**_QWEN2, **_sizes(2048, 11008, 36, 16, 2), **_TIED, "vocab_size": 151936}),
                ("7B", {**_QWEN2, **_sizes(3584, 18944, 28, 28, 4), **({} if after else _131K)}),
                ("14B", {**_QWEN2, **_QWEN_14B, **({} if after else _131K)}),
                ("32B", {**_QWEN2, **_QWEN_32B, **({} if after else _131K)}),
                ("72B", {**_QWEN2, **_sizes(8192, 29568, 80, 64, 8), **({} if after else _131K)}),
            )
        },
        "QwQ-32B": {**_QWEN2, **_QWEN_32B, "max_position_embeddings": 40960},
        "Qwen3-0.6B": {**_QWEN3, **_sizes(1024, 3072, 28, 16), **_TIED},
        "Qwen3-1.7B": {**_QWEN3, **_sizes(2048, 6144, 28, 16), **_TIED},
        "Qwen3-4B": _QWEN3_4B,
        "Qwen3-4B-Instruct-2507": {**_QWEN3_4B, **_LONG},
        "Qwen3-4B-Thinking-2507": {**_QWEN3_4B, **_LONG},
        "Qwen3-8B": {**_QWEN3, **_sizes(4096, 12288, 36, 32)},
        "Qwen3-14B": {**_QWEN3, **_sizes(5120, 17408, 40, 40)},
        "Qwen3-32B": {**_QWEN3, **_sizes(5120, 25600, 64, 64)},
        "Qwen3-30B-A3B": _QWEN3_30B,
        "Qwen3-30B-A3B-Instruct-2507": {**_QWEN3_30B, **_LONG},
        "Qwen3-30B-A3B-Thinking-2507": {**_QWEN3_30B, **_LONG},
        "Qwen3-Coder-30B-A3B-Instruct": {**_QWEN3_30B, **_LONG},
        "Qwen3-235B-A22B": _QWEN3_235B,
        "Qwen3-235B-A22B-Instruct-2507": {**_QWEN3_235B, **_LONG},
        "Qwen3-235B-A22B-Thinking-2507": {**_QWEN3_235B, **_LONG},
        "Qwen3-Coder-480B-A35B-Instruct": {**_QWEN3_480B, **_LONG},
        **{
            "Qwen2.5-VL-%s-Instruct" % size: {**config, "model_type": "qwen2_5_vl", "vision_config": {}}
            for size, config in (
                ("3B", {**_QWEN2, **_sizes(2048, 11008, 36, 16, 2), **_TIED, "vocab_size": 151936}),
                ("7B", {**_QWEN2, **_sizes(3584, 18944, 28, 28, 4)}),
                ("72B", {**_QWEN2, **_sizes(8192, 29568, 80, 64, 8)}),
            )
        },
        **{
            "Qwen3-VL-32B-" + after: _seen(
                "qwen3_vl", {**_QWEN3, **_sizes(5120, 25600, 64, 64), **_LONG, "model_type": "qwen3_vl_text"}
            )
            for after in ("Instruct", "Thinking")
        },
    },
    "mistralai": {
        **{
            "Mistral-7B%s-v0.%d" % (middle, minor): {
                **_MISTRAL,
                **_sizes(4096, 14336, 32, 32),
                "vocab_size": 32768 if minor == 3 else 32000,
            }
            for middle in ("", "-Instruct")
            for minor in (1, 2, 3)
        },
        "Mistral-Small-24B-Instruct-2501": _MISTRAL_24B,
        "Mistral-Small-24B-Base-2501": _MISTRAL_24B,
        **{
            name: _seen("mistral3", {**_MISTRAL_24B, "max_position_embeddings": 131072})
            for name in (
                "Mistral-Small-3.1-24B-Instruct-2503",
                "Mistral-Small-3.2-24B-Instruct-2506",
            )
        },
        **{
            "Mixtral-8x7B%s-v0.1" % middle: {
                **_MIXTRAL,
                **_sizes(4096, 14336, 32, 32),
                "max_position_embeddings": 32768,
            }
            for middle in ("", "-Instruct")
        },
        **{
            "Mixtral-8x22B%s-v0.1" % middle: {
                **_MIXTRAL,
                **_sizes(6144, 16384, 56, 48),
                "vocab_size": 32768 if middle else 32000,
                "max_position_embeddings": 65536,
            }
            for middle in ("", "-Instruct")
        },
    },
    "google": {
        **{
            "gemma-3-" + size + after: config
            for after in ("-it", "-pt")
            for size, config in (
                (
                    "1b",
                    {
                        **_GEMMA3,
                        **_sizes(1152, 6912, 26, 4, 1),
                        "vocab_size": 262144,
                        "max_position_embeddings": 32768,
                    },
                ),
                ("4b", _seen("gemma3", {**_GEMMA3, **_sizes(2560, 10240, 34, 8, 4)})),
                ("12b", _seen("gemma3", {**_GEMMA3, **_sizes(3840, 15360, 48, 16, 8)})),
                ("27b", _seen("gemma3", {**_GEMMA3, **_sizes(5376, 21504, 62, 32, 16), "head_dim": 128})),
            )
        },
    },
    "nvidia": {
        **{
            "Llama-3.%d-%s-Instruct-FP8" % (minor, size): {**config, **_MODELOPT_FP8}
            for minor, size, config in ((1, "8B", _LLAMA_8B), (1, "70B", _LLAMA_70B), (3, "70B", _LLAMA_70B))
        },
        "Llama-3.1-405B-Instruct-FP8": {**_LLAMA, **_sizes(16384, 53248, 126, 128), **_MODELOPT_FP8},
    },
    "openai": {
        "gpt-oss-20b": {**_GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32},
        "gpt-oss-120b": {**_GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128},
    },
}

_BY_REPOSITORY: Mapping[str, Mapping[str, Any]] = {
    "%s/%s" % (organisation, name): config
    for organisation, models in _PUBLISHED.items()
    for name, config in models.items()
}


def known_config(repo: str) -> Optional[Mapping[str, Any]]:
    """Return the sizes of a published model's config.json by its exact repository, None for one that is not known."""
    return _BY_REPOSITORY.get(repo)


def known_repositories() -> Mapping[str, Mapping[str, Any]]:
    """Return every repository that is known, with the sizes of its config.json."""
    return _BY_REPOSITORY


def known_shape(repo: str) -> Optional[ModelShape]:
    """Return the shape of a published model by its repository (`org/name`), None for one that is not known."""
    config = known_config(repo)
    try:
        return None if config is None else ModelShape.from_config(config)
    except ConfigError:
        return None  # a model of which only the architecture is known
