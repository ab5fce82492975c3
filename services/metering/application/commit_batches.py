"""Commit batches: many callers, few transactions.

A commit costs a disk sync however much is in it. So while one is under way, what arrives gathers; the next takes what
has gathered. A caller alone is committed at once: nothing waits for company.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

from kit.errors import DependencyUnavailable, Overloaded
from services.metering.application import metrics
from services.metering.application.ports import Appender
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import Subject, UsageEvent


class Item(Protocol):
    """What batches are made of."""

    @property
    def subject(self) -> Subject:
        """Whose it is."""
        ...

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, roughly."""
        ...


_ItemT = TypeVar("_ItemT", bound=Item)
_ResultT = TypeVar("_ResultT")


class CommitBatches(Generic[_ItemT, _ResultT]):
    """An Appender that joins the batches of many callers into few transactions of another one.

    Up to `transactions` of them run side by side; batches of one organization are never in two of these, where one
    would only wait for the other's lock, and are committed in the order in which they came. A batch is all in one
    transaction, and its fate is its own: when a joint transaction fails for another reason than an unreachable store,
    its halves are tried again, down to the one batch that is the reason. A caller that is cancelled takes its batch
    along if its transaction has not begun; else the batch is finished or rolled back, whole either way. What is held,
    waiting or under way, is bounded, and to a part of that for each organization: none can take the room of all.
    """

    def __init__(
        self, store: Appender[_ItemT, _ResultT], *, kind: str, transactions: int, gather_seconds: float = 0.0
    ) -> None:
        """kind: names what is committed in metrics and refusals. gather_seconds: how long a transaction is put off, for
        more to join, where nobody is in a hurry.
        """
        self._store = store
        self._gather_seconds = gather_seconds
        self._kind = kind
        self._transactions = transactions
        self._waiting: OrderedDict[_Batch[_ItemT, _ResultT], None] = OrderedDict()
        self._entering: OrderedDict[_Batch[_ItemT, _ResultT], None] = OrderedDict()
        self._held = _Held()
        self._held_of: defaultdict[str, _Held] = defaultdict(_Held)
        self._busy: set[str] = set()
        self._committers: set[asyncio.Task[None]] = set()
        # A transaction serves many calls, so it carries the request id of none of them.
        self._context = contextvars.copy_context()

    async def append(self, items: Sequence[_ItemT], /, *, now: datetime) -> Sequence[_ResultT]:
        """As the Appender behind it. Raises Overloaded, with nothing begun, when too much is held already, in all or of
        one of its organizations.
        """
        batch: _Batch[_ItemT, _ResultT] = _Batch(items, now)
        if not (self._has_room_for(batch, share=1) and self._has_room_of_its_own(batch)):
            metrics.OVERLOADED_BATCHES.labels(self._kind).inc()
            raise Overloaded(what=f"{self._kind} waiting to be committed", seconds=limits.OVERLOADED_RETRY_SECONDS)
        self._enter(batch)
        return await batch.results

    async def append_later(self, items: Sequence[_ItemT], *, now: datetime) -> asyncio.Future[Sequence[_ResultT]]:
        """Answers as soon as there is room for the batch, with what to await for its results; cancelling that is
        cancelling the caller. Room comes in the order of calls, for each organization apart, and to no more than half
        of what may be held: who can wait does not crowd out who cannot.
        """
        batch: _Batch[_ItemT, _ResultT] = _Batch(items, now)
        self._entering[batch] = None
        self._let_in()
        try:
            await batch.entered.wait()
        except asyncio.CancelledError:
            batch.results.cancel()
            if batch in self._entering:
                # At once: with a store that hangs, whoever gives up and comes again would fill the memory.
                del self._entering[batch]
                self._let_in()
            raise
        return batch.results

    async def close(self) -> None:
        """Waits for the transactions under way."""
        while self._committers:
            await asyncio.wait(self._committers)

    def _enter(self, batch: _Batch[_ItemT, _ResultT]) -> None:
        self._held.add(batch.size)
        for organization_id, size in batch.sizes.items():
            self._held_of[organization_id].add(size)
        self._waiting[batch] = None
        batch.entered.set()
        metrics.HELD_EVENTS.labels(self._kind).set(self._held.items)
        batch.results.add_done_callback(lambda _: self._leave(batch))
        self._start_committer()

    def _start_committer(self) -> None:
        # It starts at the loop's next turn: what arrives in this one joins.
        if self._waiting and len(self._committers) < self._transactions:
            committer = asyncio.create_task(self._commit_while_there_are_any(), context=self._context.copy())
            self._committers.add(committer)

    def _leave(self, batch: _Batch[_ItemT, _ResultT]) -> None:
        # Given up before its transaction began: gone as if it had never come. Else its transaction lets it go.
        if batch in self._waiting:
            del self._waiting[batch]
            self._let_go([batch])

    def _let_go(self, batches: Sequence[_Batch[_ItemT, _ResultT]]) -> None:
        for batch in batches:
            self._held.remove(batch.size)
            for organization_id, size in batch.sizes.items():
                self._held_of[organization_id].remove(size)
                if not self._held_of[organization_id].items:
                    del self._held_of[organization_id]
        metrics.HELD_EVENTS.labels(self._kind).set(self._held.items)
        self._let_in()

    def _let_in(self) -> None:
        kept_waiting: set[str] = set()
        for batch in tuple(self._entering):
            if not self._has_room_for(batch, share=2):
                return
            if kept_waiting.isdisjoint(batch.sizes) and self._has_room_of_its_own(batch):
                del self._entering[batch]
                self._enter(batch)
            else:
                kept_waiting.update(batch.sizes)

    def _has_room_for(self, batch: _Batch[_ItemT, _ResultT], *, share: int) -> bool:
        """Whether the batch fits into one `share`-th of what may be held; the only one always does."""
        return not self._held.items or self._held.fits(
            batch.size, items_max=limits.HELD_EVENTS_MAX // share, bytes_max=limits.HELD_BYTES_MAX // share
        )

    def _has_room_of_its_own(self, batch: _Batch[_ItemT, _ResultT]) -> bool:
        """Whether it fits into what may be held of each of its organizations; the only one of an organization does."""
        return all(
            organization_id not in self._held_of
            or self._held_of[organization_id].fits(
                size, items_max=limits.HELD_EVENTS_OF_ONE_MAX, bytes_max=limits.HELD_BYTES_OF_ONE_MAX
            )
            for organization_id, size in batch.sizes.items()
        )

    async def _commit_while_there_are_any(self) -> None:
        try:
            while self._waiting:
                if self._gather_seconds:
                    await asyncio.sleep(self._gather_seconds)
                if not (taken := self._take()):
                    return
                await self._commit_taken(taken)
        finally:
            # Here and not in a callback: a batch that comes between the last look and the callback would wait for ever.
            self._committers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _commit_taken(self, taken: Sequence[_Batch[_ItemT, _ResultT]]) -> None:
        organizations = {each for batch in taken for each in batch.sizes}
        self._busy |= organizations
        self._start_committer()  # for what did not fit
        try:
            await self._commit(taken)
        finally:
            self._busy -= organizations
            for batch in taken:
                batch.results.cancel()  # of no effect on one that has its results
            self._let_go(taken)

    def _take(self) -> list[_Batch[_ItemT, _ResultT]]:
        """What goes into the next transaction: in order, but for what another one keeps waiting."""
        taken: list[_Batch[_ItemT, _ResultT]] = []
        size = _Held()
        kept_waiting = set(self._busy)
        for batch in self._waiting:
            if batch.results.done():  # given up in this turn of the loop
                continue
            if not kept_waiting.isdisjoint(batch.sizes):
                kept_waiting.update(batch.sizes)
            elif taken and not size.fits(
                batch.size, items_max=limits.COMMIT_EVENTS_MAX, bytes_max=limits.COMMIT_BYTES_MAX
            ):
                break
            else:
                taken.append(batch)
                size.add(batch.size)
        for batch in taken:
            del self._waiting[batch]
        return taken

    async def _commit(self, batches: Sequence[_Batch[_ItemT, _ResultT]]) -> None:
        try:
            # Bounded, because a store that says nothing any more would hold its batches' organizations for ever.
            async with asyncio.timeout(limits.COMMIT_SECONDS_MAX):
                results = await self._store.append(
                    [item for batch in batches for item in batch.items], now=max(batch.now for batch in batches)
                )
        except (DependencyUnavailable, TimeoutError) as error:
            fields = error.fields if isinstance(error, DependencyUnavailable) else {"dependency": "the ledger's store"}
            for batch in batches:
                batch.fail(DependencyUnavailable(**fields))
        except Exception as error:  # noqa: BLE001 - it goes to whose batch it is
            if len(batches) == 1:
                batches[0].fail(error)
                return
            # In halves, not one by one: a batch that can never be committed, sent again and again, would else cost
            # those beside it what they share.
            middle = len(batches) // 2
            for half in (batches[:middle], batches[middle:]):
                if left := [batch for batch in half if not batch.results.done()]:
                    await self._commit(left)
        else:
            metrics.COMMIT_EVENTS.labels(self._kind).observe(len(results))
            start = 0
            for batch in batches:
                end = start + len(batch.items)
                batch.succeed(results[start:end])
                start = end


class _Batch(Generic[_ItemT, _ResultT]):
    """The items of one caller, and what it awaits."""

    __slots__ = ("entered", "items", "now", "results", "size", "sizes")

    def __init__(self, items: Sequence[_ItemT], now: datetime) -> None:
        self.items = items
        self.now = now
        # Of each organization, and of all.
        self.sizes: dict[str, _Held] = defaultdict(_Held)
        self.size = _Held()
        for item in items:
            self.sizes[item.subject.organization_id].add_one(item.held_bytes)
        for size in self.sizes.values():
            self.size.add(size)
        self.entered = asyncio.Event()
        self.results: asyncio.Future[Sequence[_ResultT]] = asyncio.get_running_loop().create_future()

    def succeed(self, results: Sequence[_ResultT]) -> None:
        if not self.results.done():
            self.results.set_result(results)

    def fail(self, error: Exception) -> None:
        if not self.results.done():
            self.results.set_exception(error)


class _Held:
    """How much items are together."""

    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items = 0
        self.bytes = 0

    def add_one(self, held_bytes: int) -> None:
        self.items += 1
        self.bytes += held_bytes

    def add(self, other: _Held) -> None:
        self.items += other.items
        self.bytes += other.bytes

    def remove(self, other: _Held) -> None:
        self.items -= other.items
        self.bytes -= other.bytes

    def fits(self, other: _Held, *, items_max: int, bytes_max: int) -> bool:
        """Whether the other one can be added."""
        return self.items + other.items <= items_max and self.bytes + other.bytes <= bytes_max


UsageBatches: TypeAlias = CommitBatches[UsageEvent, Outcome]
"""A LedgerWriter, too."""
