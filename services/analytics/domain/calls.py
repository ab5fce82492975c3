"""Provider calls, as the ledger tells of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCall:
    """One call to a model provider; the token classes are disjoint. Empty ids: not known."""

    event_time: datetime
    """In UTC, cut to the microsecond: prices and days begin at whole microseconds, so the cut decides nothing."""
    provider: str
    model: str
    project_id: str
    team_id: str
    user_id: str
    agent_id: str
    task_id: str
    tokens_input_uncached: int
    tokens_cache_read: int
    tokens_cache_write: int
    tokens_output: int
    tokens_reasoning: int
    call_count: int = 1
    """-1: a call that is taken back, with tokens below zero; its costs are then the negated ones."""


def taken_back(call: ProviderCall) -> ProviderCall:
    """What cancels the call out, wherever it is added to it: at the same time and with every number negated."""
    return replace(
        call,
        tokens_input_uncached=-call.tokens_input_uncached,
        tokens_cache_read=-call.tokens_cache_read,
        tokens_cache_write=-call.tokens_cache_write,
        tokens_output=-call.tokens_output,
        tokens_reasoning=-call.tokens_reasoning,
        call_count=-call.call_count,
    )


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An event of the usage ledger, and the provider call that it reports or takes back, if any."""

    sequence: int
    call: ProviderCall | None
