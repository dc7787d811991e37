# SPDX-License-Identifier: Apache-2.0
"""Shapes of published models, so that a plan can say what fits with no checkpoint and no network at hand.

The sizes are those of each model's config.json; a checkpoint on disk says it better, and is asked where there is one.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fit import ModelShape

_LLAMA = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072, "num_key_value_heads": 8}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960, "head_dim": 128}
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


def _sizes(hidden: int, intermediate: int, layers: int, heads: int) -> Mapping[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


#: A pattern of the repository's name after its organisation, lower case, and the model's config.json.
_CONFIGS: Tuple[Tuple[str, Mapping[str, object]], ...] = (
    (r"(meta-)?llama-3\.[13]-70b(-instruct)?", {**_LLAMA, **_sizes(8192, 28672, 80, 64)}),
    (r"deepseek-r1-distill-llama-70b", {**_LLAMA, **_sizes(8192, 28672, 80, 64)}),
    (r"(meta-)?llama-3\.1-8b(-instruct)?", {**_LLAMA, **_sizes(4096, 14336, 32, 32)}),
    (
        r"llama-3\.2-1b(-instruct)?",
        {**_LLAMA, **_sizes(2048, 8192, 16, 32), "head_dim": 64, "tie_word_embeddings": True},
    ),
    (
        r"mistral-7b(-instruct)?-v0\.3",
        {
            **_sizes(4096, 14336, 32, 32),
            "model_type": "mistral",
            "num_key_value_heads": 8,
            "vocab_size": 32768,
            "max_position_embeddings": 32768,
        },
    ),
    (
        r"mixtral-8x7b(-instruct)?-v0\.1",
        {
            **_sizes(4096, 14336, 32, 32),
            "model_type": "mixtral",
            "num_local_experts": 8,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
            "max_position_embeddings": 32768,
        },
    ),
    (
        r"qwen2\.5-7b(-instruct)?",
        {
            **_sizes(3584, 18944, 28, 28),
            "model_type": "qwen2",
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 32768,
        },
    ),
    (r"qwen3-32b", {**_QWEN3, **_sizes(5120, 25600, 64, 64), "num_key_value_heads": 8}),
    (r"qwen3-8b", {**_QWEN3, **_sizes(4096, 12288, 36, 32), "num_key_value_heads": 8}),
    (
        r"qwen3-0\.6b",
        {**_QWEN3, **_sizes(1024, 3072, 28, 16), "num_key_value_heads": 8, "tie_word_embeddings": True},
    ),
    (
        r"qwen3-30b-a3b",
        {
            **_QWEN3,
            **_sizes(2048, 6144, 48, 32),
            "model_type": "qwen3_moe",
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_key_value_heads": 4,
        },
    ),
    (r"gpt-oss-20b", {**_GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32}),
    (r"gpt-oss-120b", {**_GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128}),
)


def known_shape(repo: str) -> Optional[ModelShape]:
    """Return the shape of a published model by its repository's name (`org/name`), None for one that is not known."""
    name = repo.rsplit("/", 1)[-1].lower()
    for pattern, config in _CONFIGS:
        if re.fullmatch(pattern, name):
            return ModelShape.from_config(config)
    return None
