"""BillingService."""

from __future__ import annotations

from typing import ClassVar

import grpc
from google.api.httpbody_pb2 import HttpBody

from kit.errors import InvalidField, ScopeMissing
from kit.grpc.call import CallerKind, OrganizationExists, current_actor, current_principal, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from services.billing.application.begin_checkout import BeginCheckout
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.get_subscription_usage import GetSubscriptionUsage
from services.billing.application.list_entitlements import ListEntitlements
from services.billing.application.open_portal import OpenPortal
from services.billing.application.pause_subscription import PauseSubscription
from services.billing.application.ports.books import Books
from services.billing.application.preview_invoice import PreviewInvoice
from services.billing.application.print_papers import PrintPapers
from services.billing.application.resume_subscription import ResumeSubscription
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.invoices import InvoiceKey
from services.billing.domain.lifecycle import ChangeTime
from services.billing.rpc.convert import (
    invoice_filters_from_pb,
    invoice_to_pb,
    page_size_from_pb,
    page_token_from_pb,
    page_token_to_pb,
)
from services.billing.rpc.convert_papers import file_to_pb
from services.billing.rpc.convert_subscriptions import (
    change_time_from_pb,
    custom_terms_from_pb,
    entitlements_to_pb,
    period_count_from_pb,
    start_time_from_pb,
    subscription_to_pb,
    usage_to_pb,
)
from tollbook.billing.v1 import billing_pb2, billing_pb2_grpc

_PREVIEW = "preview"
"""In place of an invoice's id."""


class BillingServicer(billing_pb2_grpc.BillingServiceServicer):
    """Subscriptions and invoices of one organization."""

    service_name: ClassVar[str] = "tollbook.billing.v1.BillingService"

    def __init__(
        self,
        *,
        books: Books,
        subscription_in_force: SubscriptionInForce,
        create_subscription: CreateSubscription,
        change_plan: ChangePlan,
        cancel_subscription: CancelSubscription,
        pause_subscription: PauseSubscription,
        resume_subscription: ResumeSubscription,
        get_subscription_usage: GetSubscriptionUsage,
        list_entitlements: ListEntitlements,
        preview_invoice: PreviewInvoice,
        close_billing_period: CloseBillingPeriod,
        begin_checkout: BeginCheckout,
        open_portal: OpenPortal,
        print_papers: PrintPapers,
        exists: OrganizationExists,
    ) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._create_subscription = create_subscription
        self._change_plan = change_plan
        self._cancel_subscription = cancel_subscription
        self._pause_subscription = pause_subscription
        self._resume_subscription = resume_subscription
        self._get_subscription_usage = get_subscription_usage
        self._list_entitlements = list_entitlements
        self._preview_invoice = preview_invoice
        self._close_billing_period = close_billing_period
        self._begin_checkout = begin_checkout
        self._open_portal = open_portal
        self._print_papers = print_papers
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
        standing = await self._create_subscription(
            await organization_of(wanted.organization_id, exists=self._exists),
            wanted.plan_id,
            start_time=start_time_from_pb(wanted),
            currency_code=wanted.currency_code,
            trial_days=request.trial_days if request.HasField("trial_days") else None,
            terms=custom_terms_from_pb(request.custom_terms) if request.HasField("custom_terms") else None,
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

    async def ChangePlan(
        self, request: billing_pb2.ChangePlanRequest, context: ServicerContext
    ) -> billing_pb2.ChangePlanResponse:
        """See the proto."""
        if request.HasField("custom_terms") and current_principal().kind is not CallerKind.ADMIN:
            raise ScopeMissing(method="ChangePlan with custom_terms", scope="SCOPE_OPERATOR")
        if not request.plan_id:
            raise InvalidField(field="plan_id", problem="required")
        standing = await self._change_plan(
            await organization_of(request.organization_id, exists=self._exists),
            request.plan_id,
            change_time=change_time_from_pb(request.change_time),
            terms=custom_terms_from_pb(request.custom_terms) if request.HasField("custom_terms") else None,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return billing_pb2.ChangePlanResponse(subscription=subscription_to_pb(standing))

    async def CancelSubscription(
        self, request: billing_pb2.CancelSubscriptionRequest, context: ServicerContext
    ) -> billing_pb2.CancelSubscriptionResponse:
        """See the proto."""
        standing = await self._cancel_subscription(
            await organization_of(request.organization_id, exists=self._exists),
            change_time=change_time_from_pb(request.change_time) or ChangeTime.AT_PERIOD_END,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return billing_pb2.CancelSubscriptionResponse(subscription=subscription_to_pb(standing))

    async def PauseSubscription(
        self, request: billing_pb2.PauseSubscriptionRequest, context: ServicerContext
    ) -> billing_pb2.PauseSubscriptionResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        standing = await self._pause_subscription(organization_id, request_id=request.request_id, actor=current_actor())
        return billing_pb2.PauseSubscriptionResponse(subscription=subscription_to_pb(standing))

    async def ResumeSubscription(
        self, request: billing_pb2.ResumeSubscriptionRequest, context: ServicerContext
    ) -> billing_pb2.ResumeSubscriptionResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        standing = await self._resume_subscription(
            organization_id, request_id=request.request_id, actor=current_actor()
        )
        return billing_pb2.ResumeSubscriptionResponse(subscription=subscription_to_pb(standing))

    async def GetSubscriptionUsage(
        self, request: billing_pb2.GetSubscriptionUsageRequest, context: ServicerContext
    ) -> billing_pb2.GetSubscriptionUsageResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        period_count = period_count_from_pb(request.period_count)
        return usage_to_pb(await self._get_subscription_usage(organization_id, period_count=period_count))

    async def ListEntitlements(
        self, request: billing_pb2.ListEntitlementsRequest, context: ServicerContext
    ) -> billing_pb2.ListEntitlementsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return entitlements_to_pb(await self._list_entitlements(organization_id))

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
        start = None
        if request.HasField("period_start_time"):
            start = moment_from_pb(request.period_start_time, "period_start_time")
        invoice = await self._close_billing_period(
            organization_id,
            subscription_id=request.subscription_id,
            period_start=start,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return billing_pb2.CloseBillingPeriodResponse(invoice=None if invoice is None else invoice_to_pb(invoice))

    async def ListInvoices(
        self, request: billing_pb2.ListInvoicesRequest, context: ServicerContext
    ) -> billing_pb2.ListInvoicesResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        count = page_size_from_pb(request.page_size)
        before = page_token_from_pb(request.page_token)
        filters = invoice_filters_from_pb(request)
        async with self._books.read(organization_id) as book:
            found = await book.invoices.newest_first(before=before, count=count + 1, filters=filters)
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

    async def CreateCheckoutSession(
        self, request: billing_pb2.CreateCheckoutSessionRequest, context: ServicerContext
    ) -> billing_pb2.CreateCheckoutSessionResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        page = await self._begin_checkout(
            organization_id,
            request.plan_id,
            success_url=request.success_url,
            cancel_url=request.cancel_url,
            request_id=request.request_id,
        )
        return billing_pb2.CreateCheckoutSessionResponse(url=page.url, stripe_checkout_id=page.stripe_id)

    async def CreatePortalSession(
        self, request: billing_pb2.CreatePortalSessionRequest, context: ServicerContext
    ) -> billing_pb2.CreatePortalSessionResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        page = await self._open_portal(organization_id, return_url=request.return_url)
        return billing_pb2.CreatePortalSessionResponse(url=page.url)

    async def GetInvoicePdf(self, request: billing_pb2.GetInvoicePdfRequest, context: ServicerContext) -> HttpBody:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        if request.invoice_id == _PREVIEW:
            return file_to_pb(await self._print_papers.preview(organization_id))
        return file_to_pb(await self._print_papers.invoice(organization_id, request.invoice_id))
