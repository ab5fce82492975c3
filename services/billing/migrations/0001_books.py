"""The books: catalog, subscriptions, change log, invoices and their numbers, and the two lists that workers read."""

from __future__ import annotations

from alembic import op

from kit.postgres.change_log import change_log_tables
from kit.postgres.row_security import allow_all, protect

revision = "billing_0001"
down_revision = None

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the schema of the books."""
    _make_catalog()
    _make_books()
    _make_inbox()


def _make_catalog() -> None:
    # Of no organization, hence without row security: on Citus these are reference tables. Tenants read, the fleet role
    # writes; a version is never changed, and nobody can.
    op.execute(f"""
        CREATE TABLE billing.plan_versions (
            plan_id text NOT NULL,
            version bigint NOT NULL CHECK (version > 0),
            content jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (plan_id, version));
        CREATE TABLE billing.plans (
            plan_id text PRIMARY KEY,
            newest_version bigint NOT NULL,
            is_sold boolean NOT NULL,
            FOREIGN KEY (plan_id, newest_version) REFERENCES billing.plan_versions);

        -- Who applied which catalog, and what a retry of it is answered.
        CREATE TABLE billing.catalog_requests (
            request_id text PRIMARY KEY,
            digest bytea NOT NULL,
            actor text NOT NULL,
            changed_plan_ids text[] NOT NULL,
            withdrawn_plan_ids text[] NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now());

        GRANT SELECT ON billing.plans, billing.plan_versions TO {TENANT};
        GRANT SELECT, INSERT ON billing.plan_versions, billing.catalog_requests TO {FLEET};
        GRANT SELECT, INSERT, UPDATE ON billing.plans TO {FLEET};
    """)


def _make_books() -> None:
    op.execute(change_log_tables("billing", tenant_role=TENANT, fleet_role=FLEET))
    op.execute("""
        CREATE TABLE billing.subscriptions (
            organization_id text NOT NULL,
            subscription_id text NOT NULL,
            plan_id text NOT NULL,
            plan_version bigint NOT NULL,
            status text NOT NULL CHECK (status IN ('ACTIVE', 'SUSPENDED', 'CANCELED')),
            anchor timestamptz NOT NULL,
            entitlement_version bigint NOT NULL CHECK (entitlement_version > 0),
            create_time timestamptz NOT NULL DEFAULT now(),
            end_time timestamptz,
            PRIMARY KEY (organization_id, subscription_id),
            FOREIGN KEY (plan_id, plan_version) REFERENCES billing.plan_versions,
            CHECK ((status = 'CANCELED') = (end_time IS NOT NULL)));
        CREATE UNIQUE INDEX subscription_in_force ON billing.subscriptions (organization_id) WHERE status <> 'CANCELED';

        -- The callers' ids of requests that were done.
        CREATE TABLE billing.requests (
            organization_id text NOT NULL,
            request_id text NOT NULL,
            digest bytea NOT NULL,
            result_id text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, request_id));

        CREATE TABLE billing.stripe_customers (
            organization_id text PRIMARY KEY,
            stripe_customer_id text NOT NULL);

        -- Amounts are minor units: whole numbers of any size.
        CREATE TABLE billing.invoices (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            number text NOT NULL,
            subscription_id text NOT NULL,
            plan_id text NOT NULL,
            plan_version bigint NOT NULL,
            state text NOT NULL CHECK (state IN ('FINALIZED', 'PAID')),
            currency_code text NOT NULL,
            total_minor numeric(38, 0) NOT NULL,
            period_start timestamptz NOT NULL,
            period_end timestamptz NOT NULL CHECK (period_end > period_start),
            closed_through_sequence bigint NOT NULL,
            finalize_time timestamptz NOT NULL,
            stripe_invoice_id text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, invoice_id),
            UNIQUE (organization_id, subscription_id, period_start),
            UNIQUE (organization_id, number),
            FOREIGN KEY (organization_id, subscription_id) REFERENCES billing.subscriptions);
        CREATE INDEX invoices_newest_first ON billing.invoices (organization_id, finalize_time DESC, invoice_id DESC);

        -- Deferred: lines are written before their invoice, so that its number is taken last.
        CREATE TABLE billing.invoice_lines (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            line_number integer NOT NULL,
            kind text NOT NULL CHECK (kind IN ('BASE_FEE', 'OVERAGE')),
            description text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL,
            meter text NOT NULL,
            used_quantity bigint NOT NULL,
            included_quantity bigint NOT NULL,
            charged_quantity bigint NOT NULL,
            unit_price numeric,
            period_start timestamptz NOT NULL,
            period_end timestamptz NOT NULL,
            PRIMARY KEY (organization_id, invoice_id, line_number),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices DEFERRABLE INITIALLY DEFERRED);

        -- What is still to be handed to Stripe, written together with the invoice.
        CREATE TABLE billing.due_invoices (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            parked_reason text NOT NULL DEFAULT '',
            last_error text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, invoice_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices DEFERRABLE INITIALLY DEFERRED);
        CREATE INDEX due_invoices_by_time ON billing.due_invoices (next_attempt_time) WHERE parked_reason = '';

        -- One row per legal entity; its lock hands numbers out one by one.
        CREATE TABLE billing.invoice_numbers (
            legal_entity text PRIMARY KEY,
            prefix text NOT NULL,
            last_number bigint NOT NULL CHECK (last_number >= 0));
        INSERT INTO billing.invoice_numbers VALUES ('default', 'TB', 0);
    """)
    for table in ("subscriptions", "requests", "stripe_customers", "invoices", "invoice_lines", "due_invoices"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    for command in ("SELECT", "UPDATE"):
        op.execute(allow_all("billing.due_invoices", role=FLEET, command=command))
    op.execute(f"""
        GRANT SELECT, INSERT ON billing.subscriptions, billing.requests, billing.stripe_customers, billing.invoices,
            billing.invoice_lines TO {TENANT};
        GRANT SELECT, INSERT, DELETE ON billing.due_invoices TO {TENANT};
        GRANT UPDATE (status, end_time) ON billing.subscriptions TO {TENANT};
        GRANT UPDATE (state, stripe_invoice_id) ON billing.invoices TO {TENANT};
        GRANT SELECT, UPDATE (last_number) ON billing.invoice_numbers TO {TENANT};
        GRANT SELECT, UPDATE (attempt_count, next_attempt_time, parked_reason, last_error)
            ON billing.due_invoices TO {FLEET};
    """)


def _make_inbox() -> None:
    # Of no organization: which one an event concerns is known only once Stripe has been asked. The tenant role marks
    # an event handled in the transaction of its effect and can read nothing of what it says.
    op.execute(f"""
        CREATE TABLE billing.stripe_events (
            event_id text PRIMARY KEY,
            type text NOT NULL,
            object_id text NOT NULL,
            lane text NOT NULL,
            payload bytea NOT NULL,
            receive_time timestamptz NOT NULL,
            arrival bigint GENERATED ALWAYS AS IDENTITY,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            last_error text NOT NULL DEFAULT '',
            handle_time timestamptz,
            outcome text NOT NULL DEFAULT '');
        CREATE INDEX stripe_events_unhandled ON billing.stripe_events (lane, arrival) WHERE handle_time IS NULL;
        GRANT SELECT, INSERT, UPDATE (attempt_count, next_attempt_time, last_error, handle_time, outcome)
            ON billing.stripe_events TO {FLEET};
        GRANT SELECT (event_id, attempt_count, handle_time), UPDATE (handle_time, outcome)
            ON billing.stripe_events TO {TENANT};
    """)
