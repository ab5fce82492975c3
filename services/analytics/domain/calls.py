"""Provider calls, as the ledger tells of them."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An event of the usage ledger, and the provider call that it reports, if any."""

    sequence: int
    call: ProviderCall | None
