"""EntitlementFeedService: what organizations may use, for the other services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import ClassVar

import grpc

from kit.grpc.call import organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import head_to_pb, position_from_pb, position_to_pb
from kit.head_watch import HeadWatch
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.rpc.convert_subscriptions import entitlement_to_pb
from tollbook.billing.v1 import entitlements_pb2, entitlements_pb2_grpc


class EntitlementServicer(entitlements_pb2_grpc.EntitlementFeedServiceServicer):
    """Hands entitlements over."""

    service_name: ClassVar[str] = "tollbook.billing.v1.EntitlementFeedService"

    def __init__(self, *, heads: HeadWatch, read_entitlements: ReadEntitlements) -> None:
        self._heads = heads
        self._read_entitlements = read_entitlements

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(self, server)

    async def WatchHeads(
        self, request: entitlements_pb2.WatchHeadsRequest, context: ServicerContext
    ) -> AsyncIterator[entitlements_pb2.WatchHeadsResponse]:
        """See the proto."""
        async with aclosing(self._heads.watch()) as watch:
            async for heads in watch:
                yield entitlements_pb2.WatchHeadsResponse(heads=map(head_to_pb, heads))

    async def ReadEntitlements(
        self, request: entitlements_pb2.ReadEntitlementsRequest, context: ServicerContext
    ) -> entitlements_pb2.ReadEntitlementsResponse:
        """See the proto."""
        after = position_from_pb(request.after) if request.HasField("after") else None
        found = await self._read_entitlements(await organization_of(request.organization_id), after)
        return entitlements_pb2.ReadEntitlementsResponse(
            entitlements=[entitlement_to_pb(each) for each in found.entitlements],
            position=position_to_pb(found.position),
        )
