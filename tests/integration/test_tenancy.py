"""What keeps tenants apart in the database, read from the catalog of every schema as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from kit.postgres.database import Database, UnsafeRole
from kit.postgres.embedded import EmbeddedPostgres

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/migrations"))

# Rows of every organization, on purpose, to a role that is not the tenant's. Adding one here is a decision.
OPEN_POLICIES = {
    "accounts": {
        ("change_heads", "tollbook_accounts_fleet", "SELECT"),
        ("key_digests", "tollbook_accounts_fleet", "SELECT"),
        ("organizations", "tollbook_accounts_fleet", "SELECT"),
    },
    "analytics": {("cost_positions", "tollbook_analytics_fleet", "SELECT")},
    "billing": {
        ("change_heads", "tollbook_billing_fleet", "SELECT"),
        ("due_changes", "tollbook_billing_fleet", "SELECT"),
        ("due_changes", "tollbook_billing_fleet", "UPDATE"),
        ("due_closes", "tollbook_billing_fleet", "SELECT"),
        ("due_closes", "tollbook_billing_fleet", "UPDATE"),
        ("due_invoices", "tollbook_billing_fleet", "SELECT"),
        ("due_invoices", "tollbook_billing_fleet", "UPDATE"),
        ("credit_expiries", "tollbook_billing_fleet", "SELECT"),
        ("revenue_standings", "tollbook_billing_fleet", "SELECT"),
        ("revenue_usage", "tollbook_billing_fleet", "SELECT"),
        ("due_credit_notes", "tollbook_billing_fleet", "SELECT"),
        ("due_credit_notes", "tollbook_billing_fleet", "UPDATE"),
        ("due_dunnings", "tollbook_billing_fleet", "SELECT"),
        ("due_dunnings", "tollbook_billing_fleet", "UPDATE"),
        # Whose customers there are; not which.
        ("stripe_customers", "tollbook_billing_fleet", "SELECT"),
        ("due_mails", "tollbook_billing_fleet", "SELECT"),
        ("due_mails", "tollbook_billing_fleet", "UPDATE"),
        # Keys and age of what is over for 90 days, to let go of it.
        ("mail_outbox", "tollbook_billing_fleet", "SELECT"),
        ("mail_outbox", "tollbook_billing_fleet", "DELETE"),
        ("requests", "tollbook_billing_fleet", "SELECT"),
        ("requests", "tollbook_billing_fleet", "DELETE"),
    },
    "quota": {("change_heads", "tollbook_quota_fleet", "SELECT")},
    "metering": {
        ("ledger_heads", "tollbook_metering_writer", "ALL"),
        ("event_identities", "tollbook_metering_writer", "SELECT"),
        ("event_identities", "tollbook_metering_writer", "INSERT"),
        ("events", "tollbook_metering_writer", "INSERT"),
        ("reversals", "tollbook_metering_writer", "SELECT"),
        ("reversals", "tollbook_metering_writer", "INSERT"),
        ("task_times", "tollbook_metering_writer", "ALL"),
        ("ledger_heads", "tollbook_metering_fleet", "SELECT"),
        ("confirmed_positions", "tollbook_metering_writer", "ALL"),
        ("confirmed_positions", "tollbook_metering_fleet", "SELECT"),
        # The owner, for what its functions look at before they drop a week.
        ("confirmed_positions", "tollbook", "SELECT"),
        ("sealed_spans", "tollbook", "SELECT"),
        ("ledger_horizons", "tollbook", "ALL"),
    },
}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, migrated: Callable[[str], dict[str, str]]) -> str:
    name = str(request.param)
    migrated(name)
    return name


def test_every_table_with_an_organization_forces_row_security(service: str, postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            """
            SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
                   (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant')
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
            WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
            """,
            (service,),
        ).fetchall()
    assert rows
    assert [row for row in rows if row[1:] != (True, True, 1)] == []


def test_organization_id_comes_first_in_every_key_of_a_tenant_table(service: str, postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            """
            SELECT i.indexrelid::regclass::text, first.attname
            FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            JOIN pg_attribute own ON own.attrelid = c.oid AND own.attname = 'organization_id'
            JOIN pg_attribute first ON first.attrelid = c.oid AND first.attnum = i.indkey[0]
            WHERE c.relnamespace = %s::regnamespace AND i.indisunique AND first.attname <> 'organization_id'
            """,
            (service,),
        ).fetchall()
    # Looked up by something that a caller shows before its organization is known: global tables by nature.
    assert {row[0] for row in rows} <= {"accounts.key_digests_pkey"}


def test_roles_see_other_organizations_rows_only_where_it_was_decided(service: str, postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT tablename, unnest(roles)::text, cmd FROM pg_policies"
            " WHERE schemaname = %s AND policyname <> 'tenant'",
            (service,),
        ).fetchall()
    assert set(rows) == OPEN_POLICIES[service]


def test_no_role_of_a_service_may_truncate_a_table_or_put_a_trigger_on_it(
    service: str, postgres: EmbeddedPostgres
) -> None:
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT DISTINCT table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = %s AND grantee LIKE 'tollbook\\_%%' AND privilege_type IN ('TRUNCATE', 'TRIGGER')",
            (service,),
        ).fetchall()
    assert rows == []


def test_a_tenant_role_without_the_setting_sees_no_rows(
    service: str, postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> None:
    with psycopg.connect(migrated(service)["tenant"]) as tenant, psycopg.connect(postgres.url) as owner:
        tables = owner.execute(
            """
            SELECT c.relname
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
            WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND has_table_privilege(%s, c.oid, 'SELECT')
            """,
            (service, f"tollbook_{service}_tenant"),
        ).fetchall()
        assert tables
        for (table,) in tables:
            count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(service, table))
            assert tenant.execute(count).fetchone() == (0,)


@pytest.mark.parametrize(
    "attribute", ["SUPERUSER", "BYPASSRLS", "CREATEROLE", "REPLICATION", "IN ROLE pg_read_server_files"]
)
async def test_a_role_that_could_see_more_is_refused(attribute: str, postgres: EmbeddedPostgres) -> None:
    role = f"unsafe_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'unsafe' " + attribute).format(sql.Identifier(role))
        owner.execute(statement)
        database = Database(
            postgres.url.replace("//tollbook:", f"//{role}:").replace(_password(postgres.url), "unsafe")
        )
        try:
            with pytest.raises(UnsafeRole, match=role):
                await database.assert_safe_role()
        finally:
            await database.close()
            owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def test_a_role_that_owns_a_table_is_refused(postgres: EmbeddedPostgres) -> None:
    role = f"owning_{uuid4().hex}"
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'unsafe'").format(sql.Identifier(role)))
        owner.execute(sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier("public", role)))
        owner.execute(
            sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier("public", role), sql.Identifier(role))
        )
        database = Database(
            postgres.url.replace("//tollbook:", f"//{role}:").replace(_password(postgres.url), "unsafe")
        )
        try:
            with pytest.raises(UnsafeRole, match="owns relation"):
                await database.assert_safe_role()
        finally:
            await database.close()
            owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("public", role)))
            owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def test_the_organization_of_a_transaction_does_not_outlive_it(
    migrated: Callable[[str], dict[str, str]],
) -> None:
    database = Database(migrated("metering")["tenant"], pool_size=1)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            async with database.transaction(organization_id="tenant-a"):
                raise RuntimeError("on purpose")
        async with database.transaction() as connection:
            setting = await connection.exec_driver_sql("SELECT current_setting('tollbook.organization_id', true)")
            assert setting.scalar_one() in (None, "")
    finally:
        await database.close()


@pytest.mark.parametrize("organization_id", ["", "a'b", "A", "a b", "a;--", "ä", "a" * 65])
async def test_a_malformed_organization_never_reaches_the_database(
    organization_id: str, migrated: Callable[[str], dict[str, str]]
) -> None:
    database = Database(migrated("metering")["tenant"])
    try:
        with pytest.raises(ValueError, match="malformed"):
            async with database.transaction(organization_id=organization_id):
                raise AssertionError
    finally:
        await database.close()


async def test_an_error_of_the_database_does_not_quote_what_was_written(
    migrated: Callable[[str], dict[str, str]],
) -> None:
    database = Database(migrated("metering")["tenant"])
    try:
        with pytest.raises(DBAPIError) as refused:
            async with database.transaction() as connection:
                await connection.execute(text("SELECT CAST(:value AS integer) / 0"), {"value": 4711})
        assert "4711" not in str(refused.value)
    finally:
        await database.close()


def _password(url: str) -> str:
    return url.split("@", maxsplit=1)[0].rsplit(":", 1)[1]
