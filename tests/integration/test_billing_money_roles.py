"""What the roles of billing cannot do to money that is there already, whatever the code says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.domain.credits import CreditGrant, CreditSource, CreditUse
from tests.integration.billing_database import BillingDatabase, billing_database

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ACME = "acme"


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[BillingDatabase]:
    """With a grant of 10.00, of which an invoice took 3.00."""
    async with billing_database(postgres.url) as database:
        grant = CreditGrant(
            grant_id="crg_1",
            amount=Money(1000, "USD"),
            priority=50,
            grant_time=NOW,
            expire_time=NOW + timedelta(days=1),
            source=CreditSource.OPERATOR,
        )
        async with PostgresBooks(database.tenant).open(ACME) as book:
            await book.credits.grant(grant, actor="tests", request_id="r")
            await book.credits.apply([CreditUse("crg_1", Money(300, "USD"))], invoice_id="inv_1", at=NOW)
        yield database


def as_tenant(database: BillingDatabase, statement: str) -> None:
    with psycopg.connect(database.tenant_url) as tenant:
        tenant.execute("SET LOCAL tollbook.organization_id = 'acme'")
        tenant.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.credit_entries SET amount_minor = 1",
        "DELETE FROM billing.credit_entries",
        "UPDATE billing.credit_grants SET amount_minor = 1",
        "UPDATE billing.credit_grants SET expire_time = NULL",
        "DELETE FROM billing.credit_grants",
        "UPDATE billing.credit_notes SET total_minor = 1",
        "DELETE FROM billing.credit_notes",
        "UPDATE billing.credit_note_lines SET amount_minor = 1",
        "UPDATE billing.redemptions SET start_time = now()",
        "DELETE FROM billing.redemptions",
        "UPDATE billing.coupons SET content = '{}'",
        "UPDATE billing.coupons SET redemptions_max = NULL",
        "UPDATE billing.profiles SET legal_name = ''",
        "UPDATE billing.tax_rates SET rates = '[]'",
        "INSERT INTO billing.legal_entities (legal_entity_id, version, content) VALUES ('x', 1, '{}')",
        "UPDATE billing.credit_note_numbers SET prefix = 'X'",
        "SELECT * FROM billing.operator_requests",
    ],
)
def test_what_was_written_is_never_rewritten(database: BillingDatabase, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        as_tenant(database, statement)


def entry(*, move: str, debit: str, credit: str, minor: int, currency_code: str = "USD", invoice_id: str = "") -> str:
    values = f"'{move}', '{debit}', '{credit}', '{currency_code}', {minor}, now(), '{invoice_id}'"
    return f"INSERT INTO billing.credit_entries VALUES ('acme', 3, 'crg_1', {values})"  # noqa: S608 - values from below


@pytest.mark.parametrize(
    "statement",
    [
        entry(move="APPLY", debit="AVAILABLE", credit="APPLIED", minor=701, invoice_id="inv_2"),
        entry(move="EXPIRE", debit="AVAILABLE", credit="EXPIRED", minor=701),
        entry(move="RETURN", debit="APPLIED", credit="AVAILABLE", minor=301, invoice_id="inv_1"),
        entry(move="RETURN", debit="APPLIED", credit="AVAILABLE", minor=1, invoice_id="inv_2"),
        entry(move="REVOKE", debit="AVAILABLE", credit="REVOKED", minor=1, currency_code="EUR"),
        entry(move="GRANT", debit="APPLIED", credit="AVAILABLE", minor=1),
        entry(move="REVOKE", debit="AVAILABLE", credit="GRANTED", minor=1),
        entry(move="EXPIRE", debit="AVAILABLE", credit="EXPIRED", minor=0),
        entry(move="EXPIRE", debit="AVAILABLE", credit="EXPIRED", minor=-1),
        entry(move="APPLY", debit="AVAILABLE", credit="APPLIED", minor=1),
    ],
)
def test_the_journal_takes_no_entry_that_is_one_sided_or_moves_what_is_not_there(
    database: BillingDatabase, statement: str
) -> None:
    with pytest.raises(errors.CheckViolation):
        as_tenant(database, statement)


def test_a_cap_holds_in_the_database_too(database: BillingDatabase) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute(
            "INSERT INTO billing.coupons (coupon_id, content, redemptions_max, redemption_count)"
            " VALUES ('C', '{}', 1, 1)"
        )
    with pytest.raises(errors.CheckViolation):
        as_tenant(database, "UPDATE billing.coupons SET redemption_count = redemption_count + 1")
