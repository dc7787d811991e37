# SPDX-License-Identifier: Apache-2.0
"""Makes a LoRA adapter of the lab's model on the spot: random weights in the layout of PEFT, the same on every machine.

What it adds is as large as what the model's own layers say, so that each adapter answers in its own way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lab import tiny_model

RANK = 8
SCALE = 0.2
#: Layer -> where it stands in the model, and how many numbers go in and come out.
_QUERIES, _KEYS = tiny_model.ATTENTION_HEADS * tiny_model.HEAD_DIM, tiny_model.KEY_VALUE_HEADS * tiny_model.HEAD_DIM
LAYERS: dict[str, tuple[str, int, int]] = {
    "q_proj": ("self_attn", tiny_model.HIDDEN_SIZE, _QUERIES),
    "k_proj": ("self_attn", tiny_model.HIDDEN_SIZE, _KEYS),
    "v_proj": ("self_attn", tiny_model.HIDDEN_SIZE, _KEYS),
    "o_proj": ("self_attn", _QUERIES, tiny_model.HIDDEN_SIZE),
}


def config(rank: int = RANK) -> dict[str, Any]:
    """The adapter's adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "trainyard/tiny-llama",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(LAYERS),
    }


def weights(seed: int, rank: int = RANK) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The adapter's weights, shaped (out, in), from a seed."""
    random = np.random.Generator(np.random.PCG64(seed))
    made = {}
    for layer in range(tiny_model.LAYERS):
        for name, (part, width_in, width_out) in LAYERS.items():
            where = f"base_model.model.model.layers.{layer}.{part}.{name}"
            for side, shape in (("lora_A", (rank, width_in)), ("lora_B", (width_out, rank))):
                made[f"{where}.{side}.weight"] = (random.standard_normal(shape) * SCALE).astype(np.float32)
    return made


def files(seed: int, rank: int = RANK) -> dict[str, bytes]:
    """The adapter's files, by name."""
    return {
        "adapter_config.json": json.dumps(config(rank), indent=2).encode() + b"\n",
        "adapter_model.safetensors": tiny_model.safetensors(weights(seed, rank)),
    }


def main() -> None:
    """Make an adapter in the folder that the command line names."""
    options = argparse.ArgumentParser(description="Make a LoRA adapter of the lab's tiny random model.")
    options.add_argument("folder", type=Path)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(given.seed).items():
        (given.folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
