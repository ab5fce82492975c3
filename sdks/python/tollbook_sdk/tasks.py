"""A task that is metered while it runs: reserved before, reported every few seconds, settled after."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from google.protobuf.timestamp_pb2 import Timestamp

from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook.metering.v1.metering_pb2 import Subject, TaskOutcome
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.buffer import Delivered, UsageBuffer, Waiting
from tollbook_sdk.checks import Checks, check_request, consumptions_to_pb, duration_to_pb
from tollbook_sdk.clock import Clock
from tollbook_sdk.decision import Decision, OnUnavailable, decision_from_pb, unanswered
from tollbook_sdk.errors import BufferFull, QuotaDenied, QuotaExhausted
from tollbook_sdk.settings import Settings
from tollbook_sdk.suite import CallFailed, Suite

log = logging.getLogger("tollbook_sdk")

TIME_METER = "agent_minutes"
ONE_AGENT: Mapping[str, int] = MappingProxyType({"concurrent_agents": 1})
_NS_PER_SECOND = 1_000_000_000
_MS_PER_SECOND = 1_000
# What a task that outruns its estimate holds ahead: the time to the next extension, and once that again if that is
# late.
_AHEAD_HEARTBEATS = 2
_COMMIT_ATTEMPTS_MAX = 5
_COMMIT_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What a task asks for before it begins."""

    request_id: str
    subject: Subject
    """With its task_id."""
    seconds: float
    """How long it is thought to run: held before it begins."""
    reserve: Mapping[str, int]
    """What else is held, by meter."""


class TaskRun:
    """One run of a task. Written on the SDK's loop; what others may use says so."""

    def __init__(self, plan: TaskPlan, decision: Decision, clock: Clock) -> None:
        self.plan = plan
        self.decision = decision
        self._clock = clock
        self._started = clock.running()
        self._started_ns = clock.wall_ns()
        self._lock = threading.Lock()
        self._recorded: Counter[str] = Counter()
        self._exhausted: QuotaExhausted | None = None
        self._on_exhausted: list[Callable[[], None]] = []
        self.held_until = self._started
        """When its reservation ends unless it is extended, by the running clock."""
        self.heart: asyncio.Task[None] | None = None
        self.is_ended = False

    @property
    def reservation_id(self) -> str:
        """Its reservation. Any thread."""
        return self.plan.request_id

    @property
    def exhausted(self) -> QuotaExhausted | None:
        """Why it may not go on; None: it may. Any thread."""
        return self._exhausted

    def note_recorded(self, quantities: Mapping[str, int]) -> None:
        """Usage was recorded that draws its reservation down. Any thread."""
        with self._lock:
            self._recorded.update(quantities)

    def recorded(self) -> dict[str, int]:
        """What was recorded of it, by meter, without its time. Any thread."""
        with self._lock:
            return dict(self._recorded)

    def on_exhausted(self, tell: Callable[[], None]) -> None:
        """Calls it once the task may not go on, at once if that is so already. Any thread."""
        with self._lock:
            if self._exhausted is None:
                self._on_exhausted.append(tell)
                return
        tell()

    def exhaust(self, decision: Decision) -> None:
        """It may not go on."""
        with self._lock:
            if self._exhausted is not None:
                return
            self._exhausted = QuotaExhausted(decision)
            tellers = list(self._on_exhausted)
        for tell in tellers:
            tell()

    def passed_seconds(self) -> float:
        """How long it has run."""
        return self._clock.running() - self._started

    def report(self, phase: task_time_pb2.TaskPhase.ValueType) -> task_time_pb2.ReportTaskTimeRequest:
        """A report as of now. Its times come from one clock that nobody sets: the wall clock is read once."""
        message = task_time_pb2.ReportTaskTimeRequest(
            subject=self.plan.subject, phase=phase, reservation_id=self.reservation_id, report_time=Timestamp()
        )
        message.report_time.FromNanoseconds(self._started_ns + round(self.passed_seconds() * _NS_PER_SECOND))
        return message

    def target(self, ahead_seconds: float) -> dict[str, int]:
        """What to hold from now on: what is left of what was asked for, and some time ahead in any case.

        Usage recorded but not counted yet is still held besides, so this never grows a hold that suffices.
        """
        recorded = self.recorded()
        target = {meter: max(0, quantity - recorded.get(meter, 0)) for meter, quantity in self.plan.reserve.items()}
        left_seconds = max(self.plan.seconds - self.passed_seconds(), ahead_seconds)
        target[TIME_METER] = round(left_seconds * _MS_PER_SECOND)
        return target


class Tasks:
    """Begins, keeps alive and ends. On the SDK's loop."""

    def __init__(self, settings: Settings, suite: Suite, checks: Checks, buffer: UsageBuffer, clock: Clock) -> None:
        self._settings = settings
        self._suite = suite
        self._checks = checks
        self._buffer = buffer
        self._clock = clock
        self._running: dict[str, TaskRun] = {}
        self.settling: set[asyncio.Task[None]] = set()
        """What is on its way after the end of tasks."""

    async def begin(self, plan: TaskPlan, budget_seconds: float) -> TaskRun:
        """Reserves and reports the start. Raises QuotaDenied, RequestRefused, BufferFull; then nothing runs."""
        consumptions: dict[str, int | None] = {**plan.reserve, TIME_METER: round(plan.seconds * _MS_PER_SECOND)}
        request = check_request(
            plan.request_id, plan.subject, consumptions, hold_seconds=self._settings.task_hold_seconds
        )
        held_from = self._clock.running()
        decision = await self._checks.check(request, budget_seconds)
        return self.admit(plan, decision, held_from)

    def admit(self, plan: TaskPlan, decision: Decision, held_from: float) -> TaskRun:
        """Begins what was decided on. Raises QuotaDenied, BufferFull."""
        if not decision.allowed:
            raise QuotaDenied(decision)
        run = TaskRun(plan, replace(decision, reservation_id=plan.request_id), self._clock)
        run.held_until = held_from + self._settings.task_hold_seconds
        try:
            # A task whose time cannot be written down must not begin.
            self._buffer.put(Waiting(run.report(task_time_pb2.TASK_PHASE_START)))
        except BufferFull:
            self._checks.release_soon(plan.request_id, plan.subject.organization_id)
            raise
        self._running[plan.request_id] = run
        run.heart = asyncio.ensure_future(self._beat(run))
        return run

    def abandon(self, request_id: str) -> None:
        """Whoever began it went away without ending it, perhaps before it knew that it ran. Otherwise does nothing."""
        run = self._running.get(request_id)
        if run is not None:
            self.end(run, metering_pb2.TASK_OUTCOME_CANCELLED)

    def end(self, run: TaskRun, outcome: TaskOutcome.ValueType) -> None:
        """Reports the end, once, and settles the reservation when the ledger has it. Nobody waits."""
        if run.is_ended:
            return
        run.is_ended = True
        self._running.pop(run.reservation_id, None)
        if run.heart is not None:
            run.heart.cancel()
        report = run.report(task_time_pb2.TASK_PHASE_END)
        report.task_outcome = outcome
        told: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()

        def tell(delivered: Delivered) -> None:
            if not told.done():
                told.set_result(delivered)

        try:
            self._buffer.put(Waiting(report, on_delivered=tell))
        except BufferFull:
            # What the reports so far add up to stands; the hold is not needed any more.
            self._checks.release_soon(run.reservation_id, run.plan.subject.organization_id)
            return
        settling = asyncio.ensure_future(self._settle(run, told))
        self.settling.add(settling)
        settling.add_done_callback(self.settling.discard)

    def end_all(self) -> None:
        """Ends every task that still runs: the client goes."""
        for run in list(self._running.values()):
            self.end(run, metering_pb2.TASK_OUTCOME_CANCELLED)

    async def _beat(self, run: TaskRun) -> None:
        beats = 0
        while True:
            beats += 1
            await self._clock.sleep(beats * self._settings.heartbeat_seconds - run.passed_seconds())
            try:
                self._buffer.put(Waiting(run.report(task_time_pb2.TASK_PHASE_HEARTBEAT)))
            except BufferFull:
                log.error("heartbeat_lost task_id=%s", run.plan.subject.task_id)  # noqa: TRY400 - counted already
            if run.exhausted is None:
                await self._extend(run)
            # A heartbeat that came so late that the next one is due is that one, too.
            beats = max(beats, int(run.passed_seconds() / self._settings.heartbeat_seconds))

    async def _extend(self, run: TaskRun) -> None:
        settings = self._settings
        request = quota_pb2.ExtendReservationRequest(
            reservation_id=run.reservation_id,
            subject=run.plan.subject,
            consumptions=consumptions_to_pb(run.target(_AHEAD_HEARTBEATS * settings.heartbeat_seconds)),
            reserve_duration=duration_to_pb(settings.task_hold_seconds),
        )
        asked = self._clock.running()
        try:
            response = await self._suite.extend(
                request, seconds=min(settings.call_seconds, settings.heartbeat_seconds / 2)
            )
        except CallFailed as failure:
            log.warning("task_not_extended task_id=%s failure=%s", run.plan.subject.task_id, failure)
            is_held = self._clock.running() < run.held_until
            if self._checks.policy is OnUnavailable.DENY and not is_held:
                run.exhaust(unanswered(OnUnavailable.DENY, run.reservation_id))
            return
        decision = decision_from_pb(response.check)
        if decision.allowed:
            run.held_until = asked + settings.task_hold_seconds
        else:
            run.exhaust(decision)

    async def _settle(self, run: TaskRun, told: asyncio.Future[Delivered]) -> None:
        delivered = await told
        actuals = run.recorded()
        if delivered.total_ms:
            actuals[TIME_METER] = delivered.total_ms
        reserved = {TIME_METER, *run.plan.reserve}
        request = quota_pb2.CommitReservationRequest(
            organization_id=run.plan.subject.organization_id,
            reservation_id=run.reservation_id,
            actuals=[
                metering_pb2.Measurement(meter=meter, quantity=quantity)
                for meter, quantity in actuals.items()
                if meter in reserved and quantity
            ],
        )
        await commit(self._suite, self._clock, request, seconds=self._settings.call_seconds)


async def commit(suite: Suite, clock: Clock, request: quota_pb2.CommitReservationRequest, *, seconds: float) -> None:
    """Commits, with a few attempts. Nothing is lost without it: the events draw, and time frees what is left."""
    for attempt in range(_COMMIT_ATTEMPTS_MAX):
        try:
            await suite.commit(request, seconds=seconds)
        except CallFailed as failure:
            if not failure.passes:
                # A final event may have ended it before: then there is nothing to commit.
                log.debug("not_committed reservation_id=%s failure=%s", request.reservation_id, failure)
                return
            await clock.sleep(max(_COMMIT_AGAIN_SECONDS * 2**attempt, failure.retry_seconds or 0.0))
        else:
            return
    log.warning("not_committed reservation_id=%s", request.reservation_id)
