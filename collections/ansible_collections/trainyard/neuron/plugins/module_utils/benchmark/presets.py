# SPDX-License-Identifier: Apache-2.0
"""The loads of the two recipes as their sources publish them, comparable with published figures, and one of users."""

from __future__ import annotations

from typing import Any, Dict

PRESETS: Dict[str, Dict[str, Any]] = {
    # AWS's data-parallel tutorial: concurrency is batch x DP, which is what 0 means; its client ends an answer at the
    # end-of-sequence token. Mean lengths and deviations in tokens; 7936 + 256 + 3 deviations is beyond 8192 tokens, so
    # a few requests of the tail are refused by a server compiled for 8192: they count as failed.
    "llama-3-3-70b": {
        "requests": 1000,
        "concurrency": 0,
        "mean_input_tokens": 7936,
        "stddev_input_tokens": 30,
        "mean_output_tokens": 256,
        "stddev_output_tokens": 30,
        "sampling": {"temperature": 0.7, "top_k": 50},
        "ignore_eos": False,
        "run_timeout_s": 21600.0,
    },
    # The community guide for Qwen3 32B: one stream, ten requests; it shows latency and says nothing about throughput.
    "qwen3-32b": {
        "requests": 10,
        "concurrency": 1,
        "mean_input_tokens": 128,
        "stddev_input_tokens": 0,
        "mean_output_tokens": 512,
        "stddev_output_tokens": 0,
        "sampling": {},
        "ignore_eos": False,
        "run_timeout_s": 1200.0,
    },
    # What users of a chat see: each request has all that was said before, so prompts grow and begin alike. Lengths and
    # pauses are ours, and stand for nobody's traffic; a tenth of the requests begin a conversation at the most.
    "conversations": {
        "requests": 480,
        "turns": 12,
        "mean_turn_tokens": 120,
        "think_s": 2.0,
        "concurrency": 0,
        "mean_input_tokens": 2000,
        "stddev_input_tokens": 200,
        "mean_output_tokens": 150,
        "stddev_output_tokens": 30,
        "sampling": {"temperature": 0.7},
        "ignore_eos": True,
        "run_timeout_s": 21600.0,
    },
}
