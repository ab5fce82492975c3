"""BillingService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.ports.books import Books
from services.billing.application.preview_invoice import PreviewInvoice
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.invoices import InvoiceKey
from services.billing.rpc.convert import (
    invoice_to_pb,
    page_size_from_pb,
    page_token_from_pb,
    page_token_to_pb,
    subscription_to_pb,
)
from tollbook.billing.v1 import billing_pb2, billing_pb2_grpc


class BillingServicer(billing_pb2_grpc.BillingServiceServicer):
    """Subscriptions and invoices of one organization."""

    service_name: ClassVar[str] = "tollbook.billing.v1.BillingService"

    def __init__(
        self,
        *,
        books: Books,
        subscription_in_force: SubscriptionInForce,
        create_subscription: CreateSubscription,
        preview_invoice: PreviewInvoice,
        close_billing_period: CloseBillingPeriod,
        exists: OrganizationExists,
    ) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._create_subscription = create_subscription
        self._preview_invoice = preview_invoice
        self._close_billing_period = close_billing_period
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        billing_pb2_grpc.add_BillingServiceServicer_to_server(self, server)

    async def CreateSubscription(
        self, request: billing_pb2.CreateSubscriptionRequest, context: ServicerContext
    ) -> billing_pb2.CreateSubscriptionResponse:
        """See the proto."""
        wanted = request.subscription
        if not wanted.plan_id:
            raise InvalidField(field="subscription.plan_id", problem="required")
        start = moment_from_pb(wanted.start_time, "subscription.start_time") if wanted.HasField("start_time") else None
        standing = await self._create_subscription(
            await organization_of(wanted.organization_id, exists=self._exists),
            wanted.plan_id,
            start_time=start,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return billing_pb2.CreateSubscriptionResponse(subscription=subscription_to_pb(standing))

    async def GetSubscription(
        self, request: billing_pb2.GetSubscriptionRequest, context: ServicerContext
    ) -> billing_pb2.GetSubscriptionResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        standing = await self._subscription_in_force(organization_id)
        return billing_pb2.GetSubscriptionResponse(subscription=subscription_to_pb(standing))

    async def PreviewInvoice(
        self, request: billing_pb2.PreviewInvoiceRequest, context: ServicerContext
    ) -> billing_pb2.PreviewInvoiceResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return billing_pb2.PreviewInvoiceResponse(invoice=invoice_to_pb(await self._preview_invoice(organization_id)))

    async def CloseBillingPeriod(
        self, request: billing_pb2.CloseBillingPeriodRequest, context: ServicerContext
    ) -> billing_pb2.CloseBillingPeriodResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        invoice = await self._close_billing_period(
            organization_id, request_id=request.request_id, actor=current_actor()
        )
        return billing_pb2.CloseBillingPeriodResponse(invoice=invoice_to_pb(invoice))

    async def ListInvoices(
        self, request: billing_pb2.ListInvoicesRequest, context: ServicerContext
    ) -> billing_pb2.ListInvoicesResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        count = page_size_from_pb(request.page_size)
        before = page_token_from_pb(request.page_token)
        async with self._books.read(organization_id) as book:
            found = await book.invoices.newest_first(before=before, count=count + 1)
        page = found[:count]
        token = ""
        if len(found) > count and page[-1].finalize_time is not None:
            token = page_token_to_pb(InvoiceKey(page[-1].finalize_time, page[-1].invoice_id))
        return billing_pb2.ListInvoicesResponse(
            invoices=[invoice_to_pb(invoice) for invoice in page], next_page_token=token
        )

    async def GetInvoice(
        self, request: billing_pb2.GetInvoiceRequest, context: ServicerContext
    ) -> billing_pb2.GetInvoiceResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        async with self._books.read(organization_id) as book:
            invoice = await book.invoices.get(request.invoice_id)
        return billing_pb2.GetInvoiceResponse(invoice=invoice_to_pb(invoice))
