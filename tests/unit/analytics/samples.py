"""Prices, calls and a ledger for tests of analytics."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from kit.errors import LogRewound, OutOfRetention
from kit.feed import START, Head, Page, Position
from services.analytics.domain.calls import LedgerEntry, ProviderCall
from services.analytics.domain.price_requests import PriceRequest
from services.analytics.domain.prices import KeptPrice, Price, PriceTable, new_price

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAGE_ENTRIES = 3


def price(
    provider: str = "openai_codex",
    *,
    model: str = "",
    start: datetime | None = None,
    rates: tuple[str, str] = ("0.002", "0.004"),
    cache: tuple[str, str] = ("", ""),
) -> Price:
    """A price: rates are input and output, cache is read and write."""
    return new_price(
        provider=provider,
        model=model,
        effective_time=start,
        input_per_thousand=rates[0],
        output_per_thousand=rates[1],
        cache_read_per_thousand=cache[0],
        cache_write_per_thousand=cache[1],
    )


def table(*prices: Price, baseline: str = "openai_codex") -> PriceTable:
    """A table in which the price at index i came with version i + 1, the baseline with the first of its provider."""
    kept = [KeptPrice(number, each) for number, each in enumerate(prices, start=1)]
    named = [each.version for each in kept if each.price.provider == baseline]
    return PriceTable(
        version=len(kept), prices=kept, baseline_provider=baseline, baseline_version=min(named, default=0)
    )


def request(asked: Price, *, makes_baseline: bool = False, request_id: str = "") -> PriceRequest:
    """A request with an id of its own, unless one is named."""
    return PriceRequest(request_id or secrets.token_hex(8), asked, makes_baseline=makes_baseline)


def call(provider: str = "openai_codex", model: str = "", **changes: Any) -> ProviderCall:
    """A call with 1 000 input and 500 output tokens at noon; `changes` are fields of ProviderCall."""
    fields: dict[str, Any] = {
        "event_time": NOON,
        "project_id": "",
        "team_id": "",
        "user_id": "",
        "agent_id": "",
        "task_id": "",
        "tokens_input_uncached": 1_000,
        "tokens_cache_read": 0,
        "tokens_cache_write": 0,
        "tokens_output": 500,
        "tokens_reasoning": 0,
    }
    return ProviderCall(provider=provider, model=model, **(fields | changes))


class MemoryFeed:
    """A ledger of several organizations to follow, which can be rewound."""

    def __init__(self) -> None:
        self._ledgers: dict[str, list[tuple[LedgerEntry, str]]] = {}
        self._horizons: dict[str, int] = {}

    def record(self, key: str, *calls: ProviderCall | None) -> None:
        """Appends events as one commit; None is an event without a provider call."""
        ledger, commit_id = self._ledgers.setdefault(key, []), secrets.token_hex(8)
        for each in calls:
            ledger.append((LedgerEntry(len(ledger) + 1, each), commit_id))

    def rewind(self, key: str, sequence: int) -> None:
        """Forgets what came after a sequence, as a restored backup does."""
        del self._ledgers[key][sequence:]

    def head(self, key: str) -> Position:
        """Where the ledger ends."""
        return self._position(key, len(self._ledgers.get(key, ())))

    def entries(self, key: str) -> list[LedgerEntry]:
        """All of a ledger."""
        return [entry for entry, _ in self._ledgers.get(key, ())]

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As kit.feed.Feed; ends after the first heads."""
        yield [Head(key, self.head(key)) for key in self._ledgers]

    def drop(self, key: str, sequence: int) -> None:
        """Keeps the entries up to a sequence no longer."""
        self._horizons[key] = sequence

    async def require_first_entries(self, organization_id: str) -> None:
        """As WholeLedger."""
        if self._horizons.get(organization_id):
            raise OutOfRetention(problem="the first entries are gone")

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[LedgerEntry]]:
        """As kit.feed.Feed."""
        if after.sequence < self._horizons.get(key, 0):
            raise OutOfRetention(problem="the next entries are gone")
        ledger = self._ledgers.get(key, [])
        if after.sequence > len(ledger) or self._position(key, after.sequence) != after:
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(ledger), PAGE_ENTRIES):
            entries = tuple(entry for entry, _ in ledger[start : start + PAGE_ENTRIES])
            yield Page(entries, self._position(key, start + len(entries)))

    def _position(self, key: str, sequence: int) -> Position:
        return Position(sequence, self._ledgers[key][sequence - 1][1]) if sequence else START
