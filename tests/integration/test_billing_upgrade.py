"""Subscriptions that were there before a migration are not forgotten by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.domain.timeline import Phase, PlanRef

ANCHOR = datetime(2026, 10, 31, 9, tzinfo=UTC)
CONTENT = {"display_name": "Starter", "monthly_price": "49.00", "currency_code": "EUR", "meters": [], "features": {}}
_SUBSCRIPTION = """
    INSERT INTO billing.subscriptions (
        organization_id, subscription_id, plan_id, plan_version, status, anchor, entitlement_version, end_time)
    VALUES ('acme', %s, %s, 1, %s, %s, %s, %s)
"""
_INVOICE = """
    INSERT INTO billing.invoices (
        organization_id, invoice_id, number, subscription_id, plan_id, plan_version, state, currency_code, total_minor,
        period_start, period_end, closed_through_sequence, finalize_time)
    VALUES ('acme', 'inv_1', 'TB-000001', 'sub_2', 'starter', 1, 'PAID', 'EUR', 4900, %s, %s, 7, now())
"""


async def test_what_was_sold_and_invoiced_before_has_a_phase_and_a_close_under_an_owner_who_is_no_superuser(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> None:
    roles, name = migrated("billing"), f"older_{uuid4().hex[:8]}"
    passwords = {kind: str(urlsplit(url).password) for kind, url in roles.items()}
    place, identifier = urlsplit(postgres.url)._replace(path=f"/{name}"), sql.Identifier(name)
    owner_url = place._replace(netloc=f"{name}:plain@{place.hostname}:{place.port}").geturl()
    tenant = Database(urlsplit(roles["tenant"])._replace(path=f"/{name}").geturl())
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'plain'").format(identifier))
        for kind in roles:
            role = sql.Identifier(f"tollbook_billing_{kind}")
            superuser.execute(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(role, identifier))
        superuser.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, identifier))
        try:
            migrate(owner_url, "billing", passwords, upto="billing_0003")
            with psycopg.connect(place.geturl(), autocommit=True) as inside:
                for plan_id in ("free", "starter"):
                    inside.execute(
                        "INSERT INTO billing.plan_versions (plan_id, version, content) VALUES (%s, 1, %s)",
                        (plan_id, json.dumps(CONTENT)),
                    )
                inside.execute(_SUBSCRIPTION, ("sub_1", "free", "CANCELED", ANCHOR, 1, ANCHOR))
                inside.execute(_SUBSCRIPTION, ("sub_2", "starter", "ACTIVE", ANCHOR, 2, None))
                inside.execute(_INVOICE, (ANCHOR, ANCHOR + timedelta(days=30)))
                migrate(owner_url, "billing", passwords)
                closes = inside.execute("SELECT subscription_id, cut, invoice_id FROM billing.closes").fetchall()
                due = inside.execute("SELECT subscription_id FROM billing.due_closes").fetchall()
                revenue = inside.execute(
                    "SELECT plan_id, status, currency_code, annual_amount::text FROM billing.revenue_standings"
                ).fetchall()
                forced = inside.execute(
                    "SELECT count(*) FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid"
                    " WHERE relnamespace = 'billing'::regnamespace AND NOT relforcerowsecurity"
                ).fetchone()
            assert closes == [("sub_2", "EARLY", "inv_1")]
            assert due == [("sub_2",)]
            assert revenue == [("starter", "ACTIVE", "EUR", "588.00")]
            assert forced == (0,)
            async with PostgresBooks(tenant).read("acme") as book:
                in_force = await book.subscriptions.in_force()
                timelines = await book.subscriptions.timelines()
            assert in_force is not None
            assert (in_force.subscription_id, in_force.currency_code, in_force.start) == ("sub_2", "EUR", ANCHOR)
            assert [(each.phases, each.end) for each in timelines] == [
                ((Phase(start=ANCHOR, plan=PlanRef("free", 1)),), ANCHOR),
                ((Phase(start=ANCHOR, plan=PlanRef("starter", 1)),), None),
            ]
        finally:
            await tenant.close()
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
            superuser.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            superuser.execute(sql.SQL("DROP ROLE {}").format(identifier))
