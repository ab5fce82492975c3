"""A pool of connections of one role, and transactions that are bound to one organization."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from kit.errors import DependencyUnavailable
from kit.ids import is_organization_id

POOL_SIZE = 8
POOL_WAIT_SECONDS = 5
STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
CONNECT_TIMEOUT_SECONDS = 3
_READ_ONLY = "25006"  # read_only_sql_transaction
# A server that vanished without a word is noticed within half a minute, not after the kernel's two hours.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}


class UnsafeRole(Exception):
    """The database role could see or change what it must not; the service refuses to start."""


class Database:
    """The connections of one role of one service. Opens nothing until it is used."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        options = (
            f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
        )
        self._engine = create_async_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECONDS,
            connect_args={"options": options, "connect_timeout": CONNECT_TIMEOUT_SECONDS, **_KEEPALIVE},
            # Statements carry customers' ids; an error in a log shows the statement alone.
            hide_parameters=True,
        )

    @asynccontextmanager
    async def transaction(
        self, *, organization_id: str | None = None, snapshot: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        organization_id: whose rows the tenant role sees, for this transaction only; None shows a tenant role no rows.
        snapshot: every statement reads the same instant, and nothing can be written.
        Raises DependencyUnavailable when the server cannot be reached or takes no writes, or no connection of the pool
        comes free; then nothing can be said about a commit that was under way, and a retry must carry the same ids.
        """
        try:
            async with self._engine.connect() as connection:
                if snapshot:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                async with connection.begin():
                    if organization_id is not None:
                        await connection.exec_driver_sql(set_organization(organization_id))
                    yield connection
        except PoolTimeoutError as error:
            raise DependencyUnavailable(dependency="Postgres (each of this pool's connections is in use)") from error
        except (OperationalError, InterfaceError) as error:
            raise DependencyUnavailable(dependency="Postgres") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DependencyUnavailable(dependency="Postgres") from error
            if not snapshot and getattr(error.orig, "sqlstate", None) == _READ_ONLY:
                raise DependencyUnavailable(dependency="Postgres (it takes no writes: a standby, or set so)") from error
            raise

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[bool]:
        """Whether nobody else holds this name in the database; if so it is held until the block ends, the process does
        or the connection breaks. So it keeps two from doing the same work, and must not keep them from doing harm.
        Takes a connection for as long. Raises DependencyUnavailable.
        """
        try:
            async with self._engine.connect() as connection:
                # No transaction: one would be ended for being idle.
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                lock = {"name": name}
                is_held = (
                    await connection.execute(text("SELECT pg_try_advisory_lock(hashtext(:name))"), lock)
                ).scalar_one()
                try:
                    yield is_held
                finally:
                    if is_held:
                        await connection.execute(text("SELECT pg_advisory_unlock(hashtext(:name))"), lock)
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise DependencyUnavailable(dependency="Postgres") from error

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless the server answers."""
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    async def assert_safe_role(self) -> None:
        """Raises UnsafeRole when this role is a superuser, bypasses row-level security, can make roles or replicate,
        can reach the server's files, owns a relation, schema or function, or is a member of a role that does.
        """
        async with self.transaction() as connection:
            problems = (await connection.execute(text(_UNSAFE_ROLE))).scalars().all()
        if problems:
            raise UnsafeRole("; ".join(problems))

    async def close(self) -> None:
        """Closes every connection."""
        await self._engine.dispose()


def set_organization(organization_id: str) -> str:
    """The statement that binds the current transaction to an organization. Raises ValueError on a malformed id."""
    # It goes into the statement as a literal (SET takes no parameters): nothing but an id's characters may reach it.
    if not is_organization_id(organization_id):
        msg = f"malformed organization id {organization_id!r}"
        raise ValueError(msg)
    return f"SET LOCAL tollbook.organization_id = '{organization_id}'"


_UNSAFE_ROLE = """
WITH mine AS (SELECT oid, rolname, rolsuper, rolbypassrls, rolcreaterole, rolreplication FROM pg_roles
              WHERE pg_has_role(current_user, oid, 'MEMBER'))
SELECT format('role %s is a superuser', rolname) FROM mine WHERE rolsuper
UNION ALL SELECT format('role %s bypasses row-level security', rolname) FROM mine WHERE rolbypassrls
UNION ALL SELECT format('role %s can create roles', rolname) FROM mine WHERE rolcreaterole
UNION ALL SELECT format('role %s can replicate every row', rolname) FROM mine WHERE rolreplication
UNION ALL SELECT format('role %s is a member of %s', current_user, rolname) FROM mine
          WHERE rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
            AND NOT EXISTS (SELECT 1 FROM mine WHERE rolsuper)
UNION ALL (SELECT format('role %s owns relation %s', rolname, c.oid::regclass)
           FROM mine JOIN pg_class c ON c.relowner = mine.oid LIMIT 5)
UNION ALL (SELECT format('role %s owns schema %s', rolname, n.nspname)
           FROM mine JOIN pg_namespace n ON n.nspowner = mine.oid LIMIT 5)
UNION ALL (SELECT format('role %s owns function %s', rolname, p.oid::regprocedure)
           FROM mine JOIN pg_proc p ON p.proowner = mine.oid LIMIT 5)
"""
