"""StripeWebhookService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.context import ServicerContext
from services.billing.application.store_stripe_event import StoreStripeEvent
from tollbook.billing.v1 import stripe_webhook_pb2, stripe_webhook_pb2_grpc


class StripeWebhookServicer(stripe_webhook_pb2_grpc.StripeWebhookServiceServicer):
    """Takes Stripe's events."""

    service_name: ClassVar[str] = "tollbook.billing.v1.StripeWebhookService"

    def __init__(self, *, store_stripe_event: StoreStripeEvent) -> None:
        self._store_stripe_event = store_stripe_event

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        stripe_webhook_pb2_grpc.add_StripeWebhookServiceServicer_to_server(self, server)

    async def HandleStripeEvent(
        self, request: stripe_webhook_pb2.HandleStripeEventRequest, context: ServicerContext
    ) -> stripe_webhook_pb2.HandleStripeEventResponse:
        """See the proto."""
        await self._store_stripe_event(request.payload, request.signature)
        return stripe_webhook_pb2.HandleStripeEventResponse()
