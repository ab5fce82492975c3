"""Which mails are to be sent, and what became of the others; and what is kept only for a while."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0010"
down_revision = "billing_0009"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the list, and what may be let go of."""
    _make_list()
    _let_go()


def _make_list() -> None:
    # What was written before anybody sent mail tells of what is long past.
    op.execute("""
        ALTER TABLE billing.mail_outbox
            ADD COLUMN outcome text NOT NULL DEFAULT ''
                CHECK (outcome IN ('', 'SENT', 'NO_ADDRESS', 'SKIPPED', 'OBSOLETE')),
            ADD COLUMN close_time timestamptz CHECK ((close_time IS NULL) = (outcome = ''));
        ALTER TABLE billing.mail_outbox NO FORCE ROW LEVEL SECURITY;
        UPDATE billing.mail_outbox SET outcome = 'SKIPPED', close_time = now();
        ALTER TABLE billing.mail_outbox FORCE ROW LEVEL SECURITY;

        CREATE TABLE billing.due_mails (
            organization_id text NOT NULL,
            mail_id text NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            last_error text NOT NULL DEFAULT '',
            parked_reason text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, mail_id),
            FOREIGN KEY (organization_id, mail_id) REFERENCES billing.mail_outbox);
        CREATE INDEX due_mails_by_time ON billing.due_mails (next_attempt_time) WHERE parked_reason = '';
    """)
    op.execute(f"""
        {protect("billing.due_mails", tenant_role=TENANT)}
        {allow_all("billing.due_mails", role=FLEET, command="SELECT")}
        {allow_all("billing.due_mails", role=FLEET, command="UPDATE")}
        GRANT UPDATE (outcome, close_time) ON billing.mail_outbox TO {TENANT};
        GRANT SELECT, INSERT, DELETE ON billing.due_mails TO {TENANT};
        GRANT SELECT, UPDATE (attempt_count, next_attempt_time, last_error, parked_reason) ON billing.due_mails
            TO {FLEET};
    """)


def _let_go() -> None:
    # The fleet role may delete what is over for long enough, and of that sees no more than its keys: the policies say
    # how long at least, so no mistake of the service takes what a retry of yesterday still needs.
    for table, time, days in (("requests", "create_time", 90), ("mail_outbox", "close_time", 90)):
        key = "request_id" if table == "requests" else "mail_id"
        op.execute(f"""
            CREATE INDEX {table}_by_{time} ON billing.{table} ({time}) WHERE {time} IS NOT NULL;
            CREATE POLICY fleet_select ON billing.{table} FOR SELECT TO {FLEET}
                USING ({time} < now() - interval '{days} days');
            CREATE POLICY fleet_delete ON billing.{table} FOR DELETE TO {FLEET}
                USING ({time} < now() - interval '{days} days');
            GRANT SELECT (organization_id, {key}, {time}), DELETE ON billing.{table} TO {FLEET};
        """)
    op.execute(f"""
        CREATE INDEX stripe_events_handled ON billing.stripe_events (handle_time) WHERE handle_time IS NOT NULL;
        GRANT DELETE ON billing.stripe_events TO {FLEET};
    """)
