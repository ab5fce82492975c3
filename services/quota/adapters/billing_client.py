"""Billing, over gRPC: what each organization is entitled to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc

from kit.errors import DependencyUnavailable
from kit.feed import Head, Page, Position
from kit.grpc.errors import refusal_from_call
from services.quota.application.ports import InForce
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import Limit, LimitKind, plan_limit
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2, entitlements_pb2_grpc
from tollbook.feed.v1 import feed_pb2

_STANDINGS = {
    billing_pb2.SUBSCRIPTION_STATUS_TRIALING: Standing.ACTIVE,
    billing_pb2.SUBSCRIPTION_STATUS_ACTIVE: Standing.ACTIVE,
    # Late, and reminded of it: what it may use is not less for that.
    billing_pb2.SUBSCRIPTION_STATUS_PAST_DUE: Standing.ACTIVE,
    billing_pb2.SUBSCRIPTION_STATUS_PAUSED: Standing.SUSPENDED,
    billing_pb2.SUBSCRIPTION_STATUS_SUSPENDED: Standing.SUSPENDED,
    billing_pb2.SUBSCRIPTION_STATUS_CANCELED: Standing.NO_PLAN,
}
_KINDS = {
    catalog_pb2.PLAN_LIMIT_KIND_PERIOD: LimitKind.PERIOD,
    catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY: LimitKind.CONCURRENCY,
}


class RemoteEntitlements:
    """EntitlementSource, and kit.feed.Feed of entitlements, at the billing service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = entitlements_pb2_grpc.EntitlementFeedServiceStub(channel)

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed."""
        call = self._stub.WatchHeads(entitlements_pb2.WatchHeadsRequest())
        try:
            async for response in call:
                yield [
                    Head(head.organization_id, Position(head.position.sequence, head.position.commit_id))
                    for head in response.heads
                ]
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "billing") from error
        finally:
            call.cancel()

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[Entitlement]]:
        """As Feed, but only the entitlement in force, also when it is not new: those between are history."""
        await self._require_known(key, after)
        found = await self.in_force(key)
        yield Page((found.entitlement,), found.position)

    async def _require_known(self, key: str, position: Position) -> None:
        """Raises LogRewound when billing's log does not have the position."""
        after = feed_pb2.Position(sequence=position.sequence, commit_id=position.commit_id)
        request = entitlements_pb2.ReadEntitlementsRequest(organization_id=key, after=after)
        try:
            await self._stub.ReadEntitlements(request)
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "billing") from error

    async def in_force(self, organization_id: str) -> InForce:
        request = entitlements_pb2.ReadEntitlementsRequest(organization_id=organization_id)
        try:
            response = await self._stub.ReadEntitlements(request)
        except grpc.aio.AioRpcError as error:
            raise refusal_from_call(error, "billing") from error
        if not response.entitlements:
            raise DependencyUnavailable(dependency=f"billing's entitlement of {organization_id}")
        position = Position(response.position.sequence, response.position.commit_id)
        return InForce(entitlement_from_pb(response.entitlements[-1]), position)


def entitlement_from_pb(message: entitlements_pb2.Entitlement) -> Entitlement:
    """The entitlement. An unknown status or kind of limit is an error: neither may pass for "no limit"."""
    return Entitlement(
        organization_id=message.organization_id,
        version=message.version,
        plan_id=message.plan_id,
        standing=_STANDINGS[message.status],
        period=Period(message.period_start_time.ToMicroseconds(), message.period_end_time.ToMicroseconds()),
        limits=tuple(_limit_from_pb(meter) for meter in message.meters),
    )


def _limit_from_pb(message: catalog_pb2.PlanMeter) -> Limit:
    value = message.limit_quantity if message.HasField("limit_quantity") else None
    return plan_limit(message.meter, _KINDS[message.limit_kind], value, message.grace_percent)
