"""Alembic's entry: runs the migrations of the schema that kit.postgres.migrate names, one transaction each."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool

config = context.config
engine = create_engine(
    config.attributes["owner_url"].replace("postgresql://", "postgresql+psycopg://", 1),
    poolclass=pool.NullPool,
)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        version_table="schema_version",
        version_table_schema=config.attributes["schema"],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
