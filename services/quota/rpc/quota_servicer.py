"""QuotaService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import ClassVar

import grpc
from google.protobuf.message import DecodeError

from kit.errors import InvalidField
from kit.grpc.call import OrganizationExists, current_principal, organization_of
from kit.grpc.context import ServicerContext
from services.quota.application.check_quota import CheckQuota
from services.quota.application.commit_reservation import CommitReservation
from services.quota.application.delete_limit import DeleteLimit
from services.quota.application.extend_reservation import ExtendReservation
from services.quota.application.list_limits import ListLimits
from services.quota.application.list_quotas import ListQuotas
from services.quota.application.ports import Answer
from services.quota.application.release_reservation import ReleaseReservation
from services.quota.application.set_limit import SetLimit
from services.quota.domain import checks
from services.quota.rpc.convert import answer_to_pb, check_from_pb, denial_metadata, quotas_to_pb
from services.quota.rpc.convert_limits import (
    after_from_token,
    change_request_from_pb,
    limit_from_pb,
    limit_to_pb,
    page_to_pb,
)
from services.quota.rpc.convert_reservations import (
    actuals_from_pb,
    extended_to_pb,
    extension_from_pb,
    settlement_to_pb,
)
from services.quota.rpc.many_checks import ManyChecks
from services.quota.rpc.quota_watches import QuotaWatches
from services.quota.rpc.repeated_denials import RepeatedDenial, RepeatedDenials
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Decides and lists."""

    service_name: ClassVar[str] = "tollbook.quota.v1.QuotaService"

    def __init__(
        self,
        *,
        check_quota: CheckQuota,
        list_quotas: ListQuotas,
        set_limit: SetLimit,
        list_limits: ListLimits,
        delete_limit: DeleteLimit,
        extend_reservation: ExtendReservation,
        commit_reservation: CommitReservation,
        release_reservation: ReleaseReservation,
        many_checks: ManyChecks,
        quota_watches: QuotaWatches,
        exists: OrganizationExists,
    ) -> None:
        self._check_quota = check_quota
        self._many_checks = many_checks
        self._quota_watches = quota_watches
        self._list_quotas = list_quotas
        self._set_limit = set_limit
        self._list_limits = list_limits
        self._delete_limit = delete_limit
        self._extend_reservation = extend_reservation
        self._commit_reservation = commit_reservation
        self._release_reservation = release_reservation
        self._exists = exists
        self._repeated = RepeatedDenials()

    def add_to(self, server: grpc.aio.Server) -> None:
        """As kit.grpc.server.Servicer."""
        check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self.check_bytes)
        # Before the generated ones, since the first that is found answers.
        own = grpc.method_handlers_generic_handler(self.service_name, {"Check": check})
        server.add_generic_rpc_handlers((own,))
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self, server)

    async def Check(self, request: quota_pb2.CheckRequest, context: ServicerContext) -> quota_pb2.CheckResponse:
        """See the proto. A denial for too much also says so in the trailing metadata, for the REST edge."""
        _, answer = await self._answered(request)
        _tell_edge(denial_metadata(answer), context)
        return answer_to_pb(answer)

    async def check_bytes(self, data: bytes, context: ServicerContext) -> bytes:
        """As Check, of a request and an answer as they are sent: what was just denied need not be read again."""
        key = self._repeated.key(current_principal(), data)
        if key is not None and (known := self._repeated.find(key)) is not None:
            _tell_edge(known.metadata, context)
            return known.response
        check, answer = await self._answered(_check_request(data))
        metadata = denial_metadata(answer)
        _tell_edge(metadata, context)
        response = answer_to_pb(answer).SerializeToString()
        if key is not None and (again := self._check_quota.repeatable(check, answer)) is not None:
            self._repeated.keep(key, RepeatedDenial(response, metadata, again))
        return response

    async def _answered(self, request: quota_pb2.CheckRequest) -> tuple[checks.Check, Answer]:
        organization_id = await organization_of(request.subject.organization_id, exists=self._exists)
        check = check_from_pb(request, organization_id, owner=current_principal().name)
        return check, await self._check_quota(check)

    async def BatchCheck(
        self, request: quota_pb2.BatchCheckRequest, context: ServicerContext
    ) -> quota_pb2.BatchCheckResponse:
        """See the proto."""
        return await self._many_checks.batch(request)

    async def StreamChecks(
        self, request_iterator: AsyncIterator[quota_pb2.StreamChecksRequest], context: ServicerContext
    ) -> AsyncIterator[quota_pb2.StreamChecksResponse]:
        """See the proto."""
        async for response in self._many_checks.stream(request_iterator):
            yield response

    async def ExtendReservation(
        self, request: quota_pb2.ExtendReservationRequest, context: ServicerContext
    ) -> quota_pb2.ExtendReservationResponse:
        """See the proto. A denial for too much says so for the REST edge, as that of a check."""
        organization_id = await organization_of(request.subject.organization_id, exists=self._exists)
        target = extension_from_pb(request, organization_id, owner=current_principal().name)
        extended = await self._extend_reservation(target)
        _tell_edge(denial_metadata(extended.answer), context)
        return extended_to_pb(extended)

    async def CommitReservation(
        self, request: quota_pb2.CommitReservationRequest, context: ServicerContext
    ) -> quota_pb2.CommitReservationResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        actuals = actuals_from_pb(request.actuals)
        return settlement_to_pb(await self._commit_reservation(organization_id, request.reservation_id, actuals))

    async def ReleaseReservation(
        self, request: quota_pb2.ReleaseReservationRequest, context: ServicerContext
    ) -> quota_pb2.ReleaseReservationResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        freed = await self._release_reservation(organization_id, request.reservation_id)
        return quota_pb2.ReleaseReservationResponse(freed=freed)

    async def ListQuotas(
        self, request: quota_pb2.ListQuotasRequest, context: ServicerContext
    ) -> quota_pb2.ListQuotasResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return quotas_to_pb(await self._list_quotas(organization_id))

    async def WatchQuotas(
        self, request: quota_pb2.WatchQuotasRequest, context: ServicerContext
    ) -> AsyncIterator[quota_pb2.WatchQuotasResponse]:
        """See the proto."""
        async with aclosing(self._quota_watches.watch(request)) as responses:
            async for response in responses:
                yield response

    async def SetLimit(
        self, request: quota_pb2.SetLimitRequest, context: ServicerContext
    ) -> quota_pb2.SetLimitResponse:
        """See the proto."""
        organization_id = await organization_of(request.limit.organization_id, exists=self._exists)
        change = change_request_from_pb(request.request_id, request)
        limit = await self._set_limit(organization_id, limit_from_pb(request.limit), change)
        return quota_pb2.SetLimitResponse(limit=limit_to_pb(limit, organization_id))

    async def ListLimits(
        self, request: quota_pb2.ListLimitsRequest, context: ServicerContext
    ) -> quota_pb2.ListLimitsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        after = after_from_token(request.page_token)
        return page_to_pb(
            await self._list_limits(organization_id, after=after, size=request.page_size), organization_id
        )

    async def DeleteLimit(
        self, request: quota_pb2.DeleteLimitRequest, context: ServicerContext
    ) -> quota_pb2.DeleteLimitResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        change = change_request_from_pb(request.request_id, request)
        await self._delete_limit(organization_id, request.limit_id, change)
        return quota_pb2.DeleteLimitResponse()


def _check_request(data: bytes) -> quota_pb2.CheckRequest:
    try:
        return quota_pb2.CheckRequest.FromString(data)
    except DecodeError:
        raise InvalidField(field="request", problem="these bytes are no CheckRequest") from None


def _tell_edge(metadata: tuple[tuple[str, str], ...], context: ServicerContext) -> None:
    if metadata:
        # Trailing, because metadata ahead of the answer would be a message of its own.
        context.set_trailing_metadata((*(context.trailing_metadata() or ()), *metadata))
