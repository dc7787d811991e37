# SPDX-License-Identifier: Apache-2.0
"""Counting prompt tokens and making output text, from the model's own ``tokenizer.json`` where there is one.

Prompts are counted by byte-pair encoding as the Hugging Face tokenizers do it (pre-tokenizer: the byte-level pattern of
GPT-2), or by character for the lab's own model, whose tokenizer has a token for each. Output text is made of tokens
that encode back to themselves, so that a client which counts by encoding the text again gets the engine's own count.
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
_WORDS = ("the", "of", "to", "and", "in", "is", "it", "on", "for", "with", "as", "by", "at", "from", "this", "that")


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

    def __init__(self, data: dict[str, Any]) -> None:
        """From the content of ``tokenizer.json``; an empty one makes a tokenizer that counts words."""
        model = data.get("model", {})
        self._kind = model.get("type", "BPE") if model else ""
        self._vocabulary: dict[str, int] = model.get("vocab", {}) if self._kind in ("BPE", "WordLevel") else {}
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges", [])]
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        special = sorted(
            (e["content"] for e in data.get("added_tokens", []) if e.get("special")), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._leading = 1 if data.get("post_processor") else 0
        self._piece_count = lru_cache(maxsize=65536)(self._count_piece)
        self.output = self._output_tokens()

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """From a checkpoint directory; without a tokenizer of a kind that is known here, words are counted."""
        try:
            data = json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))
            return cls(data)
        except (OSError, ValueError, KeyError, AttributeError):
            return cls({})

    def _count_piece(self, piece: str) -> int:
        parts = [_BYTES[byte] for byte in piece.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: self._ranks.get((parts[i], parts[i + 1]), 1 << 60))
            if (parts[best], parts[best + 1]) not in self._ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return len(parts)

    def _count_plain(self, text: str) -> int:
        if self._kind == "WordLevel":
            return len(text)
        return sum(self._piece_count(piece.group()) if self._vocabulary else 1 for piece in _PIECES.finditer(text))

    def count(self, text: str, *, leading: bool = False) -> int:
        """Tokens of the text; ``leading`` adds what the tokenizer puts in front of a prompt."""
        special = len(self._special.findall(text)) if self._special else 0
        plain = self._special.split(text) if self._special else [text]
        return special + sum(map(self._count_plain, plain)) + (self._leading if leading else 0)

    @staticmethod
    def chat_text(messages: list[tuple[str, str]]) -> str:
        """A conversation of (role, text) in the template of Llama 3, which names its turns' borders."""
        turns = [*((role, f"{text.strip()}<|eot_id|>") for role, text in messages), ("assistant", "")]
        body = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}" for role, text in turns)
        return f"<|begin_of_text|>{body}"

    def count_chat(self, messages: list[tuple[str, str]]) -> int:
        """Tokens of a conversation of (role, text)."""
        return self.count(self.chat_text(messages))

    def blocks(self, text: str, size: int) -> list[str]:
        """A digest of the text up to each whole block of ``size`` tokens: texts that begin alike share the first ones.

        A block may hold a token more than its size where a word is several tokens.
        """
        digest = hashlib.sha256()
        found: list[str] = []
        tokens = 0
        pieces = list(text) if self._kind == "WordLevel" else [piece.group() for piece in _PIECES.finditer(text)]
        for piece in pieces:
            digest.update(piece.encode())
            tokens += 1 if self._kind == "WordLevel" or not self._vocabulary else self._piece_count(piece)
            if tokens >= size * (len(found) + 1):
                found.append(digest.hexdigest()[:16])
        return found

    def _output_tokens(self) -> list[tuple[int, str]]:
        if self._kind == "WordLevel":
            return sorted(
                (number, token) for token, number in self._vocabulary.items() if re.fullmatch("[a-z ]", token)
            )
        words = [
            (number, " " + token[1:])
            for token, number in self._vocabulary.items()
            if re.fullmatch("Ġ[a-z]{1,12}", token) and self._piece_count(" " + token[1:]) == 1
        ]
        return sorted(words) or [(index, f" {word}") for index, word in enumerate(_WORDS)]

    def generate(self, seed: str) -> Iterator[tuple[int, str]]:
        """An endless, reproducible sequence of (token id, text) for a prompt: the same seed, the same text."""
        block = hashlib.sha256(seed.encode()).digest()
        while True:
            for index in range(0, len(block), 2):
                yield self.output[int.from_bytes(block[index : index + 2], "big") % len(self.output)]
            block = hashlib.sha256(block).digest()
