# SPDX-License-Identifier: Apache-2.0
"""The simulated engine's prefix cache: what begins alike is not computed again."""

from __future__ import annotations

from pathlib import Path

from lab.neuron_sim.engine import PrefixCache, Request, Scheduler
from lab.neuron_sim.latency import Fixed
from lab.neuron_sim.tokenizer import Tokenizer
from tests.lab.sim_support import SimHost

WORDS = "one two three four five six seven eight nine ten eleven twelve"


class Proportional(Fixed):
    """A second for every prompt token."""

    def prefill_seconds(self, prompt_tokens: int) -> float:
        return float(prompt_tokens)


def test_texts_that_begin_alike_share_their_first_blocks() -> None:
    tokenizer = Tokenizer({})
    first, second = tokenizer.blocks(WORDS, 4), tokenizer.blocks(WORDS.replace("six", "6"), 4)
    assert len(first) == len(second) == 3
    assert first[:1] == second[:1] and not set(first[1:]) & set(second[1:])
    assert tokenizer.blocks(WORDS + " thirteen", 4) == first


def test_only_a_beginning_is_found_and_the_oldest_goes_first() -> None:
    cache = PrefixCache(capacity=3, size=16)
    cache.keep(["a", "b", "c"])
    assert cache.found(["a", "b", "c", "d"]) == 48
    assert cache.found(["x", "b", "c"]) == 0
    cache.keep(["a", "z"])
    # Of a, b and c the last one was of the least use.
    assert cache.found(["a", "b", "c"]) == 32 and cache.found(["a", "z"]) == 32


def test_a_cached_beginning_takes_no_time_and_the_last_token_always_does() -> None:
    scheduler = Scheduler(1, Proportional(0.0, 0.0, serial=True), cache=PrefixCache(8, 4))
    for number, (tokens, blocks) in enumerate([(8, ("a", "b")), (10, ("a", "b")), (8, ("a", "b"))]):
        request = Request(str(number), tokens, 1, blocks=blocks)
        now = 100.0 * number
        scheduler.add(request, now)
        scheduler.advance(now)
        assert scheduler.due() == now + (8, 2, 1)[number]
        scheduler.advance(now + 50)


def test_a_server_finds_a_conversation_again_and_counts_it(tmp_path: Path) -> None:
    latency = {"kind": "model", "as_model": "llama-3.3-70b"}
    options = ["--enable-prefix-caching", "--block-size", "16", "--num-gpu-blocks-override", "1024"]
    with SimHost(tmp_path, sdk_releases=["2.27.0"], latency=latency) as host:
        server = host.serve_v1(*options).wait_ready()
        talk = [{"role": "user", "content": " ".join([WORDS] * 60)}]
        asked = {"messages": talk, "max_tokens": 20, "temperature": 0}
        answer = server.json("/v1/chat/completions", asked)["choices"][0]["message"]["content"]
        assert server.metric("prefix_cache_hits_total") == 0
        first = server.metric("time_to_first_token_seconds_sum")
        prompt = server.metric("prompt_tokens_total")
        talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": "and then?"}]
        server.json("/v1/chat/completions", asked)
        # The first prompt whole, and of the answer what fills blocks.
        assert prompt - 16 <= server.metric("prefix_cache_hits_total") <= prompt + 20 + 16
        assert server.metric("prefix_cache_queries_total") == server.metric("prompt_tokens_total")
        assert server.metric("time_to_first_token_seconds_sum") - first < first / 2
