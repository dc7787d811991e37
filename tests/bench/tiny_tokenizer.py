# SPDX-License-Identifier: Apache-2.0
"""A tokenizer directory made on the spot: byte-level, one token for each byte, so that words are many tokens."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers


def make(directory: Path) -> Path:
    """Write a tokenizer that transformers and tokenizers both read."""
    directory.mkdir()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: index for index, letter in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    # Where a class must be chosen from a model's type, as LLMPerf's own code has it.
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(vocabulary)}))
    return directory
