# SPDX-License-Identifier: Apache-2.0
"""Drives llmeter against an OpenAI-compatible server: exactly n requests, closed or open loop, one record for each.

llmeter measures a request (its streaming endpoint: time to first and last token, the server's token counts, errors).
Its runner sends as many prompts on each connection as on the others, in one order that all of them share, and knows no
open loop; so this program decides when each request starts. It runs in the client's own environment on the load host:

    python llmeter_load.py load.json requests.jsonl --shard 0/2

Shards split requests and connections between processes, since one interpreter parses about 3,000 tokens/s before its
own processor time shows in the latencies. After warm-up the program prints `ready` and waits for a line on stdin, so
that several start together and counters can be read in between. Exit status 0 means that every request of its share
was sent and has a record, whatever its outcome.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from llmeter.endpoints.base import InvocationResponse
from llmeter.endpoints.openai import OpenAICompletionStreamEndpoint
from tokenizers import Tokenizer

#: Plain words, so that a tokenizer trained on little text still knows the letters. Chosen at random for each prompt:
#: prompts that share no beginning get no help from a prefix cache.
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information"
)


#: Header by which a conversation's requests are known.
CONVERSATION = "x-conversation"


class TimedEndpoint(OpenAICompletionStreamEndpoint):
    """llmeter's streaming endpoint, which keeps the time of every token, and asks for the name that a request gives."""

    def prepare_payload(self, payload: Any) -> Any:
        """As llmeter's own, which names one model for all requests."""
        return {**super().prepare_payload(payload), "model": payload["model"]}

    def process_raw_response(self, raw_response: Any, start_t: float, response: InvocationResponse) -> None:
        """Let llmeter read the stream, and note when each piece of text arrived, in seconds from the start."""
        times: list[float] = []
        response.annotations["token_times_s"] = times

        def noted() -> Any:
            for piece in raw_response:
                if piece.choices:
                    delta = piece.choices[0].delta
                    if delta.content or getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None):
                        times.append(time.perf_counter() - start_t)
                yield piece

        super().process_raw_response(noted(), start_t, response)


def prompts(load: dict[str, Any], tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Every request's prompt and output length, the same for the same seed.

    Lengths are normally distributed around the means, in tokens. The prompt's length is counted without the chat
    template, which the server adds: the records carry the server's own count.
    """
    if load.get("dataset"):
        return dataset(load)
    rng = random.Random(load["seed"])  # noqa: S311 - repeatable prompts, no secret
    made = []
    turns = load.get("turns", 1)
    for index in range(load["requests"]):
        wanted = length(rng, load["mean_input_tokens"], load["stddev_input_tokens"])
        if index % turns:
            wanted = load["mean_turn_tokens"]
        output = length(rng, load["mean_output_tokens"], load["stddev_output_tokens"])
        made.append((text_of(rng, wanted, tokenizer), output))
    return made


def conversations(work: list[tuple[int, tuple[str, int]]], turns: int) -> list[list[tuple[int, tuple[str, int]]]]:
    """Requests in the order of each conversation; each request is one of its own where there is one turn."""
    return [work[first : first + turns] for first in range(0, len(work), turns)]


def length(rng: random.Random, mean: float, stddev: float) -> int:
    """A length in tokens, at least 1."""
    return max(1, round(rng.gauss(mean, stddev)))


def text_of(rng: random.Random, tokens: int, tokenizer: Tokenizer) -> str:
    """Random words that the tokenizer counts as `tokens`, or as near below it as whole tokens allow."""
    words = rng.choices(_WORDS.split(), k=tokens)  # a word is at least one token
    ids = tokenizer.encode(" ".join(words), add_special_tokens=False).ids[:tokens]
    return str(tokenizer.decode(ids))


def dataset(load: dict[str, Any]) -> list[tuple[str, int]]:
    """The user's own prompts: JSON lines with `prompt` and, if wanted, `output_tokens`; repeated when too few."""
    with Path(load["dataset"]).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if not rows:
        sys.exit(f"{load['dataset']} holds no prompt")
    taken = itertools.islice(itertools.cycle(rows), load["requests"])
    return [(row["prompt"], int(row.get("output_tokens", load["mean_output_tokens"]))) for row in taken]


def body(
    load: dict[str, Any], index: int, prompt: str, output_tokens: int, before: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """The request as sent. What the OpenAI library does not know (top_k, ignore_eos) travels in its extra body.

    A conversation's has what was said before, and a header that is the same for all of it, as clients have one by which
    a router may keep it together.
    """
    turns = load.get("turns", 1)
    talk = {"extra_headers": {CONVERSATION: f"{load['seed']}-{index // turns}"}} if turns > 1 else {}
    names = load.get("models") or [load["model"]]  # taken in turn
    extra = dict(load["sampling"])
    if load["ignore_eos"]:
        extra["ignore_eos"] = True
    return {
        "model": names[index % len(names)],
        "messages": [*(before or []), {"role": "user", "content": prompt}],
        "max_tokens": output_tokens,
        "extra_body": extra,
        **talk,
    }


def outcome(error: str | None) -> tuple[str, int | None]:
    """Tell a time-out from a failure, and find the HTTP status in the library's message."""
    if error is None:
        return "succeeded", 200
    status = re.match(r"Error code: (\d{3})", error)
    kind = "timed_out" if "timed out" in error.lower() else "failed"
    return kind, int(status.group(1)) if status else None


def record(
    index: int, wanted: int, started: float, scheduled: float | None, response: InvocationResponse
) -> dict[str, Any]:
    """One request's record; times in seconds, `started_at` on the wall clock."""
    kind, status = outcome(response.error)
    times = response.annotations.get("token_times_s") or []
    row: dict[str, Any] = {
        "index": index,
        "outcome": kind,
        "http_status": status,
        "error": (response.error or "")[:500] or None,
        "started_at": round(started, 6),
        "late_s": None if scheduled is None else round(max(0.0, started - scheduled), 6),
        "requested_output_tokens": wanted,
        "input_tokens": response.num_tokens_input,
        "output_tokens": response.num_tokens_output,
        "ttft_s": round(times[0], 6) if times else None,
        "e2e_s": round(response.time_to_last_token, 6) if response.time_to_last_token else None,
        "gaps_ms": [round((b - a) * 1000, 2) for a, b in itertools.pairwise(times)],
    }
    if kind == "succeeded" and not response.num_tokens_output:
        # A stream that ends early, without usage and without an error, is no answer.
        row.update(outcome="failed", error="the stream ended without a token count")
    return row


class Driver:
    """Sends a shard's requests and writes a line for each."""

    def __init__(self, load: dict[str, Any], out: Path, share: tuple[int, int]) -> None:
        self.load = load
        self.out = out.open("w", encoding="utf-8")
        self.lock = threading.Lock()
        self.shard, self.shards = share
        self.endpoint = TimedEndpoint(
            model_id=load["model"],
            api_key=load.get("api_key") or "none",
            base_url=load["url"].rstrip("/") + "/v1",
            max_retries=0,  # a retry would hide a failure and add its time to another request
            timeout=httpx.Timeout(load["timeout_s"], connect=min(30.0, load["timeout_s"])),
        )
        tokenizer = Tokenizer.from_file(str(Path(load["tokenizer"]) / "tokenizer.json"))
        turns = load.get("turns", 1)
        self.talks = conversations(list(enumerate(prompts(load, tokenizer))), turns)[self.shard :: self.shards]
        self.work = [request for talk in self.talks for request in talk]

    def write(self, row: dict[str, Any]) -> None:
        """Append one line; a killed run leaves whole lines behind."""
        with self.lock:
            self.out.write(json.dumps(row) + "\n")
            self.out.flush()

    def send(
        self,
        index: int,
        prompt: str,
        wanted: int,
        scheduled: float | None = None,
        before: list[dict[str, str]] | None = None,
    ) -> str:
        """Send one request and record it; what was answered."""
        self.write({"index": index, "sent": True})
        started = time.time()
        response = self.endpoint.invoke(body(self.load, index, prompt, wanted, before))
        self.write(record(index, wanted, started, scheduled, response))
        return response.response_text or ""

    def converse(self, talk: list[tuple[int, tuple[str, int]]]) -> None:
        """Send the requests of a conversation, each with all that was said before it, and think between them."""
        said: list[dict[str, str]] = []
        rng = random.Random(f"{self.load['seed']} {talk[0][0]}")  # noqa: S311 - repeatable pauses, no secret
        for number, (index, (prompt, wanted)) in enumerate(talk):
            if number and self.load.get("think_s"):
                time.sleep(rng.expovariate(1 / self.load["think_s"]))
            answer = self.send(index, prompt, wanted, before=said)
            said += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def warm_up(self) -> None:
        """Open the connections and load the libraries before the clock runs; nothing of it is recorded."""
        count = -(-self.load["warmup_requests"] // self.shards) if self.load["warmup_requests"] else 0
        streams = self.streams()
        jobs = iter(range(count))
        lock = threading.Lock()

        def worker() -> None:
            while True:
                with lock:
                    job = next(jobs, None)
                if job is None:
                    return
                prompt, wanted = self.work[job % len(self.work)][1] if self.work else ("hello", 1)
                # The last word comes first: warm-up must not fill a prefix cache with the measured prompts.
                self.endpoint.invoke(body(self.load, job, " ".join(reversed(prompt.split(" "))), wanted))

        run_threads([threading.Thread(target=worker, daemon=True) for _ in range(min(streams, count))])

    def streams(self) -> int:
        """This shard's part of the concurrency (of all requests, in open loop, where no limit was asked for)."""
        total = self.load["concurrency"] or 1
        return total // self.shards + (1 if self.shard < total % self.shards else 0)

    def closed_loop(self) -> None:
        """Keep `concurrency` requests in flight until every one was sent."""
        jobs = iter(self.talks)
        lock = threading.Lock()

        def worker() -> None:
            while True:
                with lock:
                    job = next(jobs, None)
                if job is None:
                    return
                self.converse(job)

        run_threads([threading.Thread(target=worker, daemon=True) for _ in range(self.streams())])

    def open_loop(self, began: float) -> None:
        """Start each request at its own time, whatever became of the others; times from `began`, wall clock."""
        due = arrivals(self.load)
        threads = []
        for index, (prompt, wanted) in self.work:
            at = began + due[index]
            time.sleep(max(0.0, at - time.time()))
            threads.append(threading.Thread(target=self.send, args=(index, prompt, wanted, at), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()


def arrivals(load: dict[str, Any]) -> list[float]:
    """When each request starts, in seconds: a Poisson process of `request_rate_per_s`, or evenly spaced."""
    rate = load["request_rate_per_s"]
    rng = random.Random(load["seed"] + 1)  # noqa: S311 - repeatable arrivals, no secret
    gaps = (rng.expovariate(rate) if load["arrival"] == "poisson" else 1 / rate for _ in range(load["requests"]))
    return list(itertools.accumulate(gaps))


def run_threads(threads: list[threading.Thread]) -> None:
    """Start them all and wait for the last."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(argv: list[str] | None = None) -> int:
    """Warm up, wait for the word, send."""
    parser = argparse.ArgumentParser(description="Drives llmeter against an OpenAI-compatible server.")
    parser.add_argument("load", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shard", default="0/1", help="this process's part, as 0/2")
    args = parser.parse_args(argv)
    logging.getLogger("llmeter").setLevel(logging.CRITICAL)  # each failure is a record, not a traceback
    load = json.loads(args.load.read_text(encoding="utf-8"))
    share = tuple(int(part) for part in args.shard.split("/"))
    driver = Driver(load, args.out, (share[0], share[1]))
    driver.warm_up()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    line = sys.stdin.readline()  # the wall-clock time at which all shards begin; an empty line is now
    if not line:
        sys.exit("whoever was to say when to start is gone: nothing was sent")
    began = float(line) if line.strip() else time.time()
    time.sleep(max(0.0, began - time.time()))
    if load["request_rate_per_s"]:
        driver.open_loop(began)
    else:
        driver.closed_loop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
