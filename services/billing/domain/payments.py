"""What an invoice's state at Stripe means for ours. Stripe is the authority on payment, and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.billing.domain import limits
from services.billing.domain.invoices import InvoiceState, Line, can_become
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus

_TOLD = {
    StripeInvoiceStatus.PAID: InvoiceState.PAID,
    StripeInvoiceStatus.VOID: InvoiceState.VOID,
    StripeInvoiceStatus.UNCOLLECTIBLE: InvoiceState.UNCOLLECTIBLE,
}


def state_told(theirs: StripeInvoice) -> InvoiceState | None:
    """The state that our invoice has because of theirs; None when theirs says nothing: a draft, or open and not failed.

    It depends on theirs alone, so any number of events in any order leads to the state of the last fetch.
    """
    if theirs.status is StripeInvoiceStatus.OPEN:
        return InvoiceState.PAST_DUE if theirs.has_failed else None
    return _TOLD.get(theirs.status)


def states_before(state: InvoiceState) -> frozenset[InvoiceState]:
    """From where a finalized invoice may come to the state by what Stripe says."""
    return frozenset(each for each in InvoiceState if each is not InvoiceState.DRAFT and can_become(each, state))


class Settlement(Enum):
    """How an operator settles an invoice that Stripe is to collect."""

    VOID = "VOID"
    """Nobody owes it."""
    UNCOLLECTIBLE = "UNCOLLECTIBLE"
    """It is owed and given up."""
    PAID_OUTSIDE = "PAID_OUTSIDE"
    """It was paid, and not through Stripe."""

    @property
    def state(self) -> InvoiceState:
        """What the invoice is then."""
        return InvoiceState.PAID if self is Settlement.PAID_OUTSIDE else InvoiceState[self.value]


@dataclass(frozen=True, slots=True)
class CollectedLine:
    """A line as the collector shows it."""

    amount_minor: int
    description: str
    period: Period


def lines_that_fit(lines: Sequence[Line], count_max: int = limits.STRIPE_LINES_MAX) -> tuple[CollectedLine, ...]:
    """The invoice's lines for the collector, which takes only so many: beyond that, the last one sums the rest up, so
    the total is the same. Our own invoice and its PDF keep every line.
    """
    shown = [CollectedLine(line.amount.minor, line.description, line.period) for line in lines]
    if len(shown) <= count_max:
        return tuple(shown)
    rest = shown[count_max - 1 :]
    period = Period(min(each.period.start for each in rest), max(each.period.end for each in rest))
    summed = CollectedLine(sum(each.amount_minor for each in rest), f"{len(rest)} further lines", period)
    return (*shown[: count_max - 1], summed)
