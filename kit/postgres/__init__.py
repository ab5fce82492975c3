"""Postgres: pools per role, tenant transactions, roles and migrations."""
