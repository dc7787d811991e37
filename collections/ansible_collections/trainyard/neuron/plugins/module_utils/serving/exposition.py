# SPDX-License-Identifier: Apache-2.0
"""Prometheus' text format, and the names by which vLLM counts what is in it. Standard library only."""

from __future__ import annotations

import math
import re
from typing import Dict, Iterator, Tuple

RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
GENERATION_TOKENS = "vllm:generation_tokens_total"

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


def samples(text: str) -> Iterator[Tuple[str, Dict[str, str], float]]:
    """Every sample of a page: name, labels, value. Lines that are none are skipped."""
    for line in text.splitlines():
        found = _SAMPLE.match(line.strip())
        if not found:
            continue
        try:
            value = float(found.group(3))
        except ValueError:
            continue
        labels = {name: raw.replace('\\"', '"') for name, raw in _LABEL.findall(found.group(2) or "")}
        yield found.group(1), labels, value


def totals(text: str) -> Dict[str, float]:
    """Sum of each metric over its labels; parts of histograms keep their own names."""
    found: Dict[str, float] = {}
    for name, _labels, value in samples(text):
        if not math.isnan(value):
            found[name] = found.get(name, 0.0) + value
    return found
