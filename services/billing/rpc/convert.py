"""Invoices on the wire and in the domain."""

from __future__ import annotations

import base64
import binascii

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import InvalidField, LimitExceeded
from kit.grpc.convert import moment_from_pb, moment_to_pb
from kit.money import format_decimal
from services.billing.domain import limits
from services.billing.domain.invoices import Invoice, InvoiceFilters, InvoiceKey, InvoiceState, Line
from tollbook.billing.v1 import billing_pb2

_NANOS_PER_MICROSECOND = 1_000


def invoice_to_pb(invoice: Invoice) -> billing_pb2.Invoice:
    """The invoice, or the preview of one."""
    return billing_pb2.Invoice(
        invoice_id=invoice.invoice_id,
        organization_id=invoice.organization_id,
        number=invoice.number,
        state=billing_pb2.InvoiceState.Value(f"INVOICE_STATE_{invoice.state.value}"),
        currency_code=invoice.total.currency_code,
        total=str(invoice.total),
        lines=[_line_to_pb(line) for line in invoice.lines],
        period_start_time=moment_to_pb(invoice.period.start),
        period_end_time=moment_to_pb(invoice.period.end),
        closed_through_sequence=invoice.closed_through_sequence,
        plan_id=invoice.plan_id,
        plan_version=invoice.plan_version,
        finalize_time=None if invoice.finalize_time is None else moment_to_pb(invoice.finalize_time),
        stripe_invoice_id=invoice.stripe_invoice_id,
        subtotal=str(invoice.subtotal),
        tax=str(invoice.tax),
        credits=str(invoice.credits),
        cut=billing_pb2.InvoiceCut.Value(f"INVOICE_CUT_{invoice.cut.value}"),
        subscription_id=invoice.subscription_id,
        legal_entity_id=invoice.legal_entity_id,
        due_time=None if invoice.due_time is None else moment_to_pb(invoice.due_time),
    )


def invoice_filters_from_pb(request: billing_pb2.ListInvoicesRequest) -> InvoiceFilters:
    """Which invoices are asked for. Raises InvalidField."""
    states = frozenset(InvoiceState[_state_name(state)] for state in request.states)
    return InvoiceFilters(
        states=states,
        finalized_from=moment_from_pb(request.start_time, "start_time") if request.HasField("start_time") else None,
        finalized_before=moment_from_pb(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def _state_name(state: int) -> str:
    # A number that no name stands for comes from a newer client than this server.
    if state not in billing_pb2.InvoiceState.values() or state == billing_pb2.INVOICE_STATE_UNSPECIFIED:
        raise InvalidField(field="states", problem="not a state of an invoice")
    name: str = billing_pb2.InvoiceState.Name(billing_pb2.InvoiceState.ValueType(state))
    return name.removeprefix("INVOICE_STATE_")


def _line_to_pb(line: Line) -> billing_pb2.InvoiceLine:
    return billing_pb2.InvoiceLine(
        kind=billing_pb2.InvoiceLineKind.Value(f"INVOICE_LINE_KIND_{line.kind.value}"),
        description=line.description,
        amount=str(line.amount),
        meter=line.meter,
        used_quantity=line.used_quantity,
        included_quantity=line.included_quantity,
        charged_quantity=line.charged_quantity,
        unit_price="" if line.unit_price is None else format_decimal(line.unit_price),
        start_time=moment_to_pb(line.period.start),
        end_time=moment_to_pb(line.period.end),
        difference_quantity=line.difference_quantity,
        first_sequence=line.first_sequence,
        last_sequence=line.last_sequence,
        corrects_invoice_id=line.corrects_invoice_id,
        charge_id="" if line.key is None else line.key.charge_id,
    )


def page_size_from_pb(page_size: int) -> int:
    """How many invoices a page may have; 0 means the default. Raises LimitExceeded and InvalidField."""
    if page_size < 0:
        raise InvalidField(field="page_size", problem="negative")
    if page_size > limits.PAGE_INVOICES_MAX:
        raise LimitExceeded(what="page_size", actual=page_size, maximum=limits.PAGE_INVOICES_MAX)
    return page_size or limits.PAGE_INVOICES


def page_token_to_pb(key: InvoiceKey) -> str:
    """The token of the page after the invoice: opaque to callers."""
    return base64.urlsafe_b64encode(f"{unix_microseconds(key.finalize_time)}:{key.invoice_id}".encode()).decode()


def page_token_from_pb(token: str) -> InvoiceKey | None:
    """The invoice that the page comes after; None for the first page. Raises InvalidField."""
    if not token:
        return None
    try:
        microseconds, _, invoice_id = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(":")
        if invoice_id.isprintable():
            return InvoiceKey(from_unix_microseconds(int(microseconds)), invoice_id)
    except (binascii.Error, ValueError, OverflowError):
        pass
    raise InvalidField(field="page_token", problem="not one that ListInvoices gave")
