"""Asks whether something may be used, within a budget, and says what stands for an answer that does not come."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from tollbook.metering.v1.metering_pb2 import Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.clock import Clock
from tollbook_sdk.decision import Decision, OnUnavailable, decision_from_pb, unanswered
from tollbook_sdk.errors import RequestRefused
from tollbook_sdk.suite import CallFailed, Suite

# Between attempts within one budget: long enough for a restarted server's socket, short beside 50 ms.
_AGAIN_SECONDS = 0.005


def new_request_id() -> str:
    """A new id."""
    return uuid.uuid4().hex


def duration_to_pb(seconds: float) -> Duration:
    """A duration, to the microsecond."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def check_request(
    request_id: str,
    subject: Subject,
    consumptions: Mapping[str, int | None],
    *,
    hold_seconds: float | None,
    mode: quota_pb2.CheckMode.ValueType = quota_pb2.CHECK_MODE_UNSPECIFIED,
) -> quota_pb2.CheckRequest:
    """A check; with `hold_seconds` it reserves."""
    return quota_pb2.CheckRequest(
        request_id=request_id,
        subject=subject,
        consumptions=consumptions_to_pb(consumptions),
        mode=mode,
        reserve_duration=None if hold_seconds is None else duration_to_pb(hold_seconds),
    )


def consumptions_to_pb(consumptions: Mapping[str, int | None]) -> list[quota_pb2.Consumption]:
    """Quantities by meter; None: a gate."""
    return [quota_pb2.Consumption(meter=meter, quantity=quantity) for meter, quantity in consumptions.items()]


class Checks:
    """Decisions of the quota service, or of the policy in its absence."""

    def __init__(self, suite: Suite, clock: Clock, policy: OnUnavailable) -> None:
        self._suite = suite
        self._clock = clock
        self.policy = policy

    async def check(self, request: quota_pb2.CheckRequest, budget_seconds: float) -> Decision:
        """The decision. Asks again with the same id while the budget lasts; the first answer counts, whenever it came.

        Without an answer the policy decides, `degraded`: allowed, a reservation may still have to be made (extending it
        does); denied, one that was made all the same is released. Raises RequestRefused.
        """
        deadline = self._clock.running() + budget_seconds
        reserves = request.HasField("reserve_duration") or request.mode == quota_pb2.CHECK_MODE_RESERVE
        try:
            while (left := deadline - self._clock.running()) > 0:
                try:
                    return decision_from_pb(await self._suite.check(request, seconds=left))
                except CallFailed as failure:
                    if not failure.passes:
                        raise RequestRefused(failure.code, failure.reason, failure.message) from failure
                    # No longer than asked for or left: a server that is overloaded is not hammered.
                    pause = max(_AGAIN_SECONDS, failure.retry_seconds or 0.0)
                    await self._clock.sleep(min(pause, max(0.0, deadline - self._clock.running())))
        except asyncio.CancelledError:
            if reserves:
                self.release_soon(request.request_id, request.subject.organization_id)
            raise
        return self.stand_in(request, reserves=reserves)

    def stand_in(self, request: quota_pb2.CheckRequest, *, reserves: bool) -> Decision:
        """What stands for an answer that did not come. On the loop."""
        decision = unanswered(self.policy, request.request_id if reserves else "")
        if reserves and not decision.allowed:
            self.release_soon(request.request_id, request.subject.organization_id)
        return decision

    def release_soon(self, reservation_id: str, organization_id: str) -> None:
        """Releases what may be held, without anybody waiting; a hold that it does not reach ends by time."""
        message = quota_pb2.ReleaseReservationRequest(reservation_id=reservation_id, organization_id=organization_id)
        self._releasing = asyncio.ensure_future(self._release(message))

    async def _release(self, message: quota_pb2.ReleaseReservationRequest) -> None:
        with contextlib.suppress(CallFailed):
            await self._suite.release(message, seconds=_RELEASE_SECONDS)


_RELEASE_SECONDS = 5.0
