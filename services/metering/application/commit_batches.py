"""Commit batches: many callers, few transactions.

A commit costs a disk sync however much is in it. So while one is under way, what arrives gathers; the next takes what
has gathered. A caller alone is committed at once: nothing waits for company.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime
from typing import cast

from kit.errors import DependencyUnavailable, Overloaded
from services.metering.application import metrics
from services.metering.application.ports import LedgerWriter
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import UsageEvent


class CommitBatches:
    """A LedgerWriter that joins the batches of many callers into few transactions of another one.

    Up to `transactions` of them run side by side; batches of one organization are never in two of these, where one
    would only wait for the other's lock, and are committed in the order in which they came. A batch is all in one
    transaction, and its fate is its own: when a joint transaction fails for another reason than an unreachable store,
    each of its batches is tried again alone. A caller that is cancelled takes its batch along if its transaction has
    not begun; else the batch is finished or rolled back, whole either way. What is held, waiting or under way, is
    bounded.
    """

    def __init__(self, ledger: LedgerWriter, *, transactions: int) -> None:
        self._ledger = ledger
        self._transactions = transactions
        self._waiting: OrderedDict[_Batch, None] = OrderedDict()
        self._entering: deque[_Batch] = deque()
        self._held = _Held()
        self._busy: set[str] = set()
        self._committers: set[asyncio.Task[None]] = set()
        # A transaction serves many calls, so it carries the request id of none of them.
        self._context = contextvars.copy_context()

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter. Raises Overloaded, with nothing begun, when too much is held already."""
        batch = _Batch(events, now)
        if not self._held.has_room_for(batch, share=1):
            metrics.OVERLOADED_BATCHES.inc()
            raise Overloaded(what="events waiting to be committed", seconds=limits.OVERLOADED_RETRY_SECONDS)
        self._enter(batch)
        return await batch.outcomes

    async def append_later(self, events: Sequence[UsageEvent], *, now: datetime) -> asyncio.Future[Sequence[Outcome]]:
        """Answers as soon as there is room for the batch, with what to await for its outcomes; cancelling that is
        cancelling the caller. Room comes in the order of calls, and to no more than half of what may be held: who can
        wait does not crowd out who cannot.
        """
        batch = _Batch(events, now)
        if self._entering or not self._held.has_room_for(batch, share=2):
            self._entering.append(batch)
            try:
                await batch.entered.wait()
            except asyncio.CancelledError:
                batch.outcomes.cancel()
                raise
        else:
            self._enter(batch)
        return batch.outcomes

    async def close(self) -> None:
        """Waits for the transactions under way."""
        while self._committers:
            await asyncio.wait(self._committers)

    def _enter(self, batch: _Batch) -> None:
        self._held.add(batch)
        self._waiting[batch] = None
        batch.entered.set()
        metrics.HELD_EVENTS.set(self._held.events)
        batch.outcomes.add_done_callback(lambda _: self._leave(batch))
        self._start_committer()

    def _start_committer(self) -> None:
        # It starts at the loop's next turn: what arrives in this one joins.
        if self._waiting and len(self._committers) < self._transactions:
            committer = asyncio.create_task(self._commit_while_there_are_any(), context=self._context.copy())
            self._committers.add(committer)

    def _leave(self, batch: _Batch) -> None:
        # Given up before its transaction began: gone as if it had never come. Else its transaction lets it go.
        if batch in self._waiting:
            del self._waiting[batch]
            self._let_go([batch])

    def _let_go(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            self._held.remove(batch)
        metrics.HELD_EVENTS.set(self._held.events)
        while self._entering and (
            self._entering[0].outcomes.done() or self._held.has_room_for(self._entering[0], share=2)
        ):
            entering = self._entering.popleft()
            if not entering.outcomes.done():
                self._enter(entering)

    async def _commit_while_there_are_any(self) -> None:
        try:
            while taken := self._take():
                await self._commit_taken(taken)
        finally:
            # Here and not in a callback: a batch that comes between the last look and the callback would wait for ever.
            self._committers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _commit_taken(self, taken: Sequence[_Batch]) -> None:
        organizations = {each for batch in taken for each in batch.organizations}
        self._busy |= organizations
        self._start_committer()  # for what did not fit
        try:
            await self._commit(taken)
        finally:
            self._busy -= organizations
            for batch in taken:
                batch.outcomes.cancel()  # of no effect on one that has its outcomes
            self._let_go(taken)

    def _take(self) -> list[_Batch]:
        """What goes into the next transaction: in order, but for what another one keeps waiting."""
        taken: list[_Batch] = []
        size = _Held()
        kept_waiting = set(self._busy)
        for batch in self._waiting:
            if batch.outcomes.done():  # given up in this turn of the loop
                continue
            if not kept_waiting.isdisjoint(batch.organizations):
                kept_waiting |= batch.organizations
            elif taken and not size.fits(batch, events_max=limits.COMMIT_EVENTS_MAX, bytes_max=limits.COMMIT_BYTES_MAX):
                break
            else:
                taken.append(batch)
                size.add(batch)
        for batch in taken:
            del self._waiting[batch]
        return taken

    async def _commit(self, batches: Sequence[_Batch]) -> None:
        try:
            # Bounded, because a store that says nothing any more would hold its batches' organizations for ever.
            async with asyncio.timeout(limits.COMMIT_SECONDS_MAX):
                outcomes = await self._ledger.append(
                    [event for batch in batches for event in batch.events], now=max(batch.now for batch in batches)
                )
        except (DependencyUnavailable, TimeoutError) as error:
            fields = error.fields if isinstance(error, DependencyUnavailable) else {"dependency": "the ledger's store"}
            for batch in batches:
                batch.fail(DependencyUnavailable(**fields))
        except Exception as error:  # noqa: BLE001 - it goes to whose batch it is
            if len(batches) == 1:
                batches[0].fail(error)
                return
            for batch in batches:
                if not batch.outcomes.done():
                    await self._commit([batch])
        else:
            metrics.COMMIT_EVENTS.observe(len(outcomes))
            start = 0
            for batch in batches:
                end = start + len(batch.events)
                batch.succeed(outcomes[start:end])
                start = end


class _Batch:
    """The events of one caller, and what it awaits."""

    __slots__ = ("bytes", "entered", "events", "now", "organizations", "outcomes")

    def __init__(self, events: Sequence[UsageEvent], now: datetime) -> None:
        self.events = events
        self.now = now
        self.organizations = {event.subject.organization_id for event in events}
        self.bytes = sum(map(_estimated_bytes, events))
        self.entered = asyncio.Event()
        self.outcomes: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()

    def succeed(self, outcomes: Sequence[Outcome]) -> None:
        if not self.outcomes.done():
            self.outcomes.set_result(outcomes)

    def fail(self, error: Exception) -> None:
        if not self.outcomes.done():
            self.outcomes.set_exception(error)


class _Held:
    """How much batches are together."""

    def __init__(self) -> None:
        self.events = 0
        self.bytes = 0

    def add(self, batch: _Batch) -> None:
        self.events += len(batch.events)
        self.bytes += batch.bytes

    def remove(self, batch: _Batch) -> None:
        self.events -= len(batch.events)
        self.bytes -= batch.bytes

    def fits(self, batch: _Batch, *, events_max: int, bytes_max: int) -> bool:
        return self.events + len(batch.events) <= events_max and self.bytes + batch.bytes <= bytes_max

    def has_room_for(self, batch: _Batch, *, share: int) -> bool:
        """Whether the batch fits into one `share`-th of what may be held; the only one always does."""
        return not self.events or self.fits(
            batch, events_max=limits.HELD_EVENTS_MAX // share, bytes_max=limits.HELD_BYTES_MAX // share
        )


_EVENT_BYTES = 1_000
_ENTRY_BYTES = 200


def _estimated_bytes(event: UsageEvent) -> int:
    """What an event takes in memory, roughly: the objects around its texts weigh more than these."""
    entries = len(event.measurements) + 2 * len(event.labels) + (5 if event.provider_call else 0)
    return _EVENT_BYTES + _ENTRY_BYTES * entries + len(event.id)
