"""Invoicing: what is due less what is invoiced, by key, and what follows from the sum of that.

Nothing else makes a line. So invoicing again makes none, and whatever changed since - late usage, another plan, an
end - is the difference under a key that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kit.money import Money
from services.billing.domain.closing import Scope
from services.billing.domain.coupons import Discountable, DiscountCategory, Redemption, discount_dues
from services.billing.domain.credits import CreditUse, GrantStanding, apply_credits
from services.billing.domain.dues import Category, Due, DueKey, DueKind
from services.billing.domain.invoices import Line, LineKind, total_of
from services.billing.domain.periods import Period
from services.billing.domain.tax import TaxRate, tax_lines
from services.billing.domain.timeline import Timeline
from services.billing.domain.wording import (
    CREDIT_TEXT,
    ROUNDING_TEXT,
    TO_CREDIT_TEXT,
    correction_text,
    withdrawal_text,
)

_SHOWN_AT_ZERO = frozenset({DueKind.BASE_FEE, DueKind.OVERAGE})
"""What an invoice says the first time even when it comes to nothing: a customer looks for it."""
_BY_TIME = frozenset({DueKind.BASE_FEE, DueKind.FLAT_FEE})
_CATEGORIES = tuple(Category)
_KINDS = tuple(DueKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoiced:
    """What all invoices together hold under one key."""

    amount: Money
    used_quantity: int
    meter: str
    last_sequence: int
    """The last event that any of them could see of it."""
    segment: Period
    """What the latest of them charged."""
    invoice_id: str
    """The latest of them."""
    invoice_number: str
    taken_back_minor: int = 0
    """What of the amount was taken back, by voiding or credit notes: not charged again, and not given back again."""

    def difference_minor(self, due_minor: int) -> int:
        """What is still to be invoiced when so much is due. Of what falls away, nothing is given back that was taken
        back before: who owes it no longer has not paid it.
        """
        further = due_minor - self.amount.minor
        low, high = sorted((-self.taken_back_minor, 0))
        return further - min(max(further, low), high)


def discounted(timeline: Timeline, dues: Sequence[Due], redemptions: Sequence[Redemption]) -> list[Due]:
    """The dues, and after them what the redemptions take off. All dues of an interval are to be handed in together."""
    # A month and a year from one anchor begin together; what is taken off one is not taken off the other.
    by_interval: dict[tuple[Category, Period], list[Due]] = {}
    for due in dues:
        by_interval.setdefault((due.key.category, due.key.interval), []).append(due)
    taken = [
        _discount_due(category, interval, discount.redemption.redemption_id, discount.amount, discount.text)
        for (category, interval), group in by_interval.items()
        for discount in discount_dues(redemptions, [_discountable(due) for due in group], anchor=timeline.anchor)
    ]
    return [*dues, *taken]


def difference_lines(
    dues: Iterable[Due], invoiced: Mapping[DueKey, Invoiced], scope: Scope, *, through_sequence: int
) -> tuple[Line, ...]:
    """What is due less what is invoiced, of what the scope holds: a line for each key that differs. What was invoiced
    and is no longer due at all is taken back. through_sequence: the last event that the dues could see.
    """
    held = [due for due in dues if scope.holds(due.key)]
    lines = [line for due in held if (line := _due_line(due, invoiced.get(due.key), through_sequence)) is not None]
    due_keys = {due.key for due in held}
    lines += [
        _withdrawal_line(key, before, through_sequence)
        for key, before in invoiced.items()
        if scope.holds(key) and key not in due_keys and before.difference_minor(0)
    ]
    return tuple(sorted(lines, key=_place))


def tax_of(lines: Sequence[Line], rates: Sequence[TaxRate], *, period: Period, currency_code: str) -> tuple[Line, ...]:
    """The taxes on the sum of the lines, one for each rate. No lines, no taxes."""
    if not lines:
        return ()
    return tuple(
        Line(kind=LineKind.TAX, description=tax.text, amount=tax.amount, period=period)
        for tax in tax_lines(rates, total_of(lines, currency_code))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An invoice's lines to the last one, and what they do to the customer's credits."""

    lines: tuple[Line, ...]
    uses: tuple[CreditUse, ...]
    """What prepaid credits pay."""
    to_credit: Money | None
    """What is put to the customer's credit, above zero; None: nothing."""


def settled(
    lines: Sequence[Line], standings: Sequence[GrantStanding], *, period: Period, currency_code: str, now: datetime
) -> Settled:
    """What follows from the sum of the lines, taxes included: prepaid credits pay what they can of it, and the rest is
    rounded to what can be charged; a sum below zero is put to the customer's credit. So the sum of all lines is what
    is charged, and never below zero.
    """
    total = total_of(lines, currency_code)
    if total.minor < 0:
        owed = Money(-total.minor, currency_code)
        line = Line(kind=LineKind.TO_CREDIT, description=TO_CREDIT_TEXT, amount=owed, period=period)
        return Settled(lines=(*lines, line), uses=(), to_credit=owed)
    uses = apply_credits(standings, total, now)
    paid = sum(use.amount.minor for use in uses)
    credit = Line(kind=LineKind.CREDIT, description=CREDIT_TEXT, amount=Money(-paid, currency_code), period=period)
    rest = Money(total.minor - paid, currency_code)
    rounding = Line(
        kind=LineKind.ROUNDING, description=ROUNDING_TEXT, amount=rest.rounding_to_increment(), period=period
    )
    following = [line for line in (credit, rounding) if line.amount.minor]
    return Settled(lines=(*lines, *following), uses=uses, to_credit=None)


def _due_line(due: Due, before: Invoiced | None, through_sequence: int) -> Line | None:
    minor = before.difference_minor(due.amount.minor) if before else due.amount.minor
    if not minor and (before is not None or due.key.kind not in _SHOWN_AT_ZERO):
        return None
    quantities = due.quantities
    return Line(
        kind=_line_kind(due.key.kind, is_first=before is None),
        description=correction_text(due.description, before.invoice_number) if before else due.description,
        amount=Money(minor, due.amount.currency_code),
        period=due.interval,
        meter=quantities.meter if quantities else "",
        used_quantity=quantities.used_quantity if quantities else 0,
        included_quantity=quantities.included_quantity if quantities else 0,
        charged_quantity=quantities.charged_quantity if quantities else 0,
        unit_price=quantities.unit_price if quantities else None,
        difference_quantity=quantities.used_quantity - (before.used_quantity if before else 0) if quantities else 0,
        first_sequence=before.last_sequence if before and quantities else 0,
        last_sequence=through_sequence if quantities else 0,
        key=due.key,
        corrects_invoice_id=before.invoice_id if before else "",
    )


def _withdrawal_line(key: DueKey, before: Invoiced, through_sequence: int) -> Line:
    return Line(
        kind=_line_kind(key.kind, is_first=False),
        description=withdrawal_text(before.segment, before.invoice_number),
        amount=Money(before.difference_minor(0), before.amount.currency_code),
        period=before.segment,
        meter=before.meter,
        difference_quantity=-before.used_quantity,
        first_sequence=before.last_sequence if before.meter else 0,
        last_sequence=through_sequence if before.meter else 0,
        key=key,
        corrects_invoice_id=before.invoice_id,
    )


def _line_kind(kind: DueKind, *, is_first: bool) -> LineKind:
    if is_first or kind is DueKind.DISCOUNT:
        return LineKind[kind.name]
    return LineKind.PRORATION if kind in _BY_TIME else LineKind.ADJUSTMENT


def _place(line: Line) -> tuple[object, ...]:
    """First what is new, the price before usage; then corrections; within that by time. Equal ones stay as they are."""
    key = line.key
    if key is None:
        msg = "a line of a due has a key"
        raise AssertionError(msg)
    return (
        bool(line.corrects_invoice_id),
        _CATEGORIES.index(key.category),
        key.interval.start,
        key.interval.end,
        _KINDS.index(key.kind),
        key.segment_start,
    )


def _discountable(due: Due) -> Discountable:
    return Discountable(
        category=DiscountCategory[due.key.category.name],
        interval=due.key.interval,
        segment=due.interval,
        plan_id=due.plan_id,
        amount=due.amount,
    )


def _discount_due(category: Category, interval: Period, redemption_id: str, amount: Money, description: str) -> Due:
    key = DueKey(
        kind=DueKind.DISCOUNT,
        category=category,
        interval=interval,
        charge_id=redemption_id,
        segment_start=interval.start,
    )
    return Due(key=key, amount=amount, interval=interval, description=description, plan_id="")
