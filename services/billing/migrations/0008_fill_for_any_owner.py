"""Phases, closes and revenue of what was there before them, also where the owner is no superuser: forced row security
had hidden the rows that billing_0004, billing_0006 and billing_0007 were to fill them from.
"""

from __future__ import annotations

from alembic import op

revision = "billing_0008"
down_revision = "billing_0007"

TABLES = (
    "subscriptions",
    "subscription_phases",
    "invoices",
    "invoice_lines",
    "closes",
    "due_closes",
    "revenue_standings",
    "revenue_usage",
)


def upgrade() -> None:
    """Fills what is missing. What is there stays as it is."""
    for table in TABLES:
        op.execute(f"ALTER TABLE billing.{table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        INSERT INTO billing.subscription_phases (
            organization_id, subscription_id, phase_number, start_time, plan_id, plan_version, is_trial, is_paused)
        SELECT organization_id, subscription_id, 1, anchor, plan_id, plan_version, false, false
        FROM billing.subscriptions AS sold
        WHERE NOT EXISTS (
            SELECT FROM billing.subscription_phases AS phases
            WHERE phases.organization_id = sold.organization_id AND phases.subscription_id = sold.subscription_id);
        UPDATE billing.subscriptions SET currency_code = coalesce(
                content->>'currency_code', content->'price_books'->0->>'currency_code', 'USD')
            FROM billing.plan_versions AS versions
            WHERE start_time IS NULL
                AND versions.plan_id = subscriptions.plan_id AND versions.version = subscriptions.plan_version;
        UPDATE billing.subscriptions SET phase_number = coalesce(phase_number, 1), start_time = anchor,
            opening_time = create_time + interval '30 minutes' WHERE start_time IS NULL;
    """)
    # A look too many at a subscription whose cuts are all made takes it off the list again.
    op.execute("""
        INSERT INTO billing.closes (
            organization_id, subscription_id, period_start, cut, ordinal, through_sequence, invoice_id, close_time)
        SELECT organization_id, subscription_id, period_start, 'EARLY', 0, closed_through_sequence, invoice_id,
            finalize_time
        FROM billing.invoices AS made
        WHERE NOT EXISTS (
            SELECT FROM billing.closes
            WHERE closes.organization_id = made.organization_id AND closes.invoice_id = made.invoice_id)
        ON CONFLICT DO NOTHING;
        INSERT INTO billing.due_closes (organization_id, subscription_id, next_attempt_time)
        SELECT organization_id, subscription_id, now() + interval '30 minutes' FROM billing.subscriptions AS sold
        WHERE plan_id <> 'free' AND NOT EXISTS (
            SELECT FROM billing.closes
            WHERE closes.organization_id = sold.organization_id AND closes.subscription_id = sold.subscription_id
                AND closes.cut <> 'EARLY')
        ON CONFLICT DO NOTHING;
    """)
    op.execute("""
        INSERT INTO billing.revenue_standings
        SELECT sold.organization_id, sold.entitlement_version, sold.create_time, phases.plan_id, sold.status,
            sold.currency_code, 12 * CAST(coalesce(
                versions.content->>'monthly_price', versions.content->'price_books'->0->>'base_price') AS numeric)
        FROM billing.subscriptions AS sold
            JOIN billing.subscription_phases AS phases USING (organization_id, subscription_id, phase_number)
            JOIN billing.plan_versions AS versions
                ON versions.plan_id = phases.plan_id AND versions.version = phases.plan_version
        WHERE sold.status <> 'CANCELED' AND NOT EXISTS (
            SELECT FROM billing.revenue_standings AS standings WHERE standings.organization_id = sold.organization_id);
        INSERT INTO billing.revenue_usage
        SELECT organization_id, invoice_id, line_number, finalize_time, invoices.plan_id, currency_code, amount_minor,
            meter, used_quantity, lines.period_start
        FROM billing.invoice_lines AS lines JOIN billing.invoices AS invoices USING (organization_id, invoice_id)
        WHERE meter <> '' AND state <> 'VOID'
        ON CONFLICT DO NOTHING;
    """)
    # A table whose deferred keys are yet to be checked cannot be altered.
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table in TABLES:
        op.execute(f"ALTER TABLE billing.{table} FORCE ROW LEVEL SECURITY")
