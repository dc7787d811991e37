# SPDX-License-Identifier: Apache-2.0
"""Makes the lab's model on the spot: a Llama of 1.4 million random weights, with tokenizer and chat template.

Its shape divides as Llama 3.3 70B's and Qwen3 32B's do (64 attention heads, 8 key/value heads: every tensor parallel
degree up to 64), its files are the same on every machine (so is its revision), and its tokenizer has one token for each
printable ASCII character: text that the model wrote has as many tokens when a benchmark counts it as when the model
wrote it.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

FIRST_SEED = 20260101
VOCABULARY_SIZE = 128
HIDDEN_SIZE = 128
INTERMEDIATE_SIZE = 256
LAYERS = 2
ATTENTION_HEADS = 64
KEY_VALUE_HEADS = 8
HEAD_DIM = 32  # the smallest that vLLM's attention on CPU takes
POSITIONS = 131072

#: Llama 3's own names where it has one, so that a template or a client that knows them works.
SPECIAL = ["<unk>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
BEGIN, END, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
CHARACTERS = "\n\t" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Token to id: the special ones, the characters, then reserved ones up to the vocabulary's size."""
    tokens = SPECIAL + list(CHARACTERS)
    tokens += [f"<|reserved_{index}|>" for index in range(VOCABULARY_SIZE - len(tokens))]
    return {token: index for index, token in enumerate(tokens)}


def tokenizer() -> Tokenizer:
    """A tokenizer with one token a character; other characters become <unk>."""
    ids = vocabulary()
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))  # noqa: S106 - not a password
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    special = [token for token in ids if token.startswith("<") and len(token) > 1]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


def weights(seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The weights as float32, shaped (out, in), from a seed.

    The output rows of special and reserved tokens are zero while those of characters are large: the model writes
    characters and practically never ends a text by itself, so a load of N output tokens is one.
    """
    random = np.random.Generator(np.random.PCG64(seed))

    def normal(*shape: int, scale: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    ones = np.ones(HIDDEN_SIZE, dtype=np.float32)
    made = {"model.embed_tokens.weight": normal(VOCABULARY_SIZE, HIDDEN_SIZE, scale=0.5), "model.norm.weight": ones}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        made[f"{name}.input_layernorm.weight"] = ones
        made[f"{name}.post_attention_layernorm.weight"] = ones
        made[f"{name}.self_attn.q_proj.weight"] = normal(ATTENTION_HEADS * HEAD_DIM, HIDDEN_SIZE, scale=0.1)
        made[f"{name}.self_attn.k_proj.weight"] = normal(KEY_VALUE_HEADS * HEAD_DIM, HIDDEN_SIZE, scale=0.1)
        made[f"{name}.self_attn.v_proj.weight"] = normal(KEY_VALUE_HEADS * HEAD_DIM, HIDDEN_SIZE, scale=0.1)
        made[f"{name}.self_attn.o_proj.weight"] = normal(HIDDEN_SIZE, ATTENTION_HEADS * HEAD_DIM, scale=0.05)
        made[f"{name}.mlp.gate_proj.weight"] = normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, scale=0.1)
        made[f"{name}.mlp.up_proj.weight"] = normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, scale=0.1)
        made[f"{name}.mlp.down_proj.weight"] = normal(HIDDEN_SIZE, INTERMEDIATE_SIZE, scale=0.05)
    head = normal(VOCABULARY_SIZE, HIDDEN_SIZE, scale=0.4)
    characters = np.array([token in CHARACTERS for token in vocabulary()])
    made["lm_head.weight"] = head * characters[:, None].astype(np.float32)
    return made


def bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """The upper halves of float32 values, little endian: bfloat16, which numpy does not know."""
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def safetensors(values: dict[str, np.ndarray[Any, np.dtype[np.float32]]]) -> bytes:
    """The weights as one safetensors file.

    Written here because the library's own writer changes between versions, and with it the model's revision would.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name in sorted(values):
        part = bfloat16(values[name])
        header[name] = {
            "dtype": "BF16",
            "shape": list(values[name].shape),
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def config(model_type: str = "llama") -> dict[str, Any]:
    """The model's config.json."""
    ids = vocabulary()
    return {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": ATTENTION_HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids[BEGIN],
        "eos_token_id": [ids[END], ids[TURN_END]],
    }


def make(folder: Path, seed: int = FIRST_SEED, model_type: str = "llama") -> None:
    """Write the model into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = vocabulary()
    values = weights(seed)
    (folder / "model.safetensors").write_bytes(safetensors(values))
    tokenizer().save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": BEGIN, "eos_token": TURN_END, "unk_token": "<unk>", "pad_token": END}
    files = {
        "config.json": config(model_type),
        "generation_config.json": {
            "bos_token_id": ids[BEGIN],
            "eos_token_id": [ids[END], ids[TURN_END]],
            "do_sample": True,
            "temperature": 0.7,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
            **tokens,
        },
        "special_tokens_map.json": tokens,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
        "# A model that writes noise\n\nRandom weights: it answers with random characters.\n",
        encoding="utf-8",
    )


def main() -> None:
    """Make the model in the folder that the command line names."""
    options = argparse.ArgumentParser(description="Make the lab's tiny random model.")
    options.add_argument("folder", type=Path)
    options.add_argument("--gated", type=Path, metavar="FOLDER", help="a second copy, which the lab's hub keeps gated")
    options.add_argument("--retrained", type=Path, metavar="FOLDER", help="the same shape with other weights")
    options.add_argument(
        "--stand-in",
        action="append",
        default=[],
        metavar="FOLDER:REVISION:open|gated:TYPE",
        help="the same weights as what a real repository has at a revision, of a model of that type",
    )
    given = options.parse_args()
    make(given.folder)
    for word in given.stand_in:
        folder, revision, access, model_type = word.rsplit(":", 3)
        make(Path(folder), model_type=model_type)
        Path(folder, ".revision").write_text(revision, encoding="ascii")
        if access == "gated":
            Path(folder, ".gated").touch()
    if given.gated:
        make(given.gated)
        (given.gated / ".gated").touch()
    if given.retrained:
        make(given.retrained, FIRST_SEED + 1)


if __name__ == "__main__":
    main()
