"""Retention in memory, for tests of what stands on it; it keeps the promises of the ports."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import date, datetime, timedelta

from kit.clock import from_unix_microseconds
from kit.feed import START, Head
from kit.head_watch import FROM_THE_START
from services.metering.adapters.memory import MemoryLedger
from services.metering.application.ports import ArchivedFile, RawRow, Weeks
from services.metering.domain.errors import HeldBack, HeldReason
from services.metering.domain.events import LedgerEvent
from services.metering.domain.retention import Confirmation, Share, not_passed


class MemoryRetention:
    """Confirmations and OldWeeks over a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._confirmations: dict[tuple[str, str], Confirmation] = {}
        self._sealed: dict[str, int] = {}
        self._files: dict[date, ArchivedFile] = {}
        self._leaving: list[date] = []
        self._is_held = False

    async def confirm(self, follower: str, confirmations: Sequence[Confirmation], *, now: datetime) -> int:  # noqa: ARG002 - the port's
        """As Confirmations."""
        heads = {head.key: head.position for head in await self._heads()}
        kept = 0
        for each in confirmations:
            head, said = heads.get(each.organization_id, START), each.position
            is_at_head = said.sequence == head.sequence > 0 and said.commit_id in ("", head.commit_id)
            if said.sequence < head.sequence or is_at_head:
                self._confirmations[follower, each.organization_id] = each
                kept += 1
        return kept

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """As OldWeeks."""
        is_alone, self._is_held = not self._is_held, True
        try:
            yield is_alone
        finally:
            self._is_held = not is_alone

    async def weeks(self) -> Weeks:
        """As OldWeeks."""
        kept = {_week(entry) for head in await self._heads() for entry in self._kept(head.key)}
        return Weeks(sorted(kept), tuple(self._leaving))

    async def shares(self, week: date) -> Sequence[Share]:
        """As OldWeeks."""
        shares: list[Share] = []
        for head in await self._heads():
            entries = [entry for entry in self._kept(head.key) if _week(entry) == week]
            if entries:
                last_us = max((entry.counted.event_time_ns or 0) // 1_000 for entry in entries)
                after = self._ledger.horizon(head.key)
                shares.append(Share(head.key, after, entries[-1].sequence, from_unix_microseconds(last_us)))
        return shares

    async def confirmations(self) -> Mapping[tuple[str, str], Confirmation]:
        """As OldWeeks."""
        return dict(self._confirmations)

    async def seal(self, week: date, share: Share) -> None:  # noqa: ARG002 - the port's
        """As OldWeeks."""
        self._sealed[share.organization_id] = share.upto

    async def rows(self, week: date, share: Share) -> AsyncIterator[Sequence[RawRow]]:  # noqa: ARG002 - the port's
        """As OldWeeks."""
        entries, _ = self._ledger.known(share.organization_id, as_of_sequence=share.upto)
        yield [asdict(entry) for entry in entries[share.after :]]

    async def archived(self, week: date) -> ArchivedFile | None:
        """As OldWeeks."""
        return self._files.get(week)

    async def set_archived(self, week: date, file: ArchivedFile, *, now: datetime) -> None:  # noqa: ARG002 - the port's
        """As OldWeeks."""
        if week not in self._leaving:
            self._files[week] = file

    async def detach(self, week: date, followers: Sequence[str]) -> None:
        """As OldWeeks."""
        shares = await self.shares(week)
        if (await self.weeks()).kept[0] != week:
            raise HeldBack(HeldReason.REFUSED, f"{week}: it is not the oldest week of the ledger")
        if week not in self._files:
            raise HeldBack(HeldReason.REFUSED, f"{week}: it is not archived")
        if any(self._sealed.get(share.organization_id, 0) < share.upto for share in shares):
            raise HeldBack(HeldReason.REFUSED, f"{week}: archive and sealed totals are not of the same events")
        for waiting in not_passed(shares, self._confirmations, followers):
            raise HeldBack(HeldReason.REFUSED, f"{week}: {waiting.follower} has not passed {waiting.organization_id}")
        for share in shares:
            self._ledger.drop(share.organization_id, upto=share.upto)
        self._leaving.append(week)

    async def drop(self, week: date) -> None:
        """As OldWeeks."""
        if week in (await self.weeks()).kept:
            raise HeldBack(HeldReason.REFUSED, f"{week}: it was not taken out of the ledger by us")
        if week in self._leaving:
            self._leaving.remove(week)

    async def _heads(self) -> Sequence[Head]:
        return (await self._ledger.heads(FROM_THE_START)).heads

    def _kept(self, organization_id: str) -> Sequence[LedgerEvent]:
        entries, _ = self._ledger.known(organization_id, as_of_sequence=None)
        return entries[self._ledger.horizon(organization_id) :]


class MemoryArchive:
    """Archive over a dictionary."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def write(self, week: date, rows: AsyncIterator[Sequence[RawRow]]) -> ArchivedFile:
        """As Archive."""
        every = [row async for page in rows for row in page]
        name, content = f"events_{week:%Y%m%d}", repr(every).encode()
        self.files[name] = content
        return ArchivedFile(name, hashlib.sha256(content).digest(), len(every), len(content))

    async def holds(self, file: ArchivedFile) -> bool:
        """As Archive."""
        content = self.files.get(file.name)
        return content is not None and hashlib.sha256(content).digest() == file.sha256


def _week(entry: LedgerEvent) -> date:
    day = from_unix_microseconds(entry.receive_time_us).date()
    return day - timedelta(days=day.weekday())
