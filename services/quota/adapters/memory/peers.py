"""Metering and billing in memory, for tests of what follows them; they keep the promises of the ports."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace

from kit.errors import DependencyUnavailable, LogRewound, OutOfRetention
from kit.feed import START, Head, Page, Position
from services.quota.application.ports import (
    InForce,
    Snapshot,
)
from services.quota.domain.entitlements import Entitlement, Period
from services.quota.domain.limits import LevelMeter
from services.quota.domain.usage import UsageEntry, tally


class MemoryLedger:
    """Ledger over lists that a test appends to, each append one commit. Pages are short, so that there are several."""

    def __init__(self, *, page_entries: int = 3) -> None:
        self._page_entries = page_entries
        self._entries: dict[str, list[tuple[UsageEntry, str]]] = defaultdict(list)
        self._horizons: dict[str, int] = defaultdict(int)

    def append(self, organization_id: str, *entries: UsageEntry) -> None:
        """Records entries, giving them their sequences."""
        ledger, commit_id = self._entries[organization_id], secrets.token_hex(8)
        for entry in entries:
            ledger.append((replace(entry, sequence=len(ledger) + 1), commit_id))

    def rewind(self, organization_id: str, *, to: int) -> None:
        """Forgets what was recorded after a sequence, as a restored backup does."""
        del self._entries[organization_id][to:]

    def drop(self, organization_id: str, *, upto: int) -> None:
        """Keeps the entries up to a sequence for snapshots alone, as retention does."""
        self._horizons[organization_id] = upto

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed; ends after the heads of now."""
        yield [Head(key, self._position(key, len(ledger))) for key, ledger in self._entries.items() if ledger]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[UsageEntry]]:
        """As Feed."""
        ledger = self._entries[key]
        if after.sequence < self._horizons[key]:
            raise OutOfRetention(problem="the next events are gone")
        if after != (self._position(key, after.sequence) if after.sequence <= len(ledger) else None):
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(ledger), self._page_entries):
            end = min(start + self._page_entries, len(ledger))
            yield Page(tuple(entry for entry, _ in ledger[start:end]), self._position(key, end))

    async def snapshot(
        self,
        organization_id: str,
        period: Period,
        tracked: Collection[LevelMeter] = (),
        *,
        as_of_sequence: int | None = None,
    ) -> Snapshot:
        """As Ledger."""
        ledger = self._entries[organization_id]
        if as_of_sequence is not None and as_of_sequence < self._horizons[organization_id]:
            raise OutOfRetention(problem="what stood there is gone")
        reached = len(ledger) if as_of_sequence is None else min(as_of_sequence, len(ledger))
        totals = tally((entry for entry, _ in ledger[:reached]), period, tracked).used
        return Snapshot(totals, self._position(organization_id, reached))

    async def head(self, organization_id: str) -> Position:
        """As Ledger."""
        return self._position(organization_id, len(self._entries[organization_id]))

    def _position(self, organization_id: str, sequence: int) -> Position:
        return Position(sequence, self._entries[organization_id][sequence - 1][1]) if sequence else START


class MemoryEntitlements:
    """EntitlementSource, and kit.feed.Feed of entitlements, over what a test sets."""

    def __init__(self) -> None:
        self._logs: dict[str, list[InForce]] = {}

    def set(self, entitlement: Entitlement) -> None:
        """Puts it in force, by one more entry of the log."""
        entries = self._logs.setdefault(entitlement.organization_id, [])
        entries.append(InForce(entitlement, Position(len(entries) + 1, secrets.token_hex(8))))

    def rewind(self, organization_id: str, *, to: int) -> None:
        """Forgets the entries after a sequence, as a restored backup does."""
        del self._logs[organization_id][to:]

    async def in_force(self, organization_id: str) -> InForce:
        """As EntitlementSource; an organization that nothing was set for cannot be answered."""
        if organization_id not in self._logs:
            raise DependencyUnavailable(dependency="billing")
        return self._logs[organization_id][-1]

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed; ends after the heads of now."""
        yield [Head(key, entries[-1].position) for key, entries in self._logs.items()]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[Entitlement]]:
        """As Feed."""
        entries = self._logs[key]
        if after.sequence and after not in [each.position for each in entries]:
            raise LogRewound(sequence=after.sequence)
        yield Page((entries[-1].entitlement,), entries[-1].position)


class MemoryMeters:
    """A fixed catalog of meters, which take their values from measurements, but for some."""

    def __init__(self, *names: str, otherwise: Collection[str] = ()) -> None:
        self._names = frozenset(names) | frozenset(otherwise)
        self._otherwise = frozenset(otherwise)

    async def measured(self, names: Collection[str]) -> Collection[str]:
        """As MeterCatalog."""
        return [name for name in names if name in self._names - self._otherwise]

    def are_known(self, names: Collection[str]) -> bool:
        """As MeterCatalog."""
        return self._names.issuperset(names)

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """As MeterCatalog."""
        return [name for name in names if name not in self._names]
