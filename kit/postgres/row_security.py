"""The SQL of row-level security, written once for every migration."""

from __future__ import annotations

# The sub-select makes Postgres read the setting once per statement and not once per row.
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('tollbook.organization_id', true), ''))"


def protect(table: str, *, tenant_role: str) -> str:
    """Statements that force row-level security on `schema.table` and let the tenant role at its own rows only."""
    return f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant ON {table} TO {tenant_role}
            USING (organization_id = {CURRENT_ORGANIZATION})
            WITH CHECK (organization_id = {CURRENT_ORGANIZATION});
    """


def allow_all(table: str, *, role: str, command: str = "ALL") -> str:
    """A policy by which a writer or fleet role may run `command` on the rows of every organization."""
    clauses = {"SELECT": "USING (true)", "INSERT": "WITH CHECK (true)", "DELETE": "USING (true)"}
    kind = role.rpartition("_")[2]
    clause = clauses.get(command, "USING (true) WITH CHECK (true)")
    return f"CREATE POLICY {kind}_{command.lower()} ON {table} FOR {command} TO {role} {clause};"
