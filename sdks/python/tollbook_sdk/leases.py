"""A lease: one reservation that this process spends by itself, on many tasks, without asking for each.

How it stays exact. Let `spent` be all that was ever spent, `drawn` what of that the quota service is known to have
taken off the hold (its counters name the last event that they include, and every event's number is known from its
acknowledgement). Then `spent - drawn` is at least what the hold still has to cover, and extending it to
`spent - drawn + size` leaves at least `size` to spend, whatever arrived meanwhile. So what is spent is covered at every
moment, and a lease cannot overshoot while it is valid.

How it ends. The lease stops by itself `margin` before the reservation's end, counted from before the request was sent,
by a clock that nobody sets and that counts the machine's sleep: no clock is compared with another machine's. What was
spent and could not be reported before the reservation ended is counted when it arrives, and by then another may have
been allowed the same. So overshoot is at most the sum of what unreported leases had been granted, and 0 while the suite
can be reached.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from tollbook.metering.v1 import metering_pb2
from tollbook.metering.v1.metering_pb2 import Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.buffer import Delivered, UsageBuffer, Waiting
from tollbook_sdk.checks import Checks, check_request, consumptions_to_pb, duration_to_pb
from tollbook_sdk.clock import Clock
from tollbook_sdk.decision import Decision, decision_from_pb
from tollbook_sdk.delivery import backoff_seconds
from tollbook_sdk.errors import QuotaDenied, RequestRefused, SuiteUnavailable
from tollbook_sdk.settings import HOLD_SECONDS_MAX, HOLD_SECONDS_MIN, Settings
from tollbook_sdk.suite import CallFailed, Suite
from tollbook_sdk.tasks import commit

log = logging.getLogger("tollbook_sdk")

QUANTITY_MAX = 2**53 - 1
# How often what was spent is reported: the most that a killed process leaves unreported, in time.
REPORT_SECONDS = 1.0
_ASK_AGAIN_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """What is leased."""

    lease_id: str
    subject: Subject
    """Whose usage it is; a spend may name the task."""
    meter: str
    size: int
    """How much is held at a time, in the meter's base unit."""
    seconds: float
    """How long it holds without being renewed."""
    margin_seconds: float
    """How long before its end spending stops."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot work."""
        if not 1 <= self.size <= QUANTITY_MAX:
            raise ValueError("size: not in 1 to 2^53 - 1")
        if not HOLD_SECONDS_MIN <= self.seconds <= HOLD_SECONDS_MAX:
            raise ValueError("seconds: not in 1 to 86400")
        if not 0 <= self.margin_seconds < self.seconds / 2:
            raise ValueError("margin_seconds: not in 0 to half of the lease's time")


class Purse:
    """What may be spent, until when. All of it from any thread."""

    def __init__(self, running: Callable[[], float]) -> None:
        self._running = running
        self._lock = threading.Lock()
        self._left = 0
        self._spent = 0
        self._low = 0
        self._ends = float("-inf")
        self._unreported: dict[str, int] = {}
        self._has_called = False
        self.on_low: Callable[[], None] = lambda: None
        """Called once when less than half is left, until the next grant."""

    def try_spend(self, quantity: int, task_id: str = "") -> bool:
        """Spends it, if so much is left and the lease is valid; else changes nothing and answers False."""
        # The hot path: one lock, one clock, one dictionary.
        with self._lock:
            if not 0 <= quantity <= self._left or self._running() >= self._ends:
                is_spent = False
            else:
                self._left -= quantity
                self._spent += quantity
                self._unreported[task_id] = self._unreported.get(task_id, 0) + quantity
                is_spent = True
            calls = self._left < self._low and not self._has_called
            if calls:
                self._has_called = True
        if calls:
            self.on_low()
        if quantity < 0:
            raise ValueError("a quantity below 0 cannot be spent")
        return is_spent

    def grant(self, total: int, *, ends: float, low: int) -> None:
        """May have spent `total` in all, never less than before, until `ends` by the running clock."""
        with self._lock:
            self._left = max(self._left, total - self._spent)
            self._ends = ends
            self._low = low
            self._has_called = False

    def void(self) -> None:
        """Nothing is left to spend: what was held is not held any more."""
        with self._lock:
            self._left = 0

    def close(self) -> None:
        """Nothing is spent any more."""
        with self._lock:
            self._ends = float("-inf")
            self._has_called = True

    def take_unreported(self) -> dict[str, int]:
        """What was spent since the last time, by task."""
        with self._lock:
            taken, self._unreported = self._unreported, {}
        return taken

    def put_back(self, task_id: str, quantity: int) -> None:
        """It could not be reported yet."""
        with self._lock:
            self._unreported[task_id] = self._unreported.get(task_id, 0) + quantity

    @property
    def left(self) -> int:
        """What may be spent now."""
        with self._lock:
            return self._left if self._running() < self._ends else 0

    @property
    def spent(self) -> int:
        """What was spent in all."""
        with self._lock:
            return self._spent

    @property
    def is_valid(self) -> bool:
        """Whether the lease has not ended."""
        return self._running() < self._ends

    @property
    def ends(self) -> float:
        """When it ends unless it is renewed, by the running clock."""
        return self._ends


class LeaseKeeper:
    """Reports what is spent and renews in time. On the SDK's loop."""

    def __init__(
        self,
        terms: LeaseTerms,
        *,
        settings: Settings,
        suite: Suite,
        checks: Checks,
        buffer: UsageBuffer,
        clock: Clock,
    ) -> None:
        self.terms = terms
        self.purse = Purse(clock.running)
        self._settings = settings
        self._suite = suite
        self._checks = checks
        self._buffer = buffer
        self._clock = clock
        self._drawn = 0
        self._recorded: list[tuple[int, int]] = []
        """(sequence, quantity) of what the ledger has and the counters are not known to include."""
        self._failures = 0
        self._grow_at = float("-inf")
        self._extend_at = float("-inf")
        self._low = asyncio.Event()
        self._is_closed = False
        self.denial: Decision | None = None
        """Why it does not grow; None: it does."""

    async def open(self, budget_seconds: float) -> None:
        """Takes the first hold: of the size, or of what is left if that is less.

        Raises QuotaDenied, RequestRefused, and SuiteUnavailable: a lease promises that nobody else spends the same,
        and no policy can promise that.
        """
        deadline = self._clock.running() + budget_seconds
        quantity = self.terms.size
        try:
            decision = await self._reserve(quantity, deadline)
            left = decision.left_of(self.terms.meter)
            if not decision.allowed and left:
                quantity = min(left, self.terms.size)
                decision = await self._reserve(quantity, deadline)
        except (SuiteUnavailable, asyncio.CancelledError):
            self._checks.release_soon(self.terms.lease_id, self.terms.subject.organization_id)
            raise
        if not decision.allowed:
            raise QuotaDenied(decision)

    async def _reserve(self, quantity: int, deadline: float) -> Decision:
        terms = self.terms
        request = check_request(terms.lease_id, terms.subject, {terms.meter: quantity}, hold_seconds=terms.seconds)
        asked = self._clock.running()
        if asked >= deadline:
            raise SuiteUnavailable("no answer in time")
        try:
            response = await self._suite.check(request, seconds=deadline - asked)
        except CallFailed as failure:
            if failure.passes:
                raise SuiteUnavailable(str(failure)) from failure
            raise RequestRefused(failure.code, failure.reason, failure.message) from failure
        decision = decision_from_pb(response)
        if decision.allowed and decision.degraded:
            raise SuiteUnavailable("the quota service answers without its counters")
        if decision.allowed:
            self._grant(quantity, asked)
        return decision

    def _grant(self, total: int, asked: float) -> None:
        terms = self.terms
        self.purse.grant(total, ends=asked + terms.seconds - terms.margin_seconds, low=(terms.size + 1) // 2)

    async def keep(self) -> None:
        """Reports and renews until it is cancelled."""
        while True:
            await self._until_due()
            self.report()
            now = self._clock.running()
            is_low = self.purse.left * 2 < self.terms.size and now >= self._grow_at
            is_old = self.purse.ends - now < self.terms.seconds / 2
            if now >= self._extend_at and (is_low or is_old):
                await self._renew(grows=is_low)

    async def _until_due(self) -> None:
        tick = asyncio.ensure_future(self._clock.sleep(REPORT_SECONDS))
        low = asyncio.ensure_future(self._low.wait())
        try:
            await asyncio.wait({tick, low}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tick.cancel()
            low.cancel()
            self._low.clear()

    def wake(self) -> None:
        """Less than half is left."""
        self._low.set()

    def report(self) -> bool:
        """Puts what was spent since the last time into the buffer. False: some did not fit, and waits here."""
        fits = True
        for task_id, quantity in self.purse.take_unreported().items():
            if quantity and not self._buffer.try_put(self._event(task_id, quantity)):
                self.purse.put_back(task_id, quantity)
                fits = False
        return fits

    def _event(self, task_id: str, quantity: int) -> Waiting:
        terms = self.terms
        event = metering_pb2.UsageEvent(
            id=uuid.uuid4().hex,
            source=self._settings.source,
            subject=terms.subject,
            event_time=Timestamp(),
            measurements=[metering_pb2.Measurement(meter=terms.meter, quantity=quantity)],
            reservation_id=terms.lease_id,
        )
        event.event_time.FromNanoseconds(self._clock.wall_ns())
        if task_id:
            event.subject.task_id = task_id

        def note(delivered: Delivered) -> None:
            # What was refused draws nothing ever: the hold need not cover it.
            if delivered.refused:
                self._drawn += quantity
            else:
                self._recorded.append((delivered.sequence, quantity))

        return Waiting(event, on_delivered=note)

    async def _renew(self, *, grows: bool) -> None:
        # To grow: what may still be drawn, and the size anew. Else what is left: never more than is held.
        spent = self.purse.spent
        undrawn = spent - self._drawn
        target = undrawn + self.terms.size if grows else self.purse.left
        asked = self._clock.running()
        try:
            response = await self._extend(target)
        except CallFailed as failure:
            self._failures += 1
            pause = backoff_seconds(self._failures, failure.retry_seconds, 0.5)
            self._extend_at = self._clock.running() + min(pause, self.terms.seconds / 8)
            log.warning("lease_not_renewed lease_id=%s failure=%s", self.terms.lease_id, failure)
            return
        self._failures = 0
        decision = decision_from_pb(response.check)
        self._note_applied(decision)
        if decision.allowed:
            self._take(response.restored, total=spent + self.terms.size if grows else spent, asked=asked)
        elif grows:
            await self._grow_less(decision)
        else:
            self._deny(decision)

    def _take(self, restored: bool, *, total: int, asked: float) -> None:  # noqa: FBT001 - the contract's word
        if restored:
            # Made anew, perhaps less what was drawn while it was unknown: what it holds is certain only when asked once
            # more, now that it exists.
            self.purse.void()
            self.wake()
        else:
            self._grant(total, asked)
        self.denial = None

    async def _grow_less(self, decision: Decision) -> None:
        """Not the whole size: what is left, if anything is; and time in any case."""
        self._deny(decision)
        left = decision.left_of(self.terms.meter) or 0
        spent, mine = self.purse.spent, self.purse.left
        undrawn = spent - self._drawn
        total = spent + mine + left - undrawn
        is_gain = left > undrawn
        asked = self._clock.running()
        try:
            response = await self._extend(mine + left if is_gain else mine)
        except CallFailed:
            return
        smaller = decision_from_pb(response.check)
        self._note_applied(smaller)
        if smaller.allowed:
            denial = self.denial
            self._take(response.restored, total=total if is_gain else spent, asked=asked)
            self.denial = denial

    def _deny(self, decision: Decision) -> None:
        self.denial = decision
        pause = REPORT_SECONDS if decision.retry_after is None else decision.retry_after.total_seconds()
        self._grow_at = self._clock.running() + min(max(pause, REPORT_SECONDS), _ASK_AGAIN_SECONDS_MAX)

    async def _extend(self, target: int) -> quota_pb2.ExtendReservationResponse:
        terms = self.terms
        request = quota_pb2.ExtendReservationRequest(
            reservation_id=terms.lease_id,
            subject=terms.subject,
            consumptions=consumptions_to_pb({terms.meter: target}),
            reserve_duration=duration_to_pb(terms.seconds),
        )
        response = await self._suite.extend(request, seconds=min(self._settings.call_seconds, terms.seconds / 4))
        if response.check.degraded:
            # Given without the counters: good enough for a task, and no promise that nobody else spends the same.
            raise CallFailed("UNAVAILABLE", message="the quota service answers without its counters")
        return response

    def _note_applied(self, decision: Decision) -> None:
        # Where no limit looks at the meter, none can be overshot, and no answer says how far the counters are.
        applied = min((each.applied_sequence for each in decision.limits), default=None)
        included = [each for each in self._recorded if applied is None or each[0] <= applied]
        self._recorded = [each for each in self._recorded if applied is not None and each[0] > applied]
        self._drawn += sum(quantity for _, quantity in included)

    async def close(self) -> None:
        """Stops spending, reports the rest and trims the hold to it."""
        if self._is_closed:
            return
        self._is_closed = True
        self.purse.close()
        while not self.report():
            await self._clock.sleep(REPORT_SECONDS)
        spent = self.purse.spent
        terms = self.terms
        actuals: Mapping[str, int] = {terms.meter: spent} if spent else {}
        request = quota_pb2.CommitReservationRequest(
            organization_id=terms.subject.organization_id,
            reservation_id=terms.lease_id,
            actuals=[metering_pb2.Measurement(meter=meter, quantity=quantity) for meter, quantity in actuals.items()],
        )
        await commit(self._suite, self._clock, request, seconds=self._settings.call_seconds)
