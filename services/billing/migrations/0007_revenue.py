"""Revenue: what each organization's subscription comes to since when, and what invoices charged for usage."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0007"
down_revision = "billing_0006"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the two lists, and tells them of the subscriptions and invoices that there are."""
    op.execute("""
        -- Only ever added to: of two the one with the higher sequence holds, from its own time on.
        CREATE TABLE billing.revenue_standings (
            organization_id text NOT NULL,
            sequence bigint NOT NULL,
            since timestamptz NOT NULL,
            plan_id text NOT NULL,
            status text NOT NULL,
            currency_code text NOT NULL,
            annual_amount numeric NOT NULL,
            PRIMARY KEY (organization_id, sequence));

        -- The lines about usage of invoices that are not void.
        CREATE TABLE billing.revenue_usage (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            line_number integer NOT NULL,
            finalize_time timestamptz NOT NULL,
            plan_id text NOT NULL,
            currency_code text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL,
            meter text NOT NULL,
            quantity bigint NOT NULL,
            period_start timestamptz NOT NULL,
            PRIMARY KEY (organization_id, invoice_id, line_number));
        CREATE INDEX revenue_usage_by_time ON billing.revenue_usage (finalize_time);
    """)
    for table in ("revenue_standings", "revenue_usage"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
        op.execute(allow_all(f"billing.{table}", role=FLEET, command="SELECT"))
        op.execute(f"GRANT SELECT ON billing.{table} TO {FLEET}")
        op.execute(f"GRANT SELECT, INSERT ON billing.{table} TO {TENANT}")
    op.execute(f"GRANT DELETE ON billing.revenue_usage TO {TENANT}")
    op.execute("""
        -- Every plan that was sold before this has its price by the month, in one of two forms, and no flat fee in
        -- the first of them.
        INSERT INTO billing.revenue_standings
        SELECT sold.organization_id, sold.entitlement_version, sold.create_time,
            coalesce(phases.plan_id, sold.plan_id), sold.status, sold.currency_code,
            12 * CAST(coalesce(
                versions.content->>'monthly_price', versions.content->'price_books'->0->>'base_price') AS numeric)
        FROM billing.subscriptions AS sold
            LEFT JOIN billing.subscription_phases AS phases USING (organization_id, subscription_id, phase_number)
            JOIN billing.plan_versions AS versions ON versions.plan_id = coalesce(phases.plan_id, sold.plan_id)
                AND versions.version = coalesce(phases.plan_version, sold.plan_version)
        WHERE sold.status <> 'CANCELED';

        INSERT INTO billing.revenue_usage
        SELECT organization_id, invoice_id, line_number, finalize_time, invoices.plan_id, currency_code, amount_minor,
            meter, used_quantity, lines.period_start
        FROM billing.invoice_lines AS lines JOIN billing.invoices AS invoices USING (organization_id, invoice_id)
        WHERE meter <> '';
    """)
