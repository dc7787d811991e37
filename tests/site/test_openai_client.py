# SPDX-License-Identifier: Apache-2.0
"""The `openai` client, unchanged, against the router: what a user's program does on the first day."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.lab

TOKENS = 12
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]
#: Beside OpenAI's own parameters: the lab's model has random weights, and would end its text anywhere.
EXACTLY = {"ignore_eos": True}


@pytest.fixture
def client(router_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router_url}/v1", api_key="none-is-asked-for", timeout=600, max_retries=0) as made:
        yield made


def test_the_models_are_listed(client: openai.OpenAI, model: str) -> None:
    assert model in [row.id for row in client.models.list()]


def test_chat_at_once_and_as_a_stream_are_the_same_text(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(
        model=model, messages=MESSAGES, max_completion_tokens=TOKENS, temperature=0, extra_body=EXACTLY
    )
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage
    assert whole.usage.completion_tokens == TOKENS
    assert whole._request_id
    pieces, usage, reasons = [], None, []
    for chunk in client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_completion_tokens=TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXACTLY,
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content
    assert reasons[-1] == "length"
    assert usage
    assert usage.completion_tokens == TOKENS


def test_completions_at_once_and_as_a_stream_are_the_same_text(client: openai.OpenAI, model: str) -> None:
    whole = client.completions.create(
        model=model, prompt="Once upon", max_tokens=TOKENS, temperature=0, extra_body=EXACTLY
    )
    assert whole.usage
    assert whole.usage.completion_tokens == TOKENS
    stream = client.completions.create(
        model=model, prompt="Once upon", max_tokens=TOKENS, temperature=0, stream=True, extra_body=EXACTLY
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_many_at_once_are_all_answered(router_url: str, model: str) -> None:
    async def ask() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{router_url}/v1", api_key="none", timeout=600, max_retries=0) as many:
            answers = await asyncio.gather(
                *(
                    many.completions.create(model=model, prompt=f"{number}", max_tokens=4, extra_body=EXACTLY)
                    for number in range(12)
                )
            )
        return [answer.usage.completion_tokens for answer in answers if answer.usage]

    assert asyncio.run(ask()) == [4] * 12


def test_what_is_refused_raises_the_clients_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="none/such", prompt="x")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=model, prompt="x", max_tokens=1_000_000)
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model=model, prompt="x" * 3_000_000)
    assert caught.value.status_code == 413
