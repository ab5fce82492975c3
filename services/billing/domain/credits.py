"""Prepaid credits: a double-entry journal, what it comes to, and which grants pay first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from kit.errors import InvalidField
from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.texts import require_text


class CreditAccount(Enum):
    """Where credits can be. Those of one currency add up to zero over all accounts, at every moment."""

    GRANTED = "GRANTED"
    """Where they come from: its balance is what was ever granted, below zero."""
    AVAILABLE = "AVAILABLE"
    APPLIED = "APPLIED"
    """They paid an invoice."""
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class CreditMove(Enum):
    """Why credits go from one account to another; no other way leads anywhere."""

    GRANT = "GRANT"
    APPLY = "APPLY"
    RETURN = "RETURN"
    """The invoice that they paid was voided."""
    EXPIRE = "EXPIRE"
    REVOKE = "REVOKE"

    @property
    def debit(self) -> CreditAccount:
        """The account that gives."""
        return _WAYS[self][0]

    @property
    def credit(self) -> CreditAccount:
        """The account that receives."""
        return _WAYS[self][1]


_WAYS: Mapping[CreditMove, tuple[CreditAccount, CreditAccount]] = {
    CreditMove.GRANT: (CreditAccount.GRANTED, CreditAccount.AVAILABLE),
    CreditMove.APPLY: (CreditAccount.AVAILABLE, CreditAccount.APPLIED),
    CreditMove.RETURN: (CreditAccount.APPLIED, CreditAccount.AVAILABLE),
    CreditMove.EXPIRE: (CreditAccount.AVAILABLE, CreditAccount.EXPIRED),
    CreditMove.REVOKE: (CreditAccount.AVAILABLE, CreditAccount.REVOKED),
}


class CreditSource(Enum):
    """Why credits were granted."""

    OPERATOR = "OPERATOR"
    """The operator gave them."""
    PURCHASE = "PURCHASE"
    """They were bought: an invoice for them was paid."""
    CREDIT_NOTE = "CREDIT_NOTE"
    INVOICE = "INVOICE"
    """An invoice came to less than nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditGrant:
    """Credits that were granted together. It never changes; the journal says what became of it."""

    grant_id: str
    amount: Money
    priority: int
    """The lower, the sooner it is used."""
    grant_time: datetime
    expire_time: datetime | None
    """The first instant at which it pays nothing any more; None: it never expires."""
    source: CreditSource
    source_id: str = ""
    """The invoice or credit note that it comes from; empty from the operator."""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditEntry:
    """One move of credits of one grant: both sides of a double entry, so that no entry can be one-sided."""

    number: int
    """Its place in the organization's journal, from 1, without a gap."""
    grant_id: str
    move: CreditMove
    amount: Money
    """Above zero."""
    entry_time: datetime
    invoice_id: str = ""
    """The invoice that is paid, or is no longer; empty for other moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantStanding:
    """A grant, and what is left of it."""

    grant: CreditGrant
    available: Money


@dataclass(frozen=True, slots=True)
class CreditUse:
    """What one grant pays."""

    grant_id: str
    amount: Money


def balances(entries: Iterable[CreditEntry], currency_code: str) -> Mapping[CreditAccount, Money]:
    """The balance of every account in a currency: what it received less what it gave. Their sum is zero."""
    minor = dict.fromkeys(CreditAccount, 0)
    for entry in entries:
        if entry.amount.currency_code == currency_code:
            minor[entry.move.debit] -= entry.amount.minor
            minor[entry.move.credit] += entry.amount.minor
    return {account: Money(amount, currency_code) for account, amount in minor.items()}


def available_by_grant(entries: Iterable[CreditEntry]) -> Mapping[str, int]:
    """What is available of every grant, in minor units."""
    minor: dict[str, int] = {}
    for entry in entries:
        here = minor.get(entry.grant_id, 0)
        if entry.move.credit is CreditAccount.AVAILABLE:
            here += entry.amount.minor
        if entry.move.debit is CreditAccount.AVAILABLE:
            here -= entry.amount.minor
        minor[entry.grant_id] = here
    return minor


_NEVER = datetime.max.replace(tzinfo=UTC)


def apply_credits(standings: Sequence[GrantStanding], amount: Money, now: datetime) -> tuple[CreditUse, ...]:
    """Which grants pay an amount, and what each: at most the amount, at most what is available. By priority, then
    those that expire sooner, then the older ones. A grant of another currency or one that has expired pays nothing;
    nothing is paid of an amount of zero or below.
    """
    uses: list[CreditUse] = []
    left = amount.minor
    for standing in in_order_of_use(standings):
        grant = standing.grant
        has_expired = grant.expire_time is not None and grant.expire_time <= now
        if has_expired or grant.amount.currency_code != amount.currency_code:
            continue
        paid = min(left, standing.available.minor)
        if paid > 0:
            uses.append(CreditUse(grant.grant_id, Money(paid, amount.currency_code)))
            left -= paid
    return tuple(uses)


def in_order_of_use(standings: Sequence[GrantStanding]) -> list[GrantStanding]:
    """The same in the order in which they pay."""
    return sorted(standings, key=_order)


def _order(standing: GrantStanding) -> tuple[int, datetime, datetime, str]:
    grant = standing.grant
    return (grant.priority, grant.expire_time or _NEVER, grant.grant_time, grant.grant_id)


def returns_of(entries: Iterable[CreditEntry], invoice_id: str, *, kept_minor: int = 0) -> tuple[CreditUse, ...]:
    """What goes back when an invoice is voided: what each grant has paid of it, less what went back before, by id.

    kept_minor of it all stays: what credit notes have given for it already.
    """
    paid: dict[str, Money] = {}
    for entry in entries:
        if entry.invoice_id != invoice_id:
            continue
        sign = {CreditMove.APPLY: 1, CreditMove.RETURN: -1}.get(entry.move, 0)
        so_far = paid.get(entry.grant_id, Money(0, entry.amount.currency_code))
        paid[entry.grant_id] = Money(so_far.minor + sign * entry.amount.minor, so_far.currency_code)
    left = max(0, sum(each.minor for each in paid.values()) - kept_minor)
    uses: list[CreditUse] = []
    for grant_id in sorted(paid):
        minor = min(left, paid[grant_id].minor)
        if minor > 0:
            uses.append(CreditUse(grant_id, Money(minor, paid[grant_id].currency_code)))
            left -= minor
    return tuple(uses)


def expired_of(standings: Iterable[GrantStanding], now: datetime) -> tuple[CreditUse, ...]:
    """What has expired by now and is still booked as available."""
    return tuple(
        CreditUse(each.grant.grant_id, each.available)
        for each in standings
        if each.grant.expire_time is not None and each.grant.expire_time <= now and each.available.minor > 0
    )


def revocation_of(standing: GrantStanding, amount: Money | None) -> tuple[CreditUse, ...]:
    """What is taken back of a grant: what is available, or this amount of it at most."""
    wanted = standing.available.minor if amount is None else min(amount.minor, standing.available.minor)
    if wanted <= 0:
        return ()
    return (CreditUse(standing.grant.grant_id, Money(wanted, standing.available.currency_code)),)


def require_grant(grant: CreditGrant) -> None:
    """Raises InvalidField unless the grant is sound."""
    if not 0 < grant.amount.minor <= limits.CREDIT_MINOR_MAX:
        raise InvalidField(
            field="amount", problem=f"not above 0 and up to {limits.CREDIT_MINOR_MAX} of the smallest unit"
        )
    if not 0 <= grant.priority <= limits.CREDIT_PRIORITY_MAX:
        raise InvalidField(field="priority", problem=f"not from 0 to {limits.CREDIT_PRIORITY_MAX}")
    if grant.expire_time is not None and grant.expire_time <= grant.grant_time:
        raise InvalidField(field="expire_time", problem="not after now")
    require_text("description", grant.description, limits.NOTE_BYTES_MAX, is_required=False)
