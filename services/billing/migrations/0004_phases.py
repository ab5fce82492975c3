"""Phases: what a subscription was and will be, terms of an organization's own, and when something scheduled begins."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0004"
down_revision = "billing_0003"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the tables, and one phase of each subscription that there is."""
    _widen_subscriptions()
    _make_tables()
    _give_each_its_phase()


def _widen_subscriptions() -> None:
    # plan_id and plan_version stay what was sold first: what is in force now is the phase that phase_number names. What
    # the version before this one inserts has no phase of its own; it is read as one on what was sold, and says nothing
    # of a currency: that version sold one only.
    op.execute(f"""
        ALTER TABLE billing.subscriptions
            ADD COLUMN currency_code text NOT NULL DEFAULT 'USD',
            ADD COLUMN start_time timestamptz,
            ADD COLUMN opening_time timestamptz,
            ADD COLUMN standing text NOT NULL DEFAULT 'GOOD' CHECK (standing IN ('GOOD', 'PAST_DUE', 'SUSPENDED')),
            ADD COLUMN phase_number integer,
            DROP CONSTRAINT subscriptions_status_check,
            DROP CONSTRAINT subscriptions_check,
            ADD CONSTRAINT subscriptions_status_check CHECK (
                status IN ('TRIALING', 'ACTIVE', 'PAST_DUE', 'SUSPENDED', 'PAUSED', 'CANCELED')),
            ADD CONSTRAINT subscriptions_end_check CHECK (status <> 'CANCELED' OR end_time IS NOT NULL);
        GRANT UPDATE (standing, phase_number, entitlement_version) ON billing.subscriptions TO {TENANT};
    """)

    op.execute("""
        UPDATE billing.subscriptions SET currency_code = coalesce(
                content->>'currency_code', content->'price_books'->0->>'currency_code', 'USD')
            FROM billing.plan_versions AS versions
            WHERE versions.plan_id = subscriptions.plan_id AND versions.version = subscriptions.plan_version;
    """)


def _make_tables() -> None:
    op.execute("""
        -- As a plan version's content, and as final. Not in plan_versions, which every organization reads.
        CREATE TABLE billing.custom_plans (
            organization_id text NOT NULL,
            custom_id text NOT NULL,
            plan_id text NOT NULL,
            plan_version bigint NOT NULL,
            content jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, custom_id),
            FOREIGN KEY (plan_id, plan_version) REFERENCES billing.plan_versions);

        -- Only ever added to. One that does not come to pass, or is taken back in the instant of its beginning, is
        -- superseded.
        CREATE TABLE billing.subscription_phases (
            organization_id text NOT NULL,
            subscription_id text NOT NULL,
            phase_number integer NOT NULL CHECK (phase_number > 0),
            start_time timestamptz NOT NULL,
            plan_id text NOT NULL,
            plan_version bigint NOT NULL,
            custom_id text,
            is_trial boolean NOT NULL,
            is_paused boolean NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            supersede_time timestamptz,
            PRIMARY KEY (organization_id, subscription_id, phase_number),
            FOREIGN KEY (organization_id, subscription_id) REFERENCES billing.subscriptions,
            FOREIGN KEY (plan_id, plan_version) REFERENCES billing.plan_versions,
            FOREIGN KEY (organization_id, custom_id) REFERENCES billing.custom_plans);
        CREATE UNIQUE INDEX phase_at_an_instant
            ON billing.subscription_phases (organization_id, subscription_id, start_time) WHERE supersede_time IS NULL;

        -- When the subscription in force changes next, written together with the change.
        CREATE TABLE billing.due_changes (
            organization_id text PRIMARY KEY,
            change_time timestamptz NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            last_error text NOT NULL DEFAULT '');
        CREATE INDEX due_changes_by_time ON billing.due_changes (next_attempt_time);
    """)
    for table in ("custom_plans", "subscription_phases", "due_changes"):
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
    for command in ("SELECT", "UPDATE"):
        op.execute(allow_all("billing.due_changes", role=FLEET, command=command))
    op.execute(f"""
        GRANT SELECT, INSERT ON billing.custom_plans, billing.subscription_phases TO {TENANT};
        GRANT UPDATE (supersede_time) ON billing.subscription_phases TO {TENANT};
        GRANT SELECT, INSERT, UPDATE, DELETE ON billing.due_changes TO {TENANT};
        GRANT SELECT, UPDATE (attempt_count, next_attempt_time, last_error) ON billing.due_changes TO {FLEET};
    """)


def _give_each_its_phase() -> None:
    op.execute("""
        INSERT INTO billing.subscription_phases (
            organization_id, subscription_id, phase_number, start_time, plan_id, plan_version, is_trial, is_paused)
        SELECT organization_id, subscription_id, 1, anchor, plan_id, plan_version, false, false
        FROM billing.subscriptions;
        UPDATE billing.subscriptions SET phase_number = 1, start_time = anchor,
            opening_time = create_time + interval '30 minutes';
    """)
