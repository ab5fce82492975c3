"""A suite in memory: for this SDK's tests and for yours. `Tollbook(settings, suite=MemorySuite({"api_calls": 100}))`.

It keeps the contract of one organization with limits of one period: holds, draws, settling, expiry, the ledger's dedupe
and task time. It has no plans, levels or windows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.clock import Clock, SystemClock
from tollbook_sdk.suite import CallFailed

_SILENCE_MS_MAX = 20_000
_AFTER_SILENCE_MS = 10_000
_TIME_METER = "agent_minutes"
_CONCURRENCY = "concurrent_agents"

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Reservation:
    """A hold."""

    held: Counter[str]
    ends: float
    drawn: Counter[str] = field(default_factory=Counter)
    is_open: bool = True


@dataclass(slots=True)
class TaskTime:
    """The reports of a task, in milliseconds."""

    reports: set[int] = field(default_factory=set)
    end_ms: int | None = None

    def total_ms(self) -> int:
        """What they come to."""
        times = sorted(self.reports)
        gaps = (later - earlier for earlier, later in itertools.pairwise(times))
        return sum(gap if gap <= _SILENCE_MS_MAX else _AFTER_SILENCE_MS for gap in gaps)


class MemorySuite:
    """As Suite. Everything may be looked at and changed while it is in use, on the SDK's loop or while that stands
    still.
    """

    def __init__(self, limits: Mapping[str, int] | None = None, *, clock: Clock | None = None) -> None:
        self.limits = dict(limits or {})
        """The hard limit, by meter; those that are not named have none."""
        self.failure: CallFailed | None = None
        """What every call fails with; None: they are answered."""
        self.stream_failure: CallFailed | None = None
        """What every stream fails with, besides; None: nothing."""
        self.batches_before_stream_failure = 0
        """How many batches of a stream are answered before it does."""
        self.loses_answers = False
        """Whether calls take effect and then fail: the answer is lost on its way."""
        self.is_lagging = False
        """Whether the counters wait to include what is recorded."""
        self.is_degraded = False
        """Whether quota answers without its counters: it allows everything and holds nothing."""
        self.events: dict[tuple[str, str], metering_pb2.UsageEvent] = {}
        """The ledger, by source and id, in sequence."""
        self.reservations: dict[str, Reservation] = {}
        self.used: Counter[str] = Counter()
        """What the counters include."""
        self.tasks: dict[str, TaskTime] = {}
        self.calls: list[str] = []
        """The names of the calls, in order, those that failed included."""
        self.deadlines: list[float] = []
        """Their deadlines."""
        self._clock = clock or SystemClock()
        self._applied = 0

    def held(self, meter: str) -> int:
        """What open reservations hold."""
        self._expire()
        return sum(each.held[meter] for each in self.reservations.values() if each.is_open)

    def recorded(self, meter: str) -> int:
        """What the ledger has."""
        return sum(
            each.quantity for event in self.events.values() for each in event.measurements if each.meter == meter
        )

    def lose_counters(self) -> None:
        """As Redis, lost: the holds are gone; the ledger knows what was used."""
        self.reservations.clear()
        self.used.clear()
        self._applied = 0
        for event in self.events.values():
            self.used.update({each.meter: each.quantity for each in event.measurements})
        self._applied = len(self.events)

    def catch_up(self) -> None:
        """The counters follow the ledger up to its head."""
        for event in list(self.events.values())[self._applied :]:
            self._apply(event)
        self._applied = len(self.events)

    async def check(self, request: quota_pb2.CheckRequest, *, seconds: float) -> quota_pb2.CheckResponse:
        """As Suite."""
        return self._answered("check", seconds, lambda: self._check(request))

    async def extend(
        self, request: quota_pb2.ExtendReservationRequest, *, seconds: float
    ) -> quota_pb2.ExtendReservationResponse:
        """As Suite."""
        return self._answered("extend", seconds, lambda: self._extend(request))

    async def commit(
        self, request: quota_pb2.CommitReservationRequest, *, seconds: float
    ) -> quota_pb2.CommitReservationResponse:
        """As Suite."""
        return self._answered("commit", seconds, lambda: self._commit(request))

    async def release(
        self, request: quota_pb2.ReleaseReservationRequest, *, seconds: float
    ) -> quota_pb2.ReleaseReservationResponse:
        """As Suite."""
        return self._answered("release", seconds, lambda: self._release(request))

    async def record(
        self, request: metering_pb2.RecordUsageRequest, *, seconds: float
    ) -> metering_pb2.RecordUsageResponse:
        """As Suite."""
        return self._answered("record", seconds, lambda: self._record(request))

    async def stream(
        self, requests: Sequence[metering_pb2.StreamUsageRequest], *, seconds: float
    ) -> AsyncGenerator[metering_pb2.StreamUsageResponse, None]:
        """As Suite."""
        self.calls.append("stream")
        self.deadlines.append(seconds)
        for number, request in enumerate(requests):
            failure = self.failure
            if self.stream_failure is not None and number >= self.batches_before_stream_failure:
                failure = self.stream_failure
            if failure is not None and not self.loses_answers:
                raise failure
            results = self._record(metering_pb2.RecordUsageRequest(events=request.events)).results
            if failure is not None:
                raise failure
            yield _acknowledged(request.batch_number, results)

    async def report(
        self, request: task_time_pb2.ReportTaskTimeRequest, *, seconds: float
    ) -> task_time_pb2.ReportTaskTimeResponse:
        """As Suite."""
        return self._answered("report", seconds, lambda: self._report(request))

    def close(self) -> None:
        """As Suite."""

    def _answered(self, name: str, seconds: float, work: Callable[[], Answer]) -> Answer:
        self.calls.append(name)
        self.deadlines.append(seconds)
        if self.failure is not None and not self.loses_answers:
            raise self.failure
        answer = work()
        if self.failure is not None:
            raise self.failure
        return answer

    def _check(self, request: quota_pb2.CheckRequest) -> quota_pb2.CheckResponse:
        if self.is_degraded:
            return _degraded(request.request_id)
        known = self.reservations.get(request.request_id)
        wanted = {each.meter: each.quantity for each in request.consumptions}
        if known is not None:
            return quota_pb2.CheckResponse(
                decision=quota_pb2.DECISION_ALLOWED, limits=self._states(wanted), reservation_id=request.request_id
            )
        denied = self._denying(wanted)
        if denied is not None:
            return self._denial(wanted, denied)
        reserves = request.HasField("reserve_duration")
        if reserves:
            ends = self._clock.running() + request.reserve_duration.ToTimedelta().total_seconds()
            self.reservations[request.request_id] = Reservation(Counter(wanted), ends)
        return quota_pb2.CheckResponse(
            decision=quota_pb2.DECISION_ALLOWED,
            limits=self._states(wanted),
            reservation_id=request.request_id if reserves else "",
        )

    def _extend(self, request: quota_pb2.ExtendReservationRequest) -> quota_pb2.ExtendReservationResponse:
        if self.is_degraded:
            return quota_pb2.ExtendReservationResponse(check=_degraded(request.reservation_id))
        self._expire()
        wanted = {each.meter: each.quantity for each in request.consumptions}
        known = self.reservations.get(request.reservation_id)
        is_open = known is not None and known.is_open
        held = known.held if known is not None and is_open else Counter[str]()
        growth = {meter: max(0, quantity - held[meter]) for meter, quantity in wanted.items()}
        denied = self._denying({meter: quantity for meter, quantity in growth.items() if quantity})
        if denied is not None:
            return quota_pb2.ExtendReservationResponse(check=self._denial(wanted, denied))
        held.update(growth)
        ends = self._clock.running() + request.reserve_duration.ToTimedelta().total_seconds()
        self.reservations[request.reservation_id] = Reservation(held, ends)
        check = quota_pb2.CheckResponse(
            decision=quota_pb2.DECISION_ALLOWED, limits=self._states(wanted), reservation_id=request.reservation_id
        )
        return quota_pb2.ExtendReservationResponse(check=check, restored=not is_open)

    def _commit(self, request: quota_pb2.CommitReservationRequest) -> quota_pb2.CommitReservationResponse:
        known = self.reservations.get(request.reservation_id)
        if known is not None and known.is_open:
            actual = {each.meter: each.quantity for each in request.actuals}
            for meter, held in known.held.items():
                known.held[meter] = min(held, max(0, actual.get(meter, 0) - known.drawn[meter]))
            known.is_open = any(known.held.values())
        return quota_pb2.CommitReservationResponse()

    def _release(self, request: quota_pb2.ReleaseReservationRequest) -> quota_pb2.ReleaseReservationResponse:
        known = self.reservations.get(request.reservation_id)
        if known is not None:
            known.is_open = False
        return quota_pb2.ReleaseReservationResponse(freed=True)

    def _record(self, request: metering_pb2.RecordUsageRequest) -> metering_pb2.RecordUsageResponse:
        results = [self._take(index, event) for index, event in enumerate(request.events)]
        if not self.is_lagging:
            self.catch_up()
        return metering_pb2.RecordUsageResponse(results=results)

    def _take(self, index: int, event: metering_pb2.UsageEvent) -> metering_pb2.EventResult:
        identity = (event.source, event.id)
        known = self.events.get(identity)
        if known is None:
            status = metering_pb2.EVENT_STATUS_ACCEPTED
            self.events[identity] = metering_pb2.UsageEvent()
            self.events[identity].CopyFrom(event)
        elif known == event:
            status = metering_pb2.EVENT_STATUS_DUPLICATE
        else:
            return metering_pb2.EventResult(
                index=index,
                status=metering_pb2.EVENT_STATUS_CONFLICT,
                reason=errors_pb2.ERROR_REASON_CONTENT_CONFLICT,
            )
        return metering_pb2.EventResult(index=index, status=status, sequence=list(self.events).index(identity) + 1)

    def _report(self, request: task_time_pb2.ReportTaskTimeRequest) -> task_time_pb2.ReportTaskTimeResponse:
        task = self.tasks.setdefault(request.subject.task_id, TaskTime())
        time_ms = request.report_time.ToMilliseconds()
        if task.end_ms is not None and time_ms > task.end_ms:
            return task_time_pb2.ReportTaskTimeResponse(
                status=task_time_pb2.TASK_REPORT_STATUS_AFTER_END, total_milliseconds=task.total_ms()
            )
        before_ms = task.total_ms()
        task.reports.add(time_ms)
        ends = request.phase == task_time_pb2.TASK_PHASE_END
        if ends:
            task.end_ms = time_ms
        event = metering_pb2.UsageEvent(
            id=f"{request.subject.task_id}:{time_ms}:{request.phase}",
            source="task-time",
            subject=request.subject,
            event_time=request.report_time,
            measurements=[metering_pb2.Measurement(meter=_TIME_METER, quantity=task.total_ms() - before_ms)],
            reservation_id=request.reservation_id,
            reservation_final=ends,
            task_outcome=request.task_outcome,
        )
        taken = self._take(0, event)
        if not self.is_lagging:
            self.catch_up()
        return task_time_pb2.ReportTaskTimeResponse(
            status=task_time_pb2.TASK_REPORT_STATUS_RECORDED,
            added_milliseconds=task.total_ms() - before_ms,
            total_milliseconds=task.total_ms(),
            sequence=taken.sequence,
        )

    def _apply(self, event: metering_pb2.UsageEvent) -> None:
        self._expire()
        known = self.reservations.get(event.reservation_id)
        for each in event.measurements:
            self.used[each.meter] += each.quantity
            if known is not None:
                known.drawn[each.meter] += each.quantity
                known.held[each.meter] = max(0, known.held[each.meter] - each.quantity)
        if known is not None and event.reservation_final:
            known.is_open = False

    def _expire(self) -> None:
        for each in self.reservations.values():
            if each.ends <= self._clock.running():
                each.is_open = False

    def _denying(self, wanted: Mapping[str, int]) -> str | None:
        return next((meter for meter, quantity in wanted.items() if quantity > self._left(meter, quantity)), None)

    def _left(self, meter: str, unlimited: int) -> int:
        limit = self.limits.get(meter)
        return unlimited if limit is None else limit - self._used(meter) - self.held(meter)

    def _used(self, meter: str) -> int:
        return 0 if meter == _CONCURRENCY else self.used[meter]

    def _denial(self, wanted: Mapping[str, int], denied: str) -> quota_pb2.CheckResponse:
        is_concurrency = denied == _CONCURRENCY
        return quota_pb2.CheckResponse(
            decision=quota_pb2.DECISION_DENIED,
            deny_reason=quota_pb2.DENY_REASON_CONCURRENCY if is_concurrency else quota_pb2.DENY_REASON_LIMIT_REACHED,
            message="Plan limit reached. Upgrade to continue.",
            limits=sorted(self._states(wanted), key=lambda state: state.meter != denied),
        )

    def _states(self, wanted: Mapping[str, int]) -> list[quota_pb2.LimitState]:
        return [
            quota_pb2.LimitState(
                limit_id=f"plan:{meter}",
                meter=meter,
                limit=self.limits[meter],
                hard_limit=self.limits[meter],
                used=self._used(meter),
                held=self.held(meter),
                remaining=max(0, self._left(meter, 0)),
                applied_sequence=self._applied,
            )
            for meter in wanted
            if meter in self.limits
        ]


def _degraded(reservation_id: str) -> quota_pb2.CheckResponse:
    return quota_pb2.CheckResponse(decision=quota_pb2.DECISION_ALLOWED, reservation_id=reservation_id, degraded=True)


def _acknowledged(batch_number: int, results: Sequence[metering_pb2.EventResult]) -> metering_pb2.StreamUsageResponse:
    statuses = Counter(each.status for each in results)
    taken = (metering_pb2.EVENT_STATUS_ACCEPTED, metering_pb2.EVENT_STATUS_DUPLICATE)
    return metering_pb2.StreamUsageResponse(
        batch_number=batch_number,
        accepted_count=statuses[metering_pb2.EVENT_STATUS_ACCEPTED],
        duplicate_count=statuses[metering_pb2.EVENT_STATUS_DUPLICATE],
        refused=[each for each in results if each.status not in taken],
        last_sequence=max((each.sequence for each in results), default=0),
    )
