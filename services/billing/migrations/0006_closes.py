"""Closes: which cuts were made, when the next one is due, and what every invoice line is for."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0006"
down_revision = "billing_0005"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Widens invoices, and makes the closes of the invoices that there are."""
    _widen_invoices()
    _make_closes()
    _fill_closes()


def _widen_invoices() -> None:
    # A period has several invoices now; that it is closed once is for the closes. A line says which due it is a part
    # of; what a version before this one writes says it by its kind, period and meter, and is read so.
    op.execute("""
        ALTER TABLE billing.invoices
            DROP CONSTRAINT invoices_organization_id_subscription_id_period_start_key,
            ADD COLUMN cut text NOT NULL DEFAULT 'EARLY',
            ADD COLUMN legal_entity_id text NOT NULL DEFAULT 'default' REFERENCES billing.invoice_numbers;
        CREATE INDEX invoices_of_subscription ON billing.invoices (organization_id, subscription_id);

        ALTER TABLE billing.invoice_lines
            DROP CONSTRAINT invoice_lines_kind_check,
            ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN (
                'BASE_FEE', 'FLAT_FEE', 'OVERAGE', 'MINIMUM', 'DISCOUNT', 'ADJUSTMENT', 'PRORATION', 'TAX', 'CREDIT',
                'ROUNDING', 'TO_CREDIT')),
            ADD COLUMN difference_quantity bigint NOT NULL DEFAULT 0,
            ADD COLUMN first_sequence bigint NOT NULL DEFAULT 0,
            ADD COLUMN last_sequence bigint NOT NULL DEFAULT 0,
            ADD COLUMN corrects_invoice_id text NOT NULL DEFAULT '',
            ADD COLUMN due_kind text,
            ADD COLUMN category text,
            ADD COLUMN interval_start timestamptz,
            ADD COLUMN interval_end timestamptz,
            ADD COLUMN charge_id text,
            ADD COLUMN segment_start timestamptz,
            ADD CONSTRAINT invoice_lines_key_check CHECK (
                num_nulls(due_kind, category, interval_start, interval_end, charge_id, segment_start) IN (0, 6));
    """)


def _make_closes() -> None:
    op.execute("""
        CREATE TABLE billing.closes (
            organization_id text NOT NULL,
            subscription_id text NOT NULL,
            period_start timestamptz NOT NULL,
            cut text NOT NULL CHECK (cut IN ('OPENING', 'PERIOD', 'EARLY', 'FINAL', 'RERATED')),
            ordinal integer NOT NULL CHECK (ordinal >= 0),
            through_sequence bigint NOT NULL CHECK (through_sequence >= 0),
            invoice_id text,
            close_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, subscription_id, period_start, cut, ordinal),
            FOREIGN KEY (organization_id, subscription_id) REFERENCES billing.subscriptions,
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices DEFERRABLE INITIALLY DEFERRED);

        -- When a subscription's next cut is due, written together with what decides it.
        CREATE TABLE billing.due_closes (
            organization_id text NOT NULL,
            subscription_id text NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            last_error text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, subscription_id));
        CREATE INDEX due_closes_by_time ON billing.due_closes (next_attempt_time);
    """)
    for table in ("closes", "due_closes"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    for command in ("SELECT", "UPDATE"):
        op.execute(allow_all("billing.due_closes", role=FLEET, command=command))
    op.execute(f"""
        GRANT SELECT, INSERT ON billing.closes TO {TENANT};
        GRANT SELECT, INSERT, UPDATE, DELETE ON billing.due_closes TO {TENANT};
        GRANT SELECT, UPDATE (attempt_count, next_attempt_time, last_error) ON billing.due_closes TO {FLEET};
    """)


def _fill_closes() -> None:
    # Every invoice until now closed its period early. Whoever has a paid plan gets its cuts by itself from now on; the
    # first look at it finds out when that is.
    op.execute("""
        INSERT INTO billing.closes (
            organization_id, subscription_id, period_start, cut, ordinal, through_sequence, invoice_id, close_time)
        SELECT organization_id, subscription_id, period_start, 'EARLY', 0, closed_through_sequence, invoice_id,
            finalize_time
        FROM billing.invoices;
        INSERT INTO billing.due_closes (organization_id, subscription_id, next_attempt_time)
        SELECT organization_id, subscription_id, now() + interval '30 minutes' FROM billing.subscriptions
        WHERE plan_id <> 'free';
    """)
