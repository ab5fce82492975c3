"""Brings one service's schema up to date: its roles, its schema and the migrations in its folder. Run by the owner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql

_HERE = Path(__file__).parent
_SERVICES = _HERE.parent.parent / "services"
# Any fixed number: two migrations of one database wait for each other.
_MIGRATION_LOCK = 7_355_608


def migrate(owner_url: str, service: str, role_passwords: Mapping[str, str], *, upto: str = "head") -> None:
    """Creates the roles `tollbook_<service>_<kind>` (kind: the keys of role_passwords), sets their passwords, makes
    the service's schema and applies its new migrations, up to a revision. Running it again changes nothing but
    passwords. Blocking.
    """
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(service)))
        for kind, password in role_passwords.items():
            _ensure_role(connection, f"tollbook_{service}_{kind}", password, schema=service)
        config = Config()
        config.set_main_option("script_location", str(_HERE / "alembic"))
        config.set_main_option("version_locations", str(_SERVICES / service / "migrations"))
        config.set_main_option("path_separator", "newline")
        config.attributes["owner_url"] = owner_url
        config.attributes["schema"] = service
        command.upgrade(config, upto)


def _ensure_role(connection: psycopg.Connection, role: str, password: str, *, schema: str) -> None:
    name = sql.Identifier(role)
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(name))
    # Only the SCRAM verifier travels, so that the password is in no server log.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(verifier)))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), name))
