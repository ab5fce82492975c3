from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tollbook_sdk.token_usage import (
    TokenUsage,
    anthropic_reading,
    anthropic_usage,
    openai_reading,
    openai_usage,
)


def things(value: Any) -> Any:
    """A mapping as an object, all the way down."""
    return SimpleNamespace(**{key: things(each) for key, each in value.items()}) if isinstance(value, dict) else value


CHAT = {
    "model": "gpt-5",
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 20},
    },
}
RESPONSE = {
    "model": "gpt-5",
    "usage": {
        "input_tokens": 100,
        "output_tokens": 50,
        "input_tokens_details": {"cached_tokens": 30},
        "output_tokens_details": {"reasoning_tokens": 20},
    },
}
OPENAI_TOKENS = TokenUsage(input_uncached=70, cache_read=30, output=30, reasoning=20)


@pytest.mark.parametrize("make", [things, lambda value: value], ids=["objects", "mappings"])
@pytest.mark.parametrize(
    "answer", [CHAT, RESPONSE, {"type": "response.completed", "response": RESPONSE}], ids=["chat", "response", "stream"]
)
def test_what_openai_counts_within_another_number_is_taken_out_of_it(answer: dict[str, Any], make: Any) -> None:
    reading = openai_reading(make(answer))
    assert (reading.model, openai_usage(reading.counts)) == ("gpt-5", OPENAI_TOKENS)


def test_where_reasoning_is_apart_the_output_stays_whole() -> None:
    usage = openai_usage(openai_reading(CHAT).counts, reasoning_is_apart=True)
    assert (usage.output, usage.reasoning) == (50, 20)


def test_parts_larger_than_their_whole_are_counted_apart() -> None:
    usage = openai_usage({"prompt_tokens": 10, "cached_tokens": 30, "completion_tokens": 5, "reasoning_tokens": 9})
    assert usage == TokenUsage(input_uncached=10, cache_read=30, output=5, reasoning=9)


@pytest.mark.parametrize("make", [things, lambda value: value], ids=["objects", "mappings"])
def test_anthropics_classes_are_disjoint_as_they_are(make: Any) -> None:
    usage = {
        "input_tokens": 7,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 200,
        "output_tokens": 40,
        "service_tier": "standard",
    }
    reading = anthropic_reading(make({"type": "message", "model": "claude", "usage": usage}))
    expected = TokenUsage(input_uncached=7, cache_read=1000, cache_write=200, output=40)
    assert (reading.model, anthropic_usage(reading.counts)) == ("claude", expected)


@pytest.mark.parametrize("read", [openai_reading, anthropic_reading])
@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": None, "input_tokens": True, "output_tokens": -1}},
        {"usage": {"input_tokens": 2**53, "prompt_tokens": 1.5}},
        {"type": "response.completed", "response": None},
        {"type": "message_start", "message": None},
    ],
)
def test_what_is_no_count_is_not_counted(read: Any, answer: Any) -> None:
    assert dict(read(answer).counts) == {}


@pytest.mark.parametrize("field", ["input_uncached", "cache_read", "cache_write", "output", "reasoning"])
@pytest.mark.parametrize("count", [-1, 2**53])
def test_counts_out_of_range_are_refused(field: str, count: int) -> None:
    with pytest.raises(ValueError, match=field):
        TokenUsage(**{field: count})
