"""Credits that are bought: an invoice of their own sells them, its payment grants them, and what goes back takes them
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from kit.errors import InvalidField
from kit.money import Money, round_half_away
from services.billing.domain import limits
from services.billing.domain.credit_notes import CreditNote, LineRole
from services.billing.domain.invoices import Line, LineKind
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund
from services.billing.domain.wording import credit_purchase_text


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditPurchase:
    """What an invoice sells. It never changes, whatever is set for later purchases."""

    invoice_id: str
    amount: Money
    """The credits, and their price before tax."""
    valid_days: int
    """How long they pay, from their payment on; 0: for ever."""

    def expire_time(self, paid_at: datetime) -> datetime | None:
        """From when on they pay nothing; None: never."""
        return paid_at + timedelta(days=self.valid_days) if self.valid_days else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseStanding:
    """A purchase, and what became of it."""

    purchase: CreditPurchase
    taken_back: Money
    """What of its price went back or was never charged, before tax."""
    granted: Money
    """Zero until the invoice is paid."""
    available: Money
    revoked: Money

    @property
    def to_grant(self) -> Money:
        """What a payment now buys."""
        return Money(self.purchase.amount.minor - self.taken_back.minor, self.purchase.amount.currency_code)

    @property
    def to_revoke(self) -> Money:
        """What is to be taken back of the credits: at most what is left of them."""
        return Money(min(self.available.minor, self._owed), self.available.currency_code)

    @property
    def missing(self) -> Money:
        """What would have to be taken back and is not there: its money went back after it was used, or expired."""
        return Money(self._owed - self.to_revoke.minor, self.available.currency_code)

    @property
    def _owed(self) -> int:
        # What was granted is already less what had been taken back by then.
        return max(0, self.granted.minor - self.to_grant.minor - self.revoked.minor)


def purchase_line(amount: Money, *, valid_days: int, now: datetime) -> Line:
    """The line that sells the credits. It charges no time: its interval is the day of the order, in UTC."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return Line(
        kind=LineKind.CREDIT_PURCHASE,
        description=credit_purchase_text(amount, valid_days),
        amount=amount,
        period=Period(day, day + timedelta(days=1)),
    )


def taken_back(
    purchase: CreditPurchase,
    total: Money,
    *,
    notes: Sequence[CreditNote],
    refunds: Sequence[StripeRefund],
    disputes: Sequence[StripeDispute],
) -> Money:
    """What of a purchase's price went back or was never charged, before tax, and at most all of it.

    total: of its invoice, with tax. A credit note says what it takes back of the price; of a refund that was made at
    Stripe, and of a payment whose dispute was lost, the price is as large a part as it is of the total, rounded once.
    """
    noted = sum(line.amount.minor for note in notes for line in note.lines if line.role is LineRole.CHARGE)
    gross = sum(each.amount_minor for each in refunds if each.status == "succeeded" and not each.credit_note_id)
    gross += sum(each.amount_minor for each in disputes if each.status == "lost")
    net = round_half_away(Fraction(gross * purchase.amount.minor, total.minor)) if gross else 0
    return Money(min(purchase.amount.minor, noted + net), purchase.amount.currency_code)


def require_purchase(amount: Money) -> None:
    """Raises InvalidField unless so much can be bought at once."""
    if not 0 < amount.minor <= limits.PURCHASE_MINOR_MAX:
        problem = f"not above 0 and up to {limits.PURCHASE_MINOR_MAX} of the smallest unit"
        raise InvalidField(field="amount", problem=problem)
    if amount.rounding_to_increment().minor:
        raise InvalidField(field="amount", problem="not an amount that can be charged in the currency")
