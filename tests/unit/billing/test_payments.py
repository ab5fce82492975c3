from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kit.money import Money
from services.billing.domain.invoices import InvoiceState, Line, LineKind
from services.billing.domain.payments import Settlement, lines_that_fit, state_told, states_before
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus

PERIOD = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def theirs(status: StripeInvoiceStatus, *, has_failed: bool = False) -> StripeInvoice:
    return StripeInvoice(
        stripe_invoice_id="in_1",
        status=status,
        stripe_customer_id="cus_1",
        organization_id="acme",
        invoice_id="inv_1",
        number="TB-000001",
        total_minor=5399,
        currency_code="USD",
        has_failed=has_failed,
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (StripeInvoiceStatus.DRAFT, None),
        (StripeInvoiceStatus.OPEN, None),
        (StripeInvoiceStatus.PAID, InvoiceState.PAID),
        (StripeInvoiceStatus.VOID, InvoiceState.VOID),
        (StripeInvoiceStatus.UNCOLLECTIBLE, InvoiceState.UNCOLLECTIBLE),
    ],
)
def test_our_invoice_has_the_state_of_theirs(status: StripeInvoiceStatus, state: InvoiceState | None) -> None:
    assert state_told(theirs(status)) is state


def test_an_open_invoice_whose_payment_failed_is_past_due() -> None:
    assert state_told(theirs(StripeInvoiceStatus.OPEN, has_failed=True)) is InvoiceState.PAST_DUE


def test_a_payment_is_never_taken_back_by_what_is_told_later() -> None:
    for state in InvoiceState:
        assert InvoiceState.PAID not in states_before(state)
        assert InvoiceState.VOID not in states_before(state)
        assert InvoiceState.DRAFT not in states_before(state)


def test_what_was_given_up_can_still_be_paid() -> None:
    assert InvoiceState.UNCOLLECTIBLE in states_before(InvoiceState.PAID)


def test_every_settlement_is_a_state() -> None:
    assert [each.state for each in Settlement] == [InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE, InvoiceState.PAID]


def lines(*amounts: int) -> tuple[Line, ...]:
    return tuple(
        Line(kind=LineKind.BASE_FEE, description=f"line {number}", amount=Money(minor, "USD"), period=PERIOD)
        for number, minor in enumerate(amounts)
    )


def test_lines_that_fit_are_shown_one_by_one() -> None:
    shown = lines_that_fit(lines(1, 2, 3), 3)
    assert [(each.amount_minor, each.description) for each in shown] == [(1, "line 0"), (2, "line 1"), (3, "line 2")]


def test_b41_more_lines_than_the_collector_takes_are_summed_up_in_the_last_one() -> None:
    shown = lines_that_fit(lines(1, 2, 3, -5), 3)
    assert [(each.amount_minor, each.description) for each in shown] == [
        (1, "line 0"),
        (2, "line 1"),
        (-2, "2 further lines"),
    ]
