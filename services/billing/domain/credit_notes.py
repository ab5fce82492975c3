"""Credit notes: what is taken back of an invoice that stays as it is, and where the money goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from fractions import Fraction

from kit.errors import InvalidField, InvalidState, LimitExceeded
from kit.money import Money, round_half_away
from services.billing.domain import limits

_NUMBER_DIGITS = 6


class CreditNoteReason(Enum):
    """Why it was written."""

    BILLING_ERROR = "BILLING_ERROR"
    DUPLICATE = "DUPLICATE"
    ORDER_CHANGE = "ORDER_CHANGE"
    GOODWILL = "GOODWILL"
    OTHER = "OTHER"


class CreditDestination(Enum):
    """Where the customer finds what was already paid."""

    CREDIT = "CREDIT"
    """As prepaid credit."""
    REFUND = "REFUND"
    """Back where it was paid from."""


class LineRole(Enum):
    """What a line is to a credit note."""

    CHARGE = "CHARGE"
    """What was sold, and discounts on it: can be cited."""
    TAX = "TAX"
    """Follows what is cited, in proportion."""
    PAYMENT = "PAYMENT"
    """Credits that paid, or what went to credit: no part of what was sold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLineLeft:
    """A line of an invoice, and what credit notes have taken back of it."""

    line_number: int
    """Its place on the invoice, from 1."""
    role: LineRole
    description: str
    amount: Money
    credited: Money
    """Of the sign of the amount, and never beyond it."""

    @property
    def left(self) -> Money:
        """What can still be taken back."""
        return Money(self.amount.minor - self.credited.minor, self.amount.currency_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class CitedLine:
    """What is to be taken back of a line."""

    line_number: int
    amount: Money | None
    """Before tax, of the sign of the line; None: all that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteLine:
    """What is taken back of a line."""

    line_number: int
    role: LineRole
    description: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSplit:
    """Where a credit note's total goes; the three add up to it."""

    reduced: Money
    """Off what is still due."""
    credited: Money
    """To prepaid credit."""
    refunded: Money
    """Back where it was paid from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """A correction of one invoice. It never changes."""

    credit_note_id: str
    number: str = ""
    """Of a series of its own, without gaps within the legal entity; empty before it has one."""
    organization_id: str
    invoice_id: str
    invoice_number: str
    legal_entity_id: str
    lines: tuple[CreditNoteLine, ...]
    total: Money
    """The sum of the lines, above zero."""
    split: CreditSplit
    reason: CreditNoteReason
    memo: str
    create_time: datetime
    stripe_credit_note_id: str = ""
    """Empty until it is there; it stays empty where nothing is for Stripe to do."""

    @property
    def is_for_collector(self) -> bool:
        """Whether the collector has to be told: something is due no longer, or is to be paid back."""
        return self.split.reduced.minor > 0 or self.split.refunded.minor > 0


def credit_note_lines(lines: Sequence[InvoiceLineLeft], cited: Sequence[CitedLine]) -> tuple[CreditNoteLine, ...]:
    """The lines of a credit note; nothing cited means all that is left of everything.

    No line gives more than is left of it, and all credit notes together no more than the invoice's charges come to
    after discounts. Tax follows in proportion: after each note, what was taken back of a tax is its share of all that
    was taken back, rounded once, so that with the last charge the last cent of tax goes, too. Raises InvalidField,
    LimitExceeded, and InvalidState when nothing would be left to take back.
    """
    charges = {line.line_number: line for line in lines if line.role is LineRole.CHARGE}
    wanted = cited or [
        CitedLine(line_number=number, amount=None) for number, line in charges.items() if line.left.minor
    ]
    if len(wanted) > limits.CREDIT_NOTE_LINES_MAX:
        raise LimitExceeded(what="lines", actual=len(wanted), maximum=limits.CREDIT_NOTE_LINES_MAX)
    if len({each.line_number for each in wanted}) != len(wanted):
        raise InvalidField(field="lines", problem="a line of the invoice is there twice")
    noted = [_cite(charges, each) for each in wanted]
    net = sum(line.amount.minor for line in charges.values())
    before = sum(line.credited.minor for line in charges.values())
    now = sum(line.amount.minor for line in noted)
    if now <= 0:
        raise InvalidState(problem="Nothing is left of these lines that could be taken back.")
    if before + now > net:
        left = Money(net - before, noted[0].amount.currency_code)
        raise InvalidState(problem=f"Only {left} before tax is left of the invoice to take back.")
    taxes = [_tax(line, Fraction(before + now, net)) for line in lines if line.role is LineRole.TAX]
    return (*noted, *(line for line in taxes if line.amount.minor))


def _cite(charges: dict[int, InvoiceLineLeft], cited: CitedLine) -> CreditNoteLine:
    line = charges.get(cited.line_number)
    field = f"lines[{cited.line_number}]"
    if line is None:
        raise InvalidField(field=field, problem="not a line of the invoice that was charged; tax follows by itself")
    amount = line.left if cited.amount is None else cited.amount
    if amount.currency_code != line.amount.currency_code:
        raise InvalidField(field=field, problem="another currency than the invoice's")
    low, high = sorted((0, line.left.minor))
    if not low <= amount.minor <= high or not amount.minor:
        raise InvalidState(problem=f"Line {line.line_number}: {line.left} is left of it, {amount} was asked for.")
    return CreditNoteLine(
        line_number=line.line_number, role=LineRole.CHARGE, description=line.description, amount=amount
    )


def _tax(line: InvoiceLineLeft, share: Fraction) -> CreditNoteLine:
    minor = round_half_away(line.amount.minor * share) - line.credited.minor
    return CreditNoteLine(
        line_number=line.line_number,
        role=LineRole.TAX,
        description=line.description,
        amount=Money(minor, line.amount.currency_code),
    )


def split_credit(total: Money, *, due: Money, refundable: Money, destination: CreditDestination) -> CreditSplit:
    """Where the total of a credit note goes. First what is still due is reduced; of the rest at most `refundable`, what
    was paid in money and not paid back, is refunded if that is asked for; what is left was paid by credits, or is asked
    for as such, and becomes credit.
    """
    zero = Money(0, total.currency_code)
    reduced = Money(min(total.minor, max(0, due.minor)), total.currency_code)
    rest = total.minor - reduced.minor
    refunded = zero
    if destination is CreditDestination.REFUND:
        refunded = Money(min(rest, max(0, refundable.minor)), total.currency_code)
    return CreditSplit(reduced=reduced, credited=Money(rest - refunded.minor, total.currency_code), refunded=refunded)


def credit_note_number(prefix: str, counter: int) -> str:
    """The number that a customer reads, such as `CN-000042`."""
    return f"{prefix}-{counter:0{_NUMBER_DIGITS}d}"
