"""Invoices and their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum

from kit.money import Money
from services.billing.domain.closing import CutKind
from services.billing.domain.dues import DueKey
from services.billing.domain.periods import Period
from services.billing.domain.profile import DEFAULT_LEGAL_ENTITY

_NUMBER_DIGITS = 6


class InvoiceState(Enum):
    """Where an invoice stands."""

    DRAFT = "DRAFT"
    """A preview; never stored."""
    FINALIZED = "FINALIZED"
    """Open: final, and not paid yet."""
    PAID = "PAID"
    PAST_DUE = "PAST_DUE"
    """A payment failed, or its due time has passed, and it has not been paid since."""
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
    """What a line is for."""

    BASE_FEE = "BASE_FEE"
    FLAT_FEE = "FLAT_FEE"
    OVERAGE = "OVERAGE"
    """Usage."""
    MINIMUM = "MINIMUM"
    DISCOUNT = "DISCOUNT"
    ADJUSTMENT = "ADJUSTMENT"
    """What usage or a minimum comes to differently than an earlier invoice had it."""
    PRORATION = "PRORATION"
    """The same of a price by time: a plan changed, or the subscription ended, within what was paid."""
    CREDIT_PURCHASE = "CREDIT_PURCHASE"
    """Prepaid credits that are sold."""
    TAX = "TAX"
    CREDIT = "CREDIT"
    """What prepaid credits pay."""
    ROUNDING = "ROUNDING"
    """To what can be charged in the currency."""
    TO_CREDIT = "TO_CREDIT"
    """What was below zero, put to the customer's credit."""


AFTER_SUBTOTAL = frozenset({LineKind.TAX, LineKind.CREDIT, LineKind.ROUNDING, LineKind.TO_CREDIT})
"""What follows from the other lines, and stands below their sum."""


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
    """The price of one display unit; None where there is not one price."""
    difference_quantity: int = 0
    """What of the usage no earlier invoice counted; all of it on the first line about it, below zero when it shrank."""
    first_sequence: int = 0
    last_sequence: int = 0
    """It cites what the ledger recorded after the first and up to the last of these; 0 and 0: no usage."""
    key: DueKey | None = None
    """What it is for; None for what follows from the other lines: taxes, credits and rounding."""
    corrects_invoice_id: str = ""
    """The invoice that had it differently; empty on the first line about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """What a cut charges. Its content never changes after it is finalized, only what Stripe says of it."""

    organization_id: str
    subscription_id: str
    """Empty of a purchase, which is about no subscription; its plan is empty, too."""
    plan_id: str
    plan_version: int
    state: InvoiceState
    total: Money
    """The sum of the lines."""
    lines: tuple[Line, ...]
    period: Period
    """The period that it closes, or within which it was made; the day of a purchase."""
    closed_through_sequence: int
    """The last usage event that it could include."""
    cut: CutKind = CutKind.EARLY
    """Why it was made."""
    legal_entity_id: str = DEFAULT_LEGAL_ENTITY
    """Who bills; its numbers have no gap."""
    invoice_id: str = ""
    """Empty in a preview."""
    number: str = ""
    """Empty in a preview."""
    finalize_time: datetime | None = None
    """None in a preview."""
    due_time: datetime | None = None
    """By when the customer has to pay it; whole days after finalize_time. None: it is charged when it is finalized."""
    stripe_invoice_id: str = ""
    """Empty until it is there."""

    @property
    def is_collectable(self) -> bool:
        """Whether there is anything to collect; Stripe is not told of an invoice over nothing."""
        return self.total.minor > 0

    @property
    def subtotal(self) -> Money:
        """The sum of what is charged and discounted, before taxes."""
        return total_of([line for line in self.lines if line.kind not in AFTER_SUBTOTAL], self.total.currency_code)

    @property
    def tax(self) -> Money:
        """The sum of the taxes."""
        return self._sum_of(LineKind.TAX)

    @property
    def credits(self) -> Money:
        """What prepaid credits pay; above zero."""
        applied = self._sum_of(LineKind.CREDIT)
        return Money(-applied.minor, applied.currency_code)

    def _sum_of(self, kind: LineKind) -> Money:
        return total_of([line for line in self.lines if line.kind is kind], self.total.currency_code)


@dataclass(frozen=True, slots=True)
class InvoiceKey:
    """A place in an organization's invoices, newest first: the id decides between those of one instant."""

    finalize_time: datetime
    invoice_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFilters:
    """Which invoices are asked for."""

    states: frozenset[InvoiceState] = frozenset()
    """In one of these states; empty: in any."""
    finalized_from: datetime | None = None
    """Finalized at this moment or later; None: whenever."""
    finalized_before: datetime | None = None
    """Finalized before this moment; None: whenever."""

    def hold(self, invoice: Invoice) -> bool:
        """Whether it is asked for."""
        time = invoice.finalize_time
        if time is None or (self.states and invoice.state not in self.states):
            return False
        begins = self.finalized_from is None or self.finalized_from <= time
        return begins and (self.finalized_before is None or time < self.finalized_before)


ALL_INVOICES = InvoiceFilters()


def total_of(lines: Sequence[Line], currency_code: str) -> Money:
    """The sum of the lines; zero of the currency without any."""
    return sum((line.amount for line in lines), Money(0, currency_code))


def invoice_number(prefix: str, counter: int) -> str:
    """The number that a customer reads, such as `TB-000042`; it grows wider after the millionth."""
    return f"{prefix}-{counter:0{_NUMBER_DIGITS}d}"
