"""What becomes of an invoice at Stripe: its states, refunds, disputes, dunning, held drafts, and mails to be sent."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0005"
down_revision = "billing_0004"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the tables of payments."""
    _extend()
    _make_payments()
    _make_dunning()
    _make_mails()


def _extend() -> None:
    # A customer that was deleted at Stripe gives its place to another: the count keeps their idempotency keys apart.
    # Who holds a claim is told from who waits for the next attempt: only the former keeps an operator from settling.
    op.execute(f"""
        ALTER TABLE billing.stripe_customers ADD COLUMN generation integer NOT NULL DEFAULT 0;
        GRANT UPDATE (stripe_customer_id, generation) ON billing.stripe_customers TO {TENANT};

        ALTER TABLE billing.invoices DROP CONSTRAINT invoices_state_check, ADD CONSTRAINT invoices_state_check
            CHECK (state IN ('FINALIZED', 'PAID', 'PAST_DUE', 'VOID', 'UNCOLLECTIBLE'));

        ALTER TABLE billing.due_invoices ADD COLUMN is_claimed boolean NOT NULL DEFAULT false;
        GRANT UPDATE (is_claimed) ON billing.due_invoices TO {FLEET};
    """)


def _make_payments() -> None:
    op.execute("""
        CREATE TABLE billing.refunds (
            organization_id text NOT NULL,
            stripe_refund_id text NOT NULL,
            invoice_id text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL,
            currency_code text NOT NULL,
            status text NOT NULL,
            credit_note_id text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, stripe_refund_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices);
        CREATE INDEX refunds_of_invoice ON billing.refunds (organization_id, invoice_id);

        CREATE TABLE billing.disputes (
            organization_id text NOT NULL,
            stripe_dispute_id text NOT NULL,
            invoice_id text NOT NULL,
            stripe_charge_id text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL,
            currency_code text NOT NULL,
            status text NOT NULL,
            reason text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, stripe_dispute_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices);
        CREATE INDEX disputes_of_invoice ON billing.disputes (organization_id, invoice_id);

        -- Drafts that Stripe made for its subscriptions, held until an invoice of ours goes onto them.
        CREATE TABLE billing.stripe_drafts (
            organization_id text NOT NULL,
            stripe_invoice_id text NOT NULL,
            stripe_customer_id text NOT NULL,
            invoice_id text NOT NULL DEFAULT '',
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, stripe_invoice_id));
        CREATE UNIQUE INDEX stripe_drafts_by_invoice ON billing.stripe_drafts (organization_id, invoice_id)
            WHERE invoice_id <> '';
    """)
    for table in ("refunds", "disputes", "stripe_drafts"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    op.execute(f"""
        GRANT SELECT, INSERT ON billing.refunds, billing.disputes, billing.stripe_drafts TO {TENANT};
        GRANT UPDATE (status) ON billing.refunds TO {TENANT};
        GRANT UPDATE (status, reason) ON billing.disputes TO {TENANT};
        GRANT DELETE, UPDATE (invoice_id) ON billing.stripe_drafts TO {TENANT};
    """)


def _make_dunning() -> None:
    op.execute("""
        CREATE TABLE billing.dunnings (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            begin_time timestamptz NOT NULL,
            is_suspending boolean NOT NULL DEFAULT false,
            end_time timestamptz,
            PRIMARY KEY (organization_id, invoice_id),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices);
        CREATE INDEX dunnings_open ON billing.dunnings (organization_id, begin_time) WHERE end_time IS NULL;

        -- Each step of each dunning at most once: this key is what makes it so.
        CREATE TABLE billing.dunning_steps (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            step text NOT NULL,
            do_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, invoice_id, step),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.dunnings);

        CREATE TABLE billing.due_dunnings (
            organization_id text NOT NULL,
            invoice_id text NOT NULL,
            next_attempt_time timestamptz NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            last_error text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, invoice_id));
        CREATE INDEX due_dunnings_by_time ON billing.due_dunnings (next_attempt_time);
    """)
    for table in ("dunnings", "dunning_steps", "due_dunnings"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    for command in ("SELECT", "UPDATE"):
        op.execute(allow_all("billing.due_dunnings", role=FLEET, command=command))
    op.execute(f"""
        GRANT SELECT, INSERT ON billing.dunnings, billing.dunning_steps TO {TENANT};
        GRANT UPDATE (is_suspending, end_time) ON billing.dunnings TO {TENANT};
        GRANT SELECT, INSERT, UPDATE, DELETE ON billing.due_dunnings TO {TENANT};
        GRANT SELECT, UPDATE (next_attempt_time, attempt_count, last_error) ON billing.due_dunnings TO {FLEET};
    """)


def _make_mails() -> None:
    # Written in the transaction of what it tells; who sends keeps a list of its own.
    op.execute(f"""
        CREATE TABLE billing.mail_outbox (
            organization_id text NOT NULL,
            mail_id text NOT NULL,
            kind text NOT NULL,
            reason text NOT NULL,
            data jsonb NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, mail_id),
            UNIQUE (organization_id, kind, reason));
        {protect("billing.mail_outbox", tenant_role=TENANT)}
        GRANT SELECT, INSERT ON billing.mail_outbox TO {TENANT};
    """)
