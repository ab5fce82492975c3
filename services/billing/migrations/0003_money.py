"""Who is billed and taxed, coupons, prepaid credits and credit notes."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "billing_0003"
down_revision = "billing_0002"

TENANT, FLEET = "tollbook_billing_tenant", "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes the tables."""
    _make_operators_tables()
    _make_profiles()
    _make_redemptions()
    _make_credits()
    _make_credit_notes()


def _make_operators_tables() -> None:
    # Of no organization, hence without row security. Tenants read, the fleet role writes; nobody rewrites a version or
    # the terms of a coupon. A tenant counts its redemption, which is one atomic update under the cap.
    op.execute("""
        CREATE TABLE billing.legal_entities (
            legal_entity_id text NOT NULL,
            version bigint NOT NULL CHECK (version > 0),
            content jsonb NOT NULL,
            update_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (legal_entity_id, version));
        INSERT INTO billing.legal_entities (legal_entity_id, version, content, update_time) VALUES ('default', 1,
            '{"legal_name": "Tollbook", "address_lines": [], "country_code": "", "tax_id": "", "mail": "",
               "invoice_prefix": "TB", "credit_note_prefix": "CN", "bank_details": []}', '2000-01-01T00:00:00Z');

        -- As invoice_numbers, in a series of its own.
        CREATE TABLE billing.credit_note_numbers (
            legal_entity text PRIMARY KEY REFERENCES billing.invoice_numbers,
            prefix text NOT NULL,
            last_number bigint NOT NULL CHECK (last_number >= 0));
        INSERT INTO billing.credit_note_numbers VALUES ('default', 'CN', 0);

        CREATE TABLE billing.coupons (
            coupon_id text PRIMARY KEY,
            content jsonb NOT NULL,
            redemptions_max bigint,
            redemption_count bigint NOT NULL DEFAULT 0 CHECK (redemption_count BETWEEN 0 AND redemptions_max),
            redeem_by timestamptz,
            is_withdrawn boolean NOT NULL DEFAULT false,
            create_time timestamptz NOT NULL DEFAULT now());

        -- Who changed what of these, and what a retry is told.
        CREATE TABLE billing.operator_requests (
            request_id text PRIMARY KEY,
            digest bytea NOT NULL,
            method text NOT NULL,
            subject text NOT NULL,
            actor text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now());
    """)
    op.execute(f"""
        GRANT SELECT ON billing.legal_entities, billing.coupons TO {TENANT};
        GRANT SELECT, UPDATE (last_number) ON billing.credit_note_numbers TO {TENANT};
        GRANT UPDATE (redemption_count) ON billing.coupons TO {TENANT};
        GRANT SELECT, INSERT ON billing.legal_entities, billing.coupons, billing.operator_requests,
            billing.invoice_numbers, billing.credit_note_numbers TO {FLEET};
        GRANT UPDATE (prefix) ON billing.invoice_numbers, billing.credit_note_numbers TO {FLEET};
        GRANT UPDATE (is_withdrawn) ON billing.coupons TO {FLEET};
    """)


def _make_profiles() -> None:
    op.execute("""
        CREATE TABLE billing.profiles (
            organization_id text NOT NULL,
            version bigint NOT NULL CHECK (version > 0),
            legal_name text NOT NULL,
            address_lines text[] NOT NULL,
            country_code text NOT NULL,
            tax_id text NOT NULL,
            mail text NOT NULL,
            locale text NOT NULL,
            legal_entity_id text NOT NULL REFERENCES billing.invoice_numbers,
            currency_code text NOT NULL,
            collection_method text NOT NULL CHECK (collection_method IN ('CHARGE_AUTOMATICALLY', 'SEND_INVOICE')),
            term_days integer NOT NULL CHECK (term_days >= 0),
            update_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, version));

        -- Each row is all taxes of the customer from an instant on; percents are text, so that they stay decimals.
        CREATE TABLE billing.tax_rates (
            organization_id text NOT NULL,
            version bigint NOT NULL CHECK (version > 0),
            start_time timestamptz NOT NULL,
            rates jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, version));
    """)
    _keep_apart("profiles", "tax_rates")


def _make_redemptions() -> None:
    op.execute("""
        CREATE TABLE billing.redemptions (
            organization_id text NOT NULL,
            redemption_id text NOT NULL,
            coupon_id text NOT NULL REFERENCES billing.coupons,
            start_time timestamptz NOT NULL,
            redeem_time timestamptz NOT NULL,
            end_time timestamptz,
            PRIMARY KEY (organization_id, redemption_id),
            UNIQUE (organization_id, coupon_id));
    """)
    _keep_apart("redemptions")
    op.execute(f"GRANT UPDATE (end_time) ON billing.redemptions TO {TENANT}")


def _make_credits() -> None:
    # Balances are nowhere but in the journal. An entry is both of its sides, so the accounts always add up to zero;
    # the trigger keeps every grant's and every invoice's part of an account from going below it.
    op.execute("""
        CREATE TABLE billing.credit_grants (
            organization_id text NOT NULL,
            grant_id text NOT NULL,
            currency_code text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL CHECK (amount_minor > 0),
            priority integer NOT NULL CHECK (priority >= 0),
            grant_time timestamptz NOT NULL,
            expire_time timestamptz CHECK (expire_time > grant_time),
            source text NOT NULL CHECK (source IN ('OPERATOR', 'PURCHASE', 'CREDIT_NOTE', 'INVOICE')),
            source_id text NOT NULL CHECK ((source = 'OPERATOR') = (source_id = '')),
            description text NOT NULL,
            PRIMARY KEY (organization_id, grant_id));
        CREATE UNIQUE INDEX credit_grants_once ON billing.credit_grants (organization_id, source, source_id)
            WHERE source_id <> '';

        CREATE TABLE billing.credit_entries (
            organization_id text NOT NULL,
            number bigint NOT NULL CHECK (number > 0),
            grant_id text NOT NULL,
            move text NOT NULL,
            debit text NOT NULL,
            credit text NOT NULL,
            currency_code text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL CHECK (amount_minor > 0),
            entry_time timestamptz NOT NULL,
            invoice_id text NOT NULL,
            PRIMARY KEY (organization_id, number),
            FOREIGN KEY (organization_id, grant_id) REFERENCES billing.credit_grants,
            CHECK ((move, debit, credit) IN (
                ('GRANT', 'GRANTED', 'AVAILABLE'), ('APPLY', 'AVAILABLE', 'APPLIED'),
                ('RETURN', 'APPLIED', 'AVAILABLE'), ('EXPIRE', 'AVAILABLE', 'EXPIRED'),
                ('REVOKE', 'AVAILABLE', 'REVOKED'))),
            CHECK ((move IN ('APPLY', 'RETURN')) = (invoice_id <> '')));
        CREATE INDEX credit_entries_of_grant ON billing.credit_entries (organization_id, grant_id);
        CREATE INDEX credit_entries_of_invoice ON billing.credit_entries (organization_id, invoice_id)
            WHERE invoice_id <> '';

        CREATE FUNCTION billing.check_credit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT sum(CASE WHEN credit = 'AVAILABLE' THEN amount_minor
                                WHEN debit = 'AVAILABLE' THEN -amount_minor ELSE 0 END)
                FROM billing.credit_entries
                WHERE organization_id = NEW.organization_id AND grant_id = NEW.grant_id) < 0
            OR (SELECT sum(CASE credit WHEN 'APPLIED' THEN amount_minor ELSE -amount_minor END)
                FROM billing.credit_entries
                WHERE organization_id = NEW.organization_id AND grant_id = NEW.grant_id
                  AND invoice_id = NEW.invoice_id AND invoice_id <> '') < 0
            OR (SELECT currency_code FROM billing.credit_grants
                WHERE organization_id = NEW.organization_id AND grant_id = NEW.grant_id) <> NEW.currency_code
            THEN
                RAISE check_violation USING MESSAGE = 'credits that are not there';
            END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER credits_are_there AFTER INSERT ON billing.credit_entries
            FOR EACH ROW EXECUTE FUNCTION billing.check_credit_entry();

        -- Which credits are still to be looked at once their time is over.
        CREATE TABLE billing.credit_expiries (
            organization_id text NOT NULL,
            grant_id text NOT NULL,
            expire_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, grant_id));
        CREATE INDEX credit_expiries_by_time ON billing.credit_expiries (expire_time);
    """)
    _keep_apart("credit_grants", "credit_entries", "credit_expiries")
    op.execute(allow_all("billing.credit_expiries", role=FLEET, command="SELECT"))
    op.execute(f"""
        GRANT DELETE ON billing.credit_expiries TO {TENANT};
        GRANT SELECT ON billing.credit_expiries TO {FLEET};
    """)


def _make_credit_notes() -> None:
    op.execute("""
        CREATE TABLE billing.credit_notes (
            organization_id text NOT NULL,
            credit_note_id text NOT NULL,
            number text NOT NULL,
            invoice_id text NOT NULL,
            invoice_number text NOT NULL,
            legal_entity_id text NOT NULL REFERENCES billing.invoice_numbers,
            currency_code text NOT NULL,
            total_minor numeric(38, 0) NOT NULL CHECK (total_minor > 0),
            reduced_minor numeric(38, 0) NOT NULL CHECK (reduced_minor >= 0),
            credited_minor numeric(38, 0) NOT NULL CHECK (credited_minor >= 0),
            refunded_minor numeric(38, 0) NOT NULL CHECK (refunded_minor >= 0),
            reason text NOT NULL,
            memo text NOT NULL,
            create_time timestamptz NOT NULL,
            stripe_credit_note_id text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, credit_note_id),
            UNIQUE (organization_id, number),
            FOREIGN KEY (organization_id, invoice_id) REFERENCES billing.invoices,
            CHECK (reduced_minor + credited_minor + refunded_minor = total_minor));
        CREATE INDEX credit_notes_newest_first
            ON billing.credit_notes (organization_id, create_time DESC, credit_note_id DESC);
        CREATE INDEX credit_notes_of_invoice ON billing.credit_notes (organization_id, invoice_id);

        -- Deferred, as an invoice's: the number is taken last.
        CREATE TABLE billing.credit_note_lines (
            organization_id text NOT NULL,
            credit_note_id text NOT NULL,
            position integer NOT NULL,
            line_number integer NOT NULL,
            role text NOT NULL CHECK (role IN ('CHARGE', 'TAX')),
            description text NOT NULL,
            amount_minor numeric(38, 0) NOT NULL,
            PRIMARY KEY (organization_id, credit_note_id, position),
            UNIQUE (organization_id, credit_note_id, line_number),
            FOREIGN KEY (organization_id, credit_note_id) REFERENCES billing.credit_notes
                DEFERRABLE INITIALLY DEFERRED);

        -- What is still to be done at Stripe, written together with the credit note.
        CREATE TABLE billing.due_credit_notes (
            organization_id text NOT NULL,
            credit_note_id text NOT NULL,
            attempt_count integer NOT NULL DEFAULT 0,
            next_attempt_time timestamptz NOT NULL,
            parked_reason text NOT NULL DEFAULT '',
            last_error text NOT NULL DEFAULT '',
            PRIMARY KEY (organization_id, credit_note_id),
            FOREIGN KEY (organization_id, credit_note_id) REFERENCES billing.credit_notes
                DEFERRABLE INITIALLY DEFERRED);
        CREATE INDEX due_credit_notes_by_time ON billing.due_credit_notes (next_attempt_time)
            WHERE parked_reason = '';
    """)
    _keep_apart("credit_notes", "credit_note_lines", "due_credit_notes")
    for command in ("SELECT", "UPDATE"):
        op.execute(allow_all("billing.due_credit_notes", role=FLEET, command=command))
    op.execute(f"""
        GRANT UPDATE (stripe_credit_note_id) ON billing.credit_notes TO {TENANT};
        GRANT DELETE ON billing.due_credit_notes TO {TENANT};
        GRANT SELECT, UPDATE (attempt_count, next_attempt_time, parked_reason, last_error)
            ON billing.due_credit_notes TO {FLEET};
    """)


def _keep_apart(*tables: str) -> None:
    """One organization's rows each, which its transactions read and add."""
    for table in tables:
        op.execute(protect(f"billing.{table}", tenant_role=TENANT))
        op.execute(f"GRANT SELECT, INSERT ON billing.{table} TO {TENANT}")
