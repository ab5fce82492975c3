"""Prepaid credits on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from kit.grpc.convert import moment_to_pb
from kit.money import Money
from services.billing.domain.credits import CreditAccount, CreditEntry, GrantStanding
from tollbook.billing.v1 import credits_pb2


def grant_to_pb(standing: GrantStanding) -> credits_pb2.CreditGrant:
    """The grant, and what is available of it."""
    grant = standing.grant
    return credits_pb2.CreditGrant(
        grant_id=grant.grant_id,
        amount=str(grant.amount),
        currency_code=grant.amount.currency_code,
        available=str(standing.available),
        priority=grant.priority,
        grant_time=moment_to_pb(grant.grant_time),
        expire_time=None if grant.expire_time is None else moment_to_pb(grant.expire_time),
        source=credits_pb2.CreditSource.Value(f"CREDIT_SOURCE_{grant.source.value}"),
        source_id=grant.source_id,
        description=grant.description,
    )


def balance_to_pb(currency_code: str, accounts: Mapping[CreditAccount, Money]) -> credits_pb2.CreditBalance:
    """The balances of a currency, as its holder sees them: what was granted is above zero."""
    granted = Money(-accounts[CreditAccount.GRANTED].minor, currency_code)
    return credits_pb2.CreditBalance(
        currency_code=currency_code,
        granted=str(granted),
        available=str(accounts[CreditAccount.AVAILABLE]),
        applied=str(accounts[CreditAccount.APPLIED]),
        expired=str(accounts[CreditAccount.EXPIRED]),
        revoked=str(accounts[CreditAccount.REVOKED]),
    )


def entry_to_pb(entry: CreditEntry) -> credits_pb2.CreditEntry:
    """The entry."""
    return credits_pb2.CreditEntry(
        number=entry.number,
        grant_id=entry.grant_id,
        move=credits_pb2.CreditMove.Value(f"CREDIT_MOVE_{entry.move.value}"),
        amount=str(entry.amount),
        currency_code=entry.amount.currency_code,
        entry_time=moment_to_pb(entry.entry_time),
        invoice_id=entry.invoice_id,
    )
