"""What a credit note may take back, and where its money goes."""

from __future__ import annotations

import pytest

from kit.errors import InvalidField, InvalidState
from kit.money import Money
from services.billing.domain.credit_notes import (
    CitedLine,
    CreditDestination,
    CreditNoteLine,
    InvoiceLineLeft,
    LineRole,
    credit_note_lines,
    credit_note_number,
    split_credit,
)


def usd(cents: int) -> Money:
    return Money(cents, "USD")


def line(number: int, cents: int, role: LineRole = LineRole.CHARGE, credited: int = 0) -> InvoiceLineLeft:
    return InvoiceLineLeft(
        line_number=number, role=role, description=f"line {number}", amount=usd(cents), credited=usd(credited)
    )


# 49.00 base, 4.99 usage, 5.00 discount, 19 % tax on 48.99, 20.00 paid by credits.
INVOICE = [line(1, 4900), line(2, 499), line(3, -500), line(4, 931, LineRole.TAX), line(5, -2000, LineRole.PAYMENT)]


def amounts(lines: tuple[CreditNoteLine, ...]) -> dict[int, int]:
    return {each.line_number: each.amount.minor for each in lines}


def cite(number: int, cents: int | None = None) -> CitedLine:
    return CitedLine(line_number=number, amount=None if cents is None else usd(cents))


def test_a_credit_note_over_everything_takes_back_every_charge_and_its_tax() -> None:
    assert amounts(credit_note_lines(INVOICE, [])) == {1: 4900, 2: 499, 3: -500, 4: 931}


def test_tax_follows_what_is_cited_and_is_gone_with_the_last_charge() -> None:
    first = credit_note_lines(INVOICE, [cite(2)])
    assert amounts(first) == {2: 499, 4: 95}
    rest = [line(1, 4900), line(2, 499, credited=499), line(3, -500), line(4, 931, LineRole.TAX, credited=95)]
    assert amounts(credit_note_lines(rest, [])) == {1: 4900, 3: -500, 4: 836}


def test_no_line_gives_more_than_is_left_of_it() -> None:
    partly = [line(1, 4900, credited=4000), line(2, 499)]
    with pytest.raises(InvalidState, match=r"9\.00 is left"):
        credit_note_lines(partly, [cite(1, 901)])
    assert amounts(credit_note_lines(partly, [cite(1, 900)])) == {1: 900}


def test_all_together_give_no_more_than_the_charges_after_discounts() -> None:
    with pytest.raises(InvalidState, match=r"Only 48\.99"):
        credit_note_lines(INVOICE, [cite(1), cite(2)])


@pytest.mark.parametrize("number", [0, 4, 5, 6])
def test_only_lines_that_were_charged_can_be_cited(number: int) -> None:
    with pytest.raises(InvalidField):
        credit_note_lines(INVOICE, [cite(number, 1)])


@pytest.mark.parametrize("cents", [0, -1, -4900])
def test_an_amount_of_the_wrong_sign_or_of_nothing_is_refused(cents: int) -> None:
    with pytest.raises(InvalidState):
        credit_note_lines(INVOICE, [cite(1, cents)])


def test_a_credit_note_that_would_charge_is_refused() -> None:
    with pytest.raises(InvalidState, match="Nothing is left"):
        credit_note_lines(INVOICE, [cite(3)])


def test_an_invoice_that_was_taken_back_has_nothing_left() -> None:
    gone = [line(1, 4900, credited=4900), line(4, 931, LineRole.TAX, credited=931)]
    with pytest.raises(InvalidState, match="Nothing is left"):
        credit_note_lines(gone, [])


def test_a_line_twice_and_another_currency_are_refused() -> None:
    with pytest.raises(InvalidField, match="twice"):
        credit_note_lines(INVOICE, [cite(1, 1), cite(1, 1)])
    with pytest.raises(InvalidField, match="currency"):
        credit_note_lines(INVOICE, [CitedLine(line_number=1, amount=Money(1, "EUR"))])


@pytest.mark.parametrize(
    ("due", "refundable", "destination", "parts"),
    [
        (3830, 0, CreditDestination.CREDIT, (3830, 2000, 0)),
        (9000, 0, CreditDestination.REFUND, (5830, 0, 0)),
        (0, 3830, CreditDestination.REFUND, (0, 2000, 3830)),
        (0, 3830, CreditDestination.CREDIT, (0, 5830, 0)),
        (0, 0, CreditDestination.REFUND, (0, 5830, 0)),
    ],
)
def test_what_is_due_is_reduced_first_and_no_more_is_refunded_than_was_paid(
    due: int, refundable: int, destination: CreditDestination, parts: tuple[int, int, int]
) -> None:
    split = split_credit(usd(5830), due=usd(due), refundable=usd(refundable), destination=destination)
    assert (split.reduced.minor, split.credited.minor, split.refunded.minor) == parts


def test_numbers_of_credit_notes_are_padded() -> None:
    assert credit_note_number("CN", 7) == "CN-000007"
