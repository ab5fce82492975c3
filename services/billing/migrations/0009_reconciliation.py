"""Reconciliation: what differs between our record and Stripe's, in whose books, and what somebody accepted of it."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0009"
down_revision = "billing_0008"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the reports, which are the operator's, and the differences, which are each organization's."""
    op.execute("""
        CREATE TABLE billing.reconciliations (
            report_id text PRIMARY KEY,
            actor text NOT NULL,
            begin_time timestamptz NOT NULL,
            end_time timestamptz NOT NULL,
            organization_count integer NOT NULL,
            difference_count integer NOT NULL,
            pending_count integer NOT NULL,
            failed jsonb NOT NULL,
            organization_ids text[] NOT NULL);
        CREATE INDEX reconciliations_newest_first ON billing.reconciliations (begin_time DESC, report_id DESC);

        CREATE TABLE billing.differences (
            organization_id text NOT NULL,
            report_id text NOT NULL,
            difference_id text NOT NULL,
            kind text NOT NULL,
            object_id text NOT NULL,
            stripe_id text NOT NULL,
            ours text NOT NULL,
            theirs text NOT NULL,
            our_minor numeric(38, 0),
            our_currency text NOT NULL,
            their_minor numeric(38, 0),
            their_currency text NOT NULL,
            repair text NOT NULL,
            since timestamptz NOT NULL,
            period_start timestamptz,
            is_pending boolean NOT NULL,
            outcome text NOT NULL,
            PRIMARY KEY (organization_id, report_id, difference_id));

        CREATE TABLE billing.accepted_differences (
            organization_id text NOT NULL,
            difference_id text NOT NULL,
            accept_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, difference_id));
    """)
    for table in ("differences", "accepted_differences"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    # Of customers the fleet reads whose there are, and not which.
    op.execute(allow_all("billing.stripe_customers", role=FLEET, command="SELECT"))
    op.execute(f"""
        GRANT SELECT (organization_id) ON billing.stripe_customers TO {FLEET};
        GRANT SELECT, INSERT ON billing.reconciliations TO {FLEET};
        GRANT SELECT, INSERT ON billing.differences, billing.accepted_differences TO {TENANT};
        GRANT UPDATE (outcome) ON billing.differences TO {TENANT};
    """)
