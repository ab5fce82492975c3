"""PaymentService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_to_pb
from kit.money import Money
from services.billing.application.ports.books import Books
from services.billing.application.settle_invoice import SettleInvoice
from services.billing.application.settle_purchase import purchase_standing
from services.billing.domain.dunning import Dunning
from services.billing.domain.payments import Settlement
from services.billing.domain.purchases import PurchaseStanding
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund
from services.billing.rpc.convert import invoice_to_pb
from tollbook.billing.v1 import billing_pb2, payments_pb2, payments_pb2_grpc

_Settle = (
    payments_pb2.VoidInvoiceRequest | payments_pb2.MarkInvoiceUncollectibleRequest | payments_pb2.MarkInvoicePaidRequest
)


class PaymentServicer(payments_pb2_grpc.PaymentServiceServicer):
    """What becomes of an invoice after it is finalized."""

    service_name: ClassVar[str] = "tollbook.billing.v1.PaymentService"

    def __init__(self, *, books: Books, settle_invoice: SettleInvoice, exists: OrganizationExists) -> None:
        self._books = books
        self._settle_invoice = settle_invoice
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        payments_pb2_grpc.add_PaymentServiceServicer_to_server(self, server)

    async def VoidInvoice(
        self, request: payments_pb2.VoidInvoiceRequest, context: ServicerContext
    ) -> payments_pb2.VoidInvoiceResponse:
        """See the proto."""
        return payments_pb2.VoidInvoiceResponse(invoice=await self._settle(request, Settlement.VOID))

    async def MarkInvoiceUncollectible(
        self, request: payments_pb2.MarkInvoiceUncollectibleRequest, context: ServicerContext
    ) -> payments_pb2.MarkInvoiceUncollectibleResponse:
        """See the proto."""
        invoice = await self._settle(request, Settlement.UNCOLLECTIBLE)
        return payments_pb2.MarkInvoiceUncollectibleResponse(invoice=invoice)

    async def MarkInvoicePaid(
        self, request: payments_pb2.MarkInvoicePaidRequest, context: ServicerContext
    ) -> payments_pb2.MarkInvoicePaidResponse:
        """See the proto."""
        return payments_pb2.MarkInvoicePaidResponse(invoice=await self._settle(request, Settlement.PAID_OUTSIDE))

    async def GetInvoicePayments(
        self, request: payments_pb2.GetInvoicePaymentsRequest, context: ServicerContext
    ) -> payments_pb2.GetInvoicePaymentsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        async with self._books.read(organization_id) as book:
            invoice = await book.invoices.get(request.invoice_id)
            refunds = await book.payments.refunds(invoice.invoice_id)
            disputes = await book.payments.disputes(invoice.invoice_id)
            purchase = await purchase_standing(book, invoice)
            dunnings = [each for each in await book.dunning.open_ones() if each.invoice_id == invoice.invoice_id]
        return payments_pb2.GetInvoicePaymentsResponse(
            refunds=[_refund_to_pb(each) for each in refunds],
            disputes=[_dispute_to_pb(each) for each in disputes],
            dunning=_dunning_to_pb(dunnings[0]) if dunnings else None,
            credit_purchase=None if purchase is None else _purchase_to_pb(purchase),
        )

    async def _settle(self, request: _Settle, settlement: Settlement) -> billing_pb2.Invoice:
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        invoice = await self._settle_invoice(
            organization_id, request.invoice_id, settlement, request_id=request.request_id, actor=current_actor()
        )
        return invoice_to_pb(invoice)


def _refund_to_pb(refund: StripeRefund) -> payments_pb2.Refund:
    return payments_pb2.Refund(
        stripe_refund_id=refund.stripe_refund_id,
        amount=str(Money(refund.amount_minor, refund.currency_code)),
        currency_code=refund.currency_code,
        status=refund.status,
    )


def _dispute_to_pb(dispute: StripeDispute) -> payments_pb2.Dispute:
    return payments_pb2.Dispute(
        stripe_dispute_id=dispute.stripe_dispute_id,
        amount=str(Money(dispute.amount_minor, dispute.currency_code)),
        currency_code=dispute.currency_code,
        status=dispute.status,
        reason=dispute.reason,
        open=dispute.is_open,
    )


def _purchase_to_pb(standing: PurchaseStanding) -> payments_pb2.CreditPurchase:
    return payments_pb2.CreditPurchase(
        amount=str(standing.purchase.amount),
        granted=str(standing.granted),
        taken_back=str(standing.taken_back),
        revoked=str(standing.revoked),
        missing=str(standing.missing),
    )


def _dunning_to_pb(dunning: Dunning) -> payments_pb2.Dunning:
    return payments_pb2.Dunning(
        begin_time=moment_to_pb(dunning.begin_time), steps=sorted(dunning.done), suspending=dunning.is_suspending
    )
