"""Many checks in one call or on one stream, each answered by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from kit.errors import InvalidField, LimitExceeded
from kit.grpc.call import Call, OrganizationExists, admit_again, call_in_progress, organization_of
from kit.grpc.failures import failure_to_pb
from kit.grpc.streams import LongCalls
from services.quota.application.check_batch import CheckBatch
from services.quota.application.check_quota import CheckQuota
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check
from services.quota.domain.maxima import CHECK_STREAMS_MAX, CHECKS_AT_ONCE_MAX
from services.quota.rpc.convert import answer_to_pb, check_from_pb
from tollbook.quota.v1 import quota_pb2


class ManyChecks:
    """BatchCheck and StreamChecks."""

    def __init__(self, check_quota: CheckQuota, check_batch: CheckBatch, exists: OrganizationExists) -> None:
        self._check_quota = check_quota
        self._check_batch = check_batch
        self._exists = exists
        self._streams = LongCalls("streams of checks", calls_max=CHECK_STREAMS_MAX)

    def drain(self) -> None:
        """Ends every stream after what it has read."""
        self._streams.drain()

    async def batch(self, request: quota_pb2.BatchCheckRequest) -> quota_pb2.BatchCheckResponse:
        """The results, in order. Raises InvalidField and LimitExceeded for the batch as such."""
        if not request.checks:
            raise InvalidField(field="checks", problem="at least one is needed")
        if len(request.checks) > CHECKS_AT_ONCE_MAX:
            raise LimitExceeded(what="checks", actual=len(request.checks), maximum=CHECKS_AT_ONCE_MAX)
        call = call_in_progress()
        outcomes: list[Answer | Exception | None] = []
        checks: list[Check] = []
        organizations: dict[str, str | Exception] = {}
        for message in request.checks:
            named = message.subject.organization_id
            if named not in organizations:
                organizations[named] = await self._organization(named)
            found = organizations[named]
            try:
                checks.append(_check(message, found, call))
            except Exception as error:  # noqa: BLE001 - it is this check's answer
                outcomes.append(error)
            else:
                outcomes.append(None)
        answers = iter(await self._check_batch(checks))
        return _results_to_pb([next(answers) if outcome is None else outcome for outcome in outcomes], call)

    async def _organization(self, named: str) -> str | Exception:
        try:
            return await organization_of(named, exists=self._exists)
        except Exception as error:  # noqa: BLE001 - it is the answer of the checks that name it
            return error

    async def stream(
        self, requests: AsyncIterator[quota_pb2.StreamChecksRequest]
    ) -> AsyncIterator[quota_pb2.StreamChecksResponse]:
        """The results of one stream, in order."""

        async def begin(request: quota_pb2.StreamChecksRequest) -> asyncio.Future[quota_pb2.StreamChecksResponse]:
            await admit_again()
            return asyncio.create_task(self._one(request.check))

        with self._streams.place():
            async for response in self._streams.answer_in_order(requests, begin, in_flight_max=CHECKS_AT_ONCE_MAX):
                yield response

    async def _one(self, message: quota_pb2.CheckRequest) -> quota_pb2.StreamChecksResponse:
        call = call_in_progress()
        outcome: Answer | Exception
        try:
            organization_id = await organization_of(message.subject.organization_id, exists=self._exists)
            outcome = await self._check_quota(_check(message, organization_id, call))
        except Exception as error:  # noqa: BLE001 - it is this check's answer
            outcome = error
        return quota_pb2.StreamChecksResponse(result=_result_to_pb(outcome, call))


def _check(message: quota_pb2.CheckRequest, organization: str | Exception, call: Call) -> Check:
    if isinstance(organization, Exception):
        raise organization
    return check_from_pb(message, organization, owner=call.principal.name)


def _result_to_pb(outcome: Answer | Exception, call: Call) -> quota_pb2.CheckResult:
    if isinstance(outcome, Exception):
        return quota_pb2.CheckResult(error=failure_to_pb(outcome, call.method, call.request_id))
    return quota_pb2.CheckResult(response=answer_to_pb(outcome))


def _results_to_pb(outcomes: Sequence[Answer | Exception], call: Call) -> quota_pb2.BatchCheckResponse:
    response = quota_pb2.BatchCheckResponse()
    made: dict[int, quota_pb2.CheckResult] = {}
    add: Callable[[quota_pb2.CheckResult], None] = response.results.append
    for outcome in outcomes:
        # Checks that were told the same share their answer.
        result = made.get(id(outcome))
        if result is None:
            result = made[id(outcome)] = _result_to_pb(outcome, call)
        add(result)
    return response
