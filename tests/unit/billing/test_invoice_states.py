"""Where an invoice may go from where it stands."""

from __future__ import annotations

import pytest

from services.billing.domain.invoices import InvoiceState, can_become

OPEN, PAID, PAST_DUE = InvoiceState.FINALIZED, InvoiceState.PAID, InvoiceState.PAST_DUE
VOID, UNCOLLECTIBLE, DRAFT = InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE, InvoiceState.DRAFT


@pytest.mark.parametrize(
    ("current", "possible"),
    [
        (DRAFT, {OPEN, PAID}),
        (OPEN, {PAID, PAST_DUE, VOID, UNCOLLECTIBLE}),
        (PAST_DUE, {PAID, VOID, UNCOLLECTIBLE}),
        (UNCOLLECTIBLE, {PAID, VOID}),
        (PAID, set()),
        (VOID, set()),
    ],
)
def test_an_invoice_goes_only_where_it_may(current: InvoiceState, possible: set[InvoiceState]) -> None:
    assert {state for state in InvoiceState if can_become(current, state)} == possible


def test_a_final_invoice_never_becomes_a_draft_again() -> None:
    assert not any(can_become(state, DRAFT) for state in InvoiceState)
