"""Invoices and their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum

from kit.money import Money
from services.billing.domain.periods import Period

_NUMBER_DIGITS = 6


class InvoiceState(Enum):
    """Where an invoice stands."""

    DRAFT = "DRAFT"
    """A preview; never stored."""
    FINALIZED = "FINALIZED"
    """Open: final, and not paid yet."""
    PAID = "PAID"
    PAST_DUE = "PAST_DUE"
    """A payment failed, and none has succeeded since."""
    VOID = "VOID"
    """Taken back: nothing is owed."""
    UNCOLLECTIBLE = "UNCOLLECTIBLE"
    """Given up: still owed, asked for no longer."""


_NEXT_STATES: Mapping[InvoiceState, frozenset[InvoiceState]] = {
    InvoiceState.DRAFT: frozenset({InvoiceState.FINALIZED, InvoiceState.PAID}),
    InvoiceState.FINALIZED: frozenset(
        {InvoiceState.PAID, InvoiceState.PAST_DUE, InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE}
    ),
    InvoiceState.PAST_DUE: frozenset({InvoiceState.PAID, InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE}),
    # Money may come after it was given up.
    InvoiceState.UNCOLLECTIBLE: frozenset({InvoiceState.PAID, InvoiceState.VOID}),
    InvoiceState.PAID: frozenset(),
    InvoiceState.VOID: frozenset(),
}


def can_become(current: InvoiceState, state: InvoiceState) -> bool:
    """Whether an invoice may go from one state to the other; none goes to the state that it is in. What was paid stays
    paid and what is void stays void, whatever is said later: a refund is told beside the state.
    """
    return state in _NEXT_STATES[current]


class LineKind(Enum):
    """What a line charges."""

    BASE_FEE = "BASE_FEE"
    OVERAGE = "OVERAGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One charge. Quantities are in the meter's base unit."""

    kind: LineKind
    description: str
    amount: Money
    period: Period
    """The interval that is charged."""
    meter: str = ""
    used_quantity: int = 0
    included_quantity: int = 0
    charged_quantity: int = 0
    unit_price: Decimal | None = None
    """The price of one display unit; None on a base fee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """What a period is charged. Its content never changes after it is finalized, only what Stripe says of it."""

    organization_id: str
    subscription_id: str
    plan_id: str
    plan_version: int
    state: InvoiceState
    total: Money
    """The sum of the lines."""
    lines: tuple[Line, ...]
    period: Period
    closed_through_sequence: int
    """The last usage event that it could include."""
    invoice_id: str = ""
    """Empty in a preview."""
    number: str = ""
    """Empty in a preview."""
    finalize_time: datetime | None = None
    """None in a preview."""
    stripe_invoice_id: str = ""
    """Empty until it is there."""

    @property
    def is_collectable(self) -> bool:
        """Whether there is anything to collect; Stripe is not told of an invoice over nothing."""
        return self.total.minor > 0


@dataclass(frozen=True, slots=True)
class InvoiceKey:
    """A place in an organization's invoices, newest first: the id decides between those of one instant."""

    finalize_time: datetime
    invoice_id: str


def total_of(lines: Sequence[Line], currency_code: str) -> Money:
    """The sum of the lines; zero of the currency without any."""
    return sum((line.amount for line in lines), Money(0, currency_code))


def invoice_number(prefix: str, counter: int) -> str:
    """The number that a customer reads, such as `TB-000042`; it grows wider after the millionth."""
    return f"{prefix}-{counter:0{_NUMBER_DIGITS}d}"
