"""A database of billing's own for one test: its catalog, numbers and inbox belong to no organization."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from kit.postgres.database import Database
from kit.postgres.migrate import migrate

_PASSWORDS = {kind: f"{kind}-password-of-tests" for kind in ("tenant", "writer", "fleet")}
_TEMPLATE = "billing_template"


@dataclass(frozen=True)
class BillingDatabase:
    """Where it is, and pools of its two roles."""

    owner_url: str
    tenant_url: str
    fleet_url: str
    tenant: Database
    fleet: Database


@asynccontextmanager
async def billing_database(owner_url: str) -> AsyncIterator[BillingDatabase]:
    """A fresh database with billing's schema, in the server of that URL."""
    _make_template(owner_url)
    name = f"billing_{uuid4().hex}"
    with psycopg.connect(owner_url, autocommit=True) as owner:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        owner.execute(statement.format(sql.Identifier(name), sql.Identifier(_TEMPLATE)))
    urls = {kind: _role_url(owner_url, kind, name) for kind in _PASSWORDS}
    tenant, fleet = Database(urls["tenant"]), Database(urls["fleet"])
    try:
        yield BillingDatabase(_of_database(owner_url, name), urls["tenant"], urls["fleet"], tenant, fleet)
    finally:
        await tenant.close()
        await fleet.close()


@cache
def _make_template(owner_url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
    migrate(_of_database(owner_url, _TEMPLATE), "billing", _PASSWORDS)


def _of_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _role_url(owner_url: str, kind: str, name: str) -> str:
    place = urlsplit(owner_url)
    return f"postgresql://tollbook_billing_{kind}:{_PASSWORDS[kind]}@{place.hostname}:{place.port}/{name}"
