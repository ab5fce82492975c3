"""A due less what is invoiced, and what follows from the sum."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.money import Money
from services.billing.domain.closing import Scope
from services.billing.domain.credits import CreditGrant, CreditSource, GrantStanding
from services.billing.domain.dues import Category, Due, DueKey, DueKind, MeteredQuantities
from services.billing.domain.invoices import Line, LineKind, total_of
from services.billing.domain.invoicing import Invoiced, difference_lines, settled
from services.billing.domain.periods import Period

START = datetime(2026, 1, 1, tzinfo=UTC)
MONTH = Period(START, datetime(2026, 2, 1, tzinfo=UTC))
SCOPE = Scope(periods=(MONTH,), base_after=START, base_through=MONTH.end)


def due(kind: DueKind, cents: int, *, used: int = 0, interval: Period = MONTH) -> Due:
    category = Category.BASE if kind is DueKind.BASE_FEE else Category.USAGE
    quantities = MeteredQuantities(
        meter="calls", used_quantity=used, included_quantity=0, charged_quantity=used, unit_price=None
    )
    return Due(
        key=DueKey(kind=kind, category=category, interval=interval, charge_id="charge", segment_start=interval.start),
        amount=Money(cents, "USD"),
        interval=interval,
        description="something",
        plan_id="starter",
        quantities=quantities if kind is DueKind.OVERAGE else None,
    )


def invoiced(cents: int, *, used: int = 0, last_sequence: int = 0) -> Invoiced:
    return Invoiced(
        amount=Money(cents, "USD"),
        used_quantity=used,
        meter="calls" if used else "",
        last_sequence=last_sequence,
        segment=MONTH,
        invoice_id="inv-1",
        invoice_number="TB-000001",
    )


def difference(one: Due, before: Invoiced | None) -> tuple[Line, ...]:
    return difference_lines([one], {one.key: before} if before else {}, SCOPE, through_sequence=9)


@pytest.mark.parametrize("kind", DueKind)
def test_what_was_never_invoiced_is_a_line_of_its_own_kind(kind: DueKind) -> None:
    (line,) = difference(due(kind, 100), None)
    assert (line.kind.name, line.amount, line.description) == (kind.name, Money(100, "USD"), "something")
    assert line.corrects_invoice_id == ""


@pytest.mark.parametrize(("kind", "shown"), [(kind, kind.name in ("BASE_FEE", "OVERAGE")) for kind in DueKind])
def test_a_first_line_over_nothing_is_shown_for_a_price_and_for_usage(kind: DueKind, *, shown: bool) -> None:
    assert bool(difference(due(kind, 0), None)) is shown


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DueKind.BASE_FEE, LineKind.PRORATION),
        (DueKind.FLAT_FEE, LineKind.PRORATION),
        (DueKind.OVERAGE, LineKind.ADJUSTMENT),
        (DueKind.MINIMUM, LineKind.ADJUSTMENT),
        (DueKind.DISCOUNT, LineKind.DISCOUNT),
    ],
)
def test_what_was_invoiced_differently_is_a_correction_by_the_difference(kind: DueKind, name: LineKind) -> None:
    (line,) = difference(due(kind, 100), invoiced(130))
    assert (line.kind, line.amount, line.corrects_invoice_id) == (name, Money(-30, "USD"), "inv-1")
    assert line.description == "Correction of TB-000001: something"


@pytest.mark.parametrize("kind", DueKind)
def test_what_is_invoiced_already_makes_no_line(kind: DueKind) -> None:
    assert difference(due(kind, 100), invoiced(100)) == ()


def test_what_is_no_longer_due_at_all_is_taken_back_once() -> None:
    gone = due(DueKind.OVERAGE, 0).key
    (line,) = difference_lines([], {gone: invoiced(130, used=7, last_sequence=4)}, SCOPE, through_sequence=9)
    assert (line.kind, line.amount, line.difference_quantity) == (LineKind.ADJUSTMENT, Money(-130, "USD"), -7)
    assert (line.first_sequence, line.last_sequence) == (4, 9)
    assert line.description == "Correction of TB-000001: not due, 1 Jan 2026 to 1 Feb 2026"
    assert difference_lines([], {gone: invoiced(0, used=7)}, SCOPE, through_sequence=9) == ()


@pytest.mark.parametrize(
    ("due_now", "held", "taken_back", "expected"),
    [
        (49, 49, 49, 0),  # voided: not charged again,
        (24, 49, 49, 0),  # nor given back for what is not used,
        (0, 49, 49, 0),
        (60, 49, 49, 11),  # but what comes on top is charged.
        (24, 49, 10, -15),  # A credit note of a part counts for what falls away first.
        (0, 49, 10, -39),
        (49, 49, 10, 0),
        (24, 24, -25, 0),  # A voided invoice had given 25 of 49 back:
        (30, 24, -25, 0),
        (49, 24, -25, 0),  # it did not, so that is not charged again;
        (20, 24, -25, -4),
        (55, 24, -25, 6),
    ],
)
def test_what_was_taken_back_is_neither_charged_again_nor_given_back_again(
    due_now: int, held: int, taken_back: int, expected: int
) -> None:
    before = replace(invoiced(held), taken_back_minor=taken_back)
    lines = difference(due(DueKind.BASE_FEE, due_now), before)
    assert sum(line.amount.minor for line in lines) == expected
    if due_now == 0:
        gone = difference_lines([], {due(DueKind.BASE_FEE, 0).key: before}, SCOPE, through_sequence=9)
        assert sum(line.amount.minor for line in gone) == expected


def test_what_is_out_of_scope_is_neither_invoiced_nor_taken_back() -> None:
    before = Period(START - timedelta(days=31), START)
    old, other = due(DueKind.OVERAGE, 100, interval=before), due(DueKind.BASE_FEE, 100, interval=before)
    assert difference_lines([old, other], {old.key: invoiced(1)}, SCOPE, through_sequence=9) == ()
    only = replace(SCOPE, base_only=Period(MONTH.end, MONTH.end + timedelta(days=28)))
    assert difference_lines([due(DueKind.BASE_FEE, 100)], {}, only, through_sequence=9) == ()


def test_a_usage_line_cites_what_was_recorded_since_the_one_before() -> None:
    (first,) = difference(due(DueKind.OVERAGE, 100, used=10), None)
    assert (first.used_quantity, first.difference_quantity) == (10, 10)
    assert (first.first_sequence, first.last_sequence) == (0, 9)
    (later,) = difference(due(DueKind.OVERAGE, 130, used=13), invoiced(100, used=10, last_sequence=6))
    assert (later.used_quantity, later.difference_quantity) == (13, 3)
    assert (later.first_sequence, later.last_sequence) == (6, 9)


# --- what follows from the sum


def charge(minor: int, currency_code: str = "USD") -> tuple[Line, ...]:
    amount = Money(minor, currency_code)
    return (Line(kind=LineKind.BASE_FEE, description="a charge", amount=amount, period=MONTH),)


def granted(minor: int, *, grant_id: str = "g", currency_code: str = "USD") -> GrantStanding:
    amount = Money(minor, currency_code)
    grant = CreditGrant(
        grant_id=grant_id,
        amount=amount,
        priority=0,
        grant_time=START,
        expire_time=None,
        source=CreditSource.OPERATOR,
    )
    return GrantStanding(grant=grant, available=amount)


@pytest.mark.parametrize(("available", "left"), [(0, 100), (30, 70), (100, 0), (130, 0)])
def test_credits_pay_what_they_can_and_no_more_than_there_is(available: int, left: int) -> None:
    standings = [granted(available)] if available else []
    result = settled(charge(100), standings, period=MONTH, currency_code="USD", now=START)
    assert total_of(result.lines, "USD") == Money(left, "USD")
    assert sum(use.amount.minor for use in result.uses) == 100 - left
    assert [line.kind for line in result.lines[1:]] == ([LineKind.CREDIT] if available else [])
    assert result.to_credit is None


def test_what_is_below_zero_is_put_to_the_customers_credit_and_no_credit_is_used() -> None:
    result = settled(charge(-100), [granted(500)], period=MONTH, currency_code="USD", now=START)
    assert total_of(result.lines, "USD") == Money(0, "USD")
    assert (result.uses, result.to_credit) == ((), Money(100, "USD"))
    assert result.lines[-1].kind is LineKind.TO_CREDIT


@pytest.mark.parametrize(("minor", "rounding"), [(1_004, -4), (1_005, 5), (1_010, None), (0, None)])
def test_a_total_is_rounded_to_what_can_be_charged(minor: int, rounding: int | None) -> None:
    result = settled(charge(minor, "KWD"), [], period=MONTH, currency_code="KWD", now=START)
    assert [line.amount.minor for line in result.lines[1:]] == ([] if rounding is None else [rounding])
    assert total_of(result.lines, "KWD").minor % 10 == 0


def test_what_credits_leave_is_rounded_after_them() -> None:
    standings = [granted(7, currency_code="KWD")]
    result = settled(charge(1_000, "KWD"), standings, period=MONTH, currency_code="KWD", now=START)
    assert [line.kind for line in result.lines[1:]] == [LineKind.CREDIT, LineKind.ROUNDING]
    assert total_of(result.lines, "KWD") == Money(990, "KWD")
