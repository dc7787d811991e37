# SPDX-License-Identifier: Apache-2.0
"""Counting prompt tokens and making output text, from the model's own ``tokenizer.json`` where there is one.

Prompts are counted by byte-pair encoding as the Hugging Face tokenizers do it (pre-tokenizer: the byte-level pattern of
GPT-2). Output text is made of tokens that encode back to themselves, so that a client which counts tokens by encoding
the text again gets the engine's own count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

_PIECES = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "on",
    "for",
    "with",
    "as",
    "by",
    "at",
    "from",
    "this",
    "that",
    "be",
    "are",
    "was",
    "one",
    "two",
    "all",
    "not",
    "but",
    "or",
]


def _byte_characters() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    extra = 0
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


_BYTES = _byte_characters()


class Tokenizer:
    """Token counts and output tokens for one model."""

    def __init__(self, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int], special: list[str]) -> None:
        self._ranks = ranks
        self._special = (
            re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True)))) if special else None
        )
        self._known = bool(vocabulary)
        self._piece_count = lru_cache(maxsize=65536)(self._count_piece)
        self.output = self._output_tokens(vocabulary)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """From ``tokenizer.json``; without one (or with one of another kind) words are counted instead."""
        try:
            data: dict[str, Any] = json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))
            model = data["model"]
            if model.get("type", "BPE") != "BPE":
                return cls({}, {}, [])
            pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        except (OSError, ValueError, KeyError):
            return cls({}, {}, [])
        special = [entry["content"] for entry in data.get("added_tokens", []) if entry.get("special")]
        return cls(model["vocab"], {(left, right): rank for rank, (left, right) in enumerate(pairs)}, special)

    def _count_piece(self, piece: str) -> int:
        parts = [_BYTES[byte] for byte in piece.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: self._ranks.get((parts[i], parts[i + 1]), 1 << 60))
            if (parts[best], parts[best + 1]) not in self._ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return len(parts)

    def count(self, text: str) -> int:
        """Tokens of the text."""
        if not self._known:
            return sum(1 for _ in _PIECES.finditer(text))
        special = len(self._special.findall(text)) if self._special else 0
        plain = self._special.split(text) if self._special else [text]
        return special + sum(self._piece_count(piece.group()) for part in plain for piece in _PIECES.finditer(part))

    def _output_tokens(self, vocabulary: dict[str, int]) -> list[tuple[int, str]]:
        words = [
            (number, " " + token[1:])
            for token, number in vocabulary.items()
            if re.fullmatch("Ġ[a-z]{1,12}", token) and self._count_piece(" " + token[1:]) == 1
        ]
        if len(words) < 16 and vocabulary:
            words = [(n, t) for t, n in vocabulary.items() if re.fullmatch("[a-z]", t)]
            if any(pair[0][-1:].isalpha() and pair[1][:1].isalpha() for pair in self._ranks):
                words = [(number, text) for number, text in words[:1]]
        return sorted(words) or [(index, f" {word}") for index, word in enumerate(_WORDS)]

    def generate(self, seed: str) -> Iterator[tuple[int, str]]:
        """An endless, reproducible sequence of (token id, text) for a prompt: the same seed, the same text."""
        block = hashlib.sha256(seed.encode()).digest()
        while True:
            for index in range(0, len(block), 2):
                yield self.output[int.from_bytes(block[index : index + 2], "big") % len(self.output)]
            block = hashlib.sha256(block).digest()
