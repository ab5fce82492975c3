"""Retire weeks: raw events older than the retention go, a week at a time, when nobody needs them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice

import structlog

from kit.clock import Clock
from services.metering.application import metrics
from services.metering.application.ports import Archive, ArchivedFile, OldWeeks, RawRow
from services.metering.domain import limits
from services.metering.domain.errors import HeldBack, HeldReason
from services.metering.domain.retention import Share, due_weeks, not_passed

log = structlog.get_logger()

_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Retired:
    """What became of the weeks that were due."""

    dropped: tuple[date, ...]
    held: HeldBack | None = None
    """Why the oldest one that is left could not go."""


async def _pause() -> None:
    await asyncio.sleep(limits.DETACH_PAUSE_SECONDS)


class RetireWeeks:
    """Drops raw events, in order: passed by all, sealed, archived, out of the ledger, dropped.

    Each step is done once and for all, and found done by whoever comes after a crash.
    """

    def __init__(
        self,
        weeks: OldWeeks,
        archive: Archive | None,
        clock: Clock,
        *,
        retention: timedelta,
        followers: Sequence[str],
        pause: Callable[[], Awaitable[None]] = _pause,
    ) -> None:
        """followers: who must have passed. archive: None holds everything back. pause: between attempts at a ledger
        that is busy.
        """
        self._weeks = weeks
        self._archive = archive
        self._clock = clock
        self._retention = retention
        self._followers = followers
        self._pause = pause

    async def __call__(self) -> Retired:
        """Retires what is due, oldest first, up to the first week that is held back: the later ones wait for it. Does
        nothing while another process is at it. Raises DependencyUnavailable.
        """
        async with self._weeks.alone() as is_alone:
            if not is_alone:
                return Retired(())
            weeks = await self._weeks.weeks()
            due = due_weeks(weeks.kept, now=self._clock.now(), retention=self._retention)
            retired = await self._retire(weeks.leaving, due)
        _report(retired, left=len(weeks.leaving) + len(due) - len(retired.dropped))
        return retired

    async def _retire(self, leaving: Sequence[date], due: Sequence[date]) -> Retired:
        dropped: list[date] = []
        try:
            for week in leaving:
                await self._weeks.drop(week)
                dropped.append(week)
            for week in due:
                await self._take_out(week)
                await self._weeks.drop(week)
                dropped.append(week)
        except HeldBack as held:
            return Retired(tuple(dropped), held)
        return Retired(tuple(dropped))

    async def _take_out(self, week: date) -> None:
        shares = await self._weeks.shares(week)
        waiting = not_passed(shares, await self._weeks.confirmations(), self._followers)
        if named := list(islice(waiting, _NAMED_MAX)):
            detail = ", ".join(f"{each.follower} for {each.organization_id}" for each in named)
            more = sum(1 for _ in waiting)
            raise HeldBack(HeldReason.NOT_PASSED, f"{week}: {detail}{f' and {more} more' if more else ''}")
        if self._archive is None:
            raise HeldBack(HeldReason.NO_ARCHIVE, f"{week}: TOLLBOOK_ARCHIVE_DIR is not set")
        for share in shares:
            await self._weeks.seal(week, share)
        await self._ensure_archived(week, shares, self._archive)
        for _ in range(limits.DETACH_ATTEMPTS_MAX - 1):
            try:
                return await self._weeks.detach(week, self._followers)
            except HeldBack as held:
                if held.reason is not HeldReason.BUSY:
                    raise
            await self._pause()
        return await self._weeks.detach(week, self._followers)

    async def _ensure_archived(self, week: date, shares: Sequence[Share], archive: Archive) -> None:
        try:
            file = await self._weeks.archived(week)
            if file is None or not await archive.holds(file):
                file = await archive.write(week, self._rows(week, shares))
                _refuse_count(week, file, shares)
                await self._weeks.set_archived(week, file, now=self._clock.now())
        except OSError as error:
            raise HeldBack(HeldReason.ARCHIVE_FAILED, f"{week}: {error}") from error

    async def _rows(self, week: date, shares: Sequence[Share]) -> AsyncIterator[Sequence[RawRow]]:
        for share in shares:
            async for rows in self._weeks.rows(week, share):
                yield rows


def _refuse_count(week: date, file: ArchivedFile, shares: Sequence[Share]) -> None:
    count = sum(share.event_count for share in shares)
    if file.row_count != count:
        raise HeldBack(HeldReason.ARCHIVE_FAILED, f"{week}: {file.row_count} rows are in the file of {count} events")


def _report(retired: Retired, *, left: int) -> None:
    metrics.WEEKS_DUE.set(left)
    metrics.WEEKS_DROPPED.inc(len(retired.dropped))
    for reason in HeldReason:
        is_why = retired.held is not None and retired.held.reason is reason
        metrics.WEEK_HELD_BACK.labels(reason.value).set(int(is_why))
    for week in retired.dropped:
        log.info("week_dropped", week=str(week))
    if retired.held is not None:
        log.warning("week_held_back", reason=retired.held.reason.value, detail=retired.held.detail)
