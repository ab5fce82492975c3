"""EntitlementFeedService: what organizations may use, for the other services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import grpc

from kit.feed import watch_by_polling
from kit.grpc.call import organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import position_from_pb, position_to_pb
from services.billing.application.ports import EntitlementHeads
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.rpc.convert import entitlement_to_pb
from tollbook.billing.v1 import entitlements_pb2, entitlements_pb2_grpc
from tollbook.feed.v1 import feed_pb2


class EntitlementServicer(entitlements_pb2_grpc.EntitlementFeedServiceServicer):
    """Hands entitlements over."""

    service_name: ClassVar[str] = "tollbook.billing.v1.EntitlementFeedService"

    def __init__(self, *, heads: EntitlementHeads, read_entitlements: ReadEntitlements) -> None:
        self._heads = heads
        self._read_entitlements = read_entitlements

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(self, server)

    async def WatchHeads(
        self, request: entitlements_pb2.WatchHeadsRequest, context: ServicerContext
    ) -> AsyncIterator[entitlements_pb2.WatchHeadsResponse]:
        """See the proto."""
        async for heads in watch_by_polling(self._heads.heads):
            yield entitlements_pb2.WatchHeadsResponse(
                heads=[
                    feed_pb2.Head(organization_id=head.key, position=position_to_pb(head.position)) for head in heads
                ]
            )

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
