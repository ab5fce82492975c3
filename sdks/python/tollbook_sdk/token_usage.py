"""How many tokens a model call used, read off the numbers that providers answer with.

Only the attributes named in this file are ever looked at, on objects and on mappings alike: `usage` and the counts in
it, `model`, and of stream events `type`, `message` and `response` for the usage within. None holds a prompt or an
answer.

The classes of the result are disjoint. Providers differ: OpenAI counts cached tokens within the input and reasoning
within the output; Anthropic's input excludes what was read from and written to its cache. The rules are those by which
metering reads OpenTelemetry's attributes (services/metering/domain/genai.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUANTITY_MAX = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens by class, disjoint."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    """Without reasoning."""
    reasoning: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 0 or above 2^53 - 1."""
        for name in ("input_uncached", "cache_read", "cache_write", "output", "reasoning"):
            if not 0 <= getattr(self, name) <= QUANTITY_MAX:
                raise ValueError(f"{name}: not in 0 to 2^53 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an answer, or one event of a stream, says."""

    model: str = ""
    counts: Mapping[str, int]
    """Counts as the provider names them; empty: it says nothing."""


def openai_reading(answer: Any) -> Reading:
    """Of chat completions, responses and embeddings, whole or streamed, and of whatever answers in their shape."""
    # The last event of a streamed response bears it as `response`; the last chunk of a completion, its usage itself.
    whole = _get(answer, "response") if _is_event(answer, "response.") else answer
    usage = _get(whole, "usage")
    return Reading(
        model=_text(whole, "model"),
        counts={
            **_counts(usage, "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
            **_counts(_get(usage, "prompt_tokens_details"), "cached_tokens"),
            **_counts(_get(usage, "input_tokens_details"), "cached_tokens"),
            **_counts(_get(usage, "completion_tokens_details"), "reasoning_tokens"),
            **_counts(_get(usage, "output_tokens_details"), "reasoning_tokens"),
        },
    )


def openai_usage(counts: Mapping[str, int], *, reasoning_is_apart: bool = False) -> TokenUsage:
    """Both spellings. `reasoning_is_apart`: the output excludes reasoning, as at xAI.

    Parts larger than their whole cannot be within it, and are counted apart.
    """
    whole_in = counts.get("prompt_tokens", counts.get("input_tokens", 0))
    whole_out = counts.get("completion_tokens", counts.get("output_tokens", 0))
    cached, reasoning = counts.get("cached_tokens", 0), counts.get("reasoning_tokens", 0)
    return TokenUsage(
        input_uncached=whole_in - cached if cached <= whole_in else whole_in,
        cache_read=cached,
        output=whole_out if reasoning_is_apart or reasoning > whole_out else whole_out - reasoning,
        reasoning=reasoning,
    )


def anthropic_reading(answer: Any) -> Reading:
    """Of messages, whole or streamed: the first event of a stream has the input, later ones the output so far."""
    whole = _get(answer, "message") if _is_event(answer, "message_start") else answer
    return Reading(
        model=_text(whole, "model"),
        counts=_counts(
            _get(whole, "usage"),
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "output_tokens",
        ),
    )


def anthropic_usage(counts: Mapping[str, int]) -> TokenUsage:
    """Anthropic's counts are disjoint already; thinking is part of the output and not told apart."""
    return TokenUsage(
        input_uncached=counts.get("input_tokens", 0),
        cache_read=counts.get("cache_read_input_tokens", 0),
        cache_write=counts.get("cache_creation_input_tokens", 0),
        output=counts.get("output_tokens", 0),
    )


def _get(thing: Any, name: str) -> Any:
    if thing is None:
        return None
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _text(thing: Any, name: str) -> str:
    value = _get(thing, name)
    return value if isinstance(value, str) else ""


def _is_event(thing: Any, kind: str) -> bool:
    return _text(thing, "type").startswith(kind)


def _counts(usage: Any, *names: str) -> dict[str, int]:
    found = {name: _get(usage, name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= QUANTITY_MAX
    }
