"""Sends waiting usage until it is acknowledged: in order, in batches, with the same ids however often."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook_sdk.buffer import Delivered, UsageBuffer, Waiting
from tollbook_sdk.clock import Clock
from tollbook_sdk.spool import Spool
from tollbook_sdk.suite import CallFailed, Suite

log = logging.getLogger("tollbook_sdk")

# Below the contract's 5 000 and a server's 16 MiB: a batch that is lost on the way is cheap to send again.
BATCH_EVENTS_MAX = 500
BATCH_BYTES_MAX = 1024 * 1024
STREAM_BATCHES_MAX = 8
"""Sent in one stream before the first of them is acknowledged, when so much waits."""
STREAM_REST_SECONDS = 60.0
"""How long batches go one by one after a stream failed: a proxy may let none through."""
_BACKOFF_SECONDS = 0.1
_BACKOFF_SECONDS_MAX = 30.0
_DOUBLINGS_MAX = 9

_TAKEN = frozenset({metering_pb2.EVENT_STATUS_ACCEPTED, metering_pb2.EVENT_STATUS_DUPLICATE})
_REASON_PREFIX = "ERROR_REASON_"

T = TypeVar("T")


def backoff_seconds(failures: int, asked_seconds: float | None, chance: float) -> float:
    """How long to wait after that many failures in a row; `chance` in 0 to 1 spreads clients that failed together.

    Doubles from 0.1 s to 30 s, of which one half is chance; never less than the server asked for.
    """
    longest = min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS * float(1 << min(failures - 1, _DOUBLINGS_MAX)))
    return max(longest * (1 + chance) / 2, (asked_seconds or 0.0) * (1 + chance / 2))


class Delivery:
    """The sender. It runs on the SDK's loop; nobody waits for it but `drained`."""

    def __init__(
        self,
        buffer: UsageBuffer,
        suite: Suite,
        clock: Clock,
        *,
        call_seconds: float,
        spool: Spool | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._buffer = buffer
        self._suite = suite
        self._clock = clock
        self._call_seconds = call_seconds
        self._spool = spool
        self._chance = chance
        self._put = asyncio.Event()
        self._empty = asyncio.Event()
        self._fresh = asyncio.Event()
        self._writing = asyncio.Lock()
        self._pause: asyncio.Future[None] | None = None
        self._streams_from = 0.0
        # One file at a time, until none is left of those that were there at the start.
        self._looks = spool is not None
        self.failures = 0
        """Attempts that failed since the last that did not."""

    def wake(self) -> None:
        """Something was put. On the loop."""
        self._empty.clear()
        self._put.set()
        self._fresh.set()

    async def drained(self) -> None:
        """Returns when nothing waits any more, here or in files of ended processes that were there at the start. Does
        not sit out a pause that nobody asked for.
        """
        if self._pause is not None:
            self._pause.cancel()
        while self._buffer.counts().waiting or self._looks:
            self._empty.clear()
            await self._empty.wait()

    async def run(self) -> None:
        """Sends for ever."""
        await self._take_over()
        while True:
            await self._put.wait()
            self._put.clear()
            try:
                while batch := self._take():
                    await self._attempt(batch)
                await self._take_over()
            except Exception:
                # Whatever it is, usage that waits is not to wait for ever.
                log.exception("delivery_stumbled")
                await self._pause_for(_BACKOFF_SECONDS_MAX, asked=False)
                self._put.set()
            if not (self._buffer.counts().waiting or self._looks):
                self._empty.set()

    def _take(self) -> list[Waiting]:
        """What to send next: more than a batch when more waits and streams may be tried."""
        streams = self._clock.running() >= self._streams_from
        batches = STREAM_BATCHES_MAX if streams else 1
        return self._buffer.take(BATCH_EVENTS_MAX * batches, BATCH_BYTES_MAX * batches)

    async def _take_over(self) -> None:
        if self._spool is None or not self._looks or not self._buffer.has_room:
            return
        async with self._writing:
            found = await self._on_disk(self._spool.find)
        self._looks = bool(found)
        if found:
            log.info("usage_found count=%d", len(found))
            self._buffer.put_found(found)
            self._put.set()

    async def keep(self) -> None:
        """Puts on disk, for ever, what was put into the buffer, whether or not it can be sent: beside `run`."""
        if self._spool is None:
            return
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            await self._keep(self._buffer.take_fresh())

    async def _keep(self, items: Sequence[Waiting]) -> None:
        if self._spool is None or not items:
            return
        spool = self._spool
        try:
            # One at a time: what both `keep` and `run` see is written once.
            async with self._writing:
                await self._on_disk(lambda: spool.keep(items))
        except OSError as error:
            # Better sent than kept: the disk is the second net.
            log.error("usage_not_kept error=%s", error)  # noqa: TRY400 - the disk's trouble, not ours

    async def _attempt(self, batch: list[Waiting]) -> None:
        attempt = _Attempt(self._suite, self._buffer, self._call_seconds)
        try:
            await self._keep(batch)
            await attempt.send(batch)
        finally:
            unsent = [item for item in batch if item not in attempt.settled]
            self._buffer.put_back(unsent)
        if attempt.stream_failed:
            self._streams_from = self._clock.running() + STREAM_REST_SECONDS
        if self._spool is not None:
            spool = self._spool
            async with self._writing:
                await self._on_disk(lambda: spool.drop(list(attempt.settled)))
        if attempt.failure is None:
            self.failures = 0
            return
        self.failures += 1
        seconds = backoff_seconds(self.failures, attempt.failure.retry_seconds, self._chance())
        log.warning("usage_waits failure=%s waiting=%d seconds=%.1f", attempt.failure, len(unsent), seconds)
        await self._pause_for(seconds, asked=attempt.failure.retry_seconds is not None)

    async def _pause_for(self, seconds: float, *, asked: bool) -> None:
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        if not asked:
            self._pause = pause
        try:
            await asyncio.wait({pause})
        finally:
            self._pause = None
            pause.cancel()

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Does it beside the loop, so that a slow disk delays no heartbeat."""
        try:
            return await asyncio.to_thread(work)
        except RuntimeError:
            # At the interpreter's end there are no more threads to be had.
            return work()


class _Attempt:
    """One try at a batch: what was settled, and the first thing that went wrong in passing."""

    def __init__(self, suite: Suite, buffer: UsageBuffer, seconds: float) -> None:
        self._suite = suite
        self._buffer = buffer
        self._seconds = seconds
        self.settled: dict[Waiting, None] = {}
        self.failure: CallFailed | None = None
        self.stream_failed = False

    async def send(self, batch: Sequence[Waiting]) -> None:
        """Events first: a task's end frees its hold, so what the task used should have drawn on it by then."""
        batches = _batches([item for item in batch if isinstance(item.usage, metering_pb2.UsageEvent)])
        if len(batches) > 1 and _of_one_organization(batches):
            await self._stream(batches)
        for each in batches:
            await self._record([item for item in each if item not in self.settled])
        reports = [item for item in batch if isinstance(item.usage, task_time_pb2.ReportTaskTimeRequest)]
        while reports and self.failure is None:
            # Those of different tasks at once; those of one in their order, or silences would seem to lie between.
            wave = {_task(item): item for item in reversed(reports)}.values()
            await asyncio.gather(*(self._report(item) for item in wave))
            reports = [item for item in reports if item not in self.settled]

    async def _stream(self, batches: Sequence[Sequence[Waiting]]) -> None:
        """Sends all of them without waiting for the answer to one. What a stream that breaks leaves is sent otherwise:
        now, when the stream or an event of it was at fault, else with the next attempt.
        """
        requests = [
            metering_pb2.StreamUsageRequest(batch_number=number, events=_events(batch))
            for number, batch in enumerate(batches, start=1)
        ]
        try:
            async with contextlib.aclosing(self._suite.stream(requests, seconds=self._seconds)) as answers:
                async for answer in answers:
                    self._acknowledge(batches[answer.batch_number - 1], answer)
        except CallFailed as failure:
            log.info("stream_ended failure=%s", failure)
            self.stream_failed = True
            if failure.passes:
                self.failure = failure

    def _acknowledge(self, batch: Sequence[Waiting], answer: metering_pb2.StreamUsageResponse) -> None:
        refused = {result.index: result for result in answer.refused}
        for index, item in enumerate(batch):
            if index in refused:
                self._settle_refused(item, refused[index])
            else:
                # The batch's last: whoever waits until this much is counted waits until the event is.
                self._settle(item, Delivered(sequence=answer.last_sequence))

    async def _record(self, items: Sequence[Waiting]) -> None:
        if not items or self.failure is not None:
            return
        request = metering_pb2.RecordUsageRequest(events=_events(items))
        try:
            response = await self._suite.record(request, seconds=self._seconds)
        except CallFailed as failure:
            if not failure.is_about_the_request:
                self.failure = failure
            elif len(items) == 1:
                self._refuse(items[0], failure)
            else:
                # One event spoils the batch; halving finds it, and the others are recorded.
                middle = len(items) // 2
                await self._record(items[:middle])
                await self._record(items[middle:])
            return
        for result in response.results:
            item = items[result.index]
            if result.status in _TAKEN:
                self._settle(item, Delivered(sequence=result.sequence))
            else:
                self._settle_refused(item, result)

    async def _report(self, item: Waiting) -> None:
        assert isinstance(item.usage, task_time_pb2.ReportTaskTimeRequest)  # noqa: S101 - narrows; `send` chose it
        try:
            response = await self._suite.report(item.usage, seconds=self._seconds)
        except CallFailed as failure:
            if failure.is_about_the_request:
                self._refuse(item, failure)
            else:
                self.failure = self.failure or failure
            return
        self._settle(item, Delivered(sequence=response.sequence, total_ms=response.total_milliseconds))

    def _settle_refused(self, item: Waiting, result: metering_pb2.EventResult) -> None:
        reason = errors_pb2.ErrorReason.Name(result.reason).removeprefix(_REASON_PREFIX)
        self._settle(item, Delivered(refused=reason), result.message)

    def _refuse(self, item: Waiting, failure: CallFailed) -> None:
        self._settle(item, Delivered(refused=failure.reason or failure.code), failure.message)

    def _settle(self, item: Waiting, delivered: Delivered, message: str = "") -> None:
        self.settled[item] = None
        self._buffer.settle(item, delivered, message)


def _events(items: Sequence[Waiting]) -> list[metering_pb2.UsageEvent]:
    return [item.usage for item in items if isinstance(item.usage, metering_pb2.UsageEvent)]


def _batches(items: Sequence[Waiting]) -> list[list[Waiting]]:
    """In their order, each within the bounds of a batch; a larger event alone."""
    batches: list[list[Waiting]] = []
    bytes_left = 0
    for item in items:
        size = item.usage.ByteSize()
        bytes_left -= size
        if not batches or len(batches[-1]) >= BATCH_EVENTS_MAX or bytes_left < 0:
            batches.append([])
            bytes_left = BATCH_BYTES_MAX - size
        batches[-1].append(item)
    return batches


def _of_one_organization(batches: Sequence[Sequence[Waiting]]) -> bool:
    """Sequences are an organization's own: the last of a batch says nothing of another's."""
    return len({event.subject.organization_id for batch in batches for event in _events(batch)}) == 1


def _task(item: Waiting) -> tuple[str, str]:
    assert isinstance(item.usage, task_time_pb2.ReportTaskTimeRequest)  # noqa: S101 - narrows; `send` chose it
    return item.usage.subject.organization_id, item.usage.subject.task_id
