"""Invoices that sell credits, and are about no subscription."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import protect

revision = "billing_0011"
down_revision = "billing_0010"

TENANT = "tollbook_billing_tenant"


def upgrade() -> None:
    """Widens invoices, and makes the purchases."""
    op.execute("""
        ALTER TABLE billing.invoices
            ALTER COLUMN subscription_id DROP NOT NULL,
            ADD CONSTRAINT invoices_subscription_check CHECK ((cut = 'PURCHASE') = (subscription_id IS NULL));
        ALTER TABLE billing.invoice_lines
            DROP CONSTRAINT invoice_lines_kind_check,
            ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN (
                'BASE_FEE', 'FLAT_FEE', 'OVERAGE', 'MINIMUM', 'DISCOUNT', 'ADJUSTMENT', 'PRORATION', 'TAX', 'CREDIT',
                'ROUNDING', 'TO_CREDIT', 'CREDIT_PURCHASE'));

        -- What was agreed when it was ordered: nobody changes it afterwards.
        CREATE TABLE billing.credit_purchases (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            currency_code text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL CHECK (amount_minor > 0),
            valid_days integer NOT NULL CHECK (valid_days >= 0),
            PRIMARY KEY (organization_id, invoice_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices DEFERRABLE INITIALLY DEFERRED);
    """)
    op.execute(protect("billing.credit_purchases", tenant_role=TENANT))
    op.execute(f"GRANT SELECT, INSERT ON billing.credit_purchases TO {TENANT}")
