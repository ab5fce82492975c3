"""The plan catalog in Postgres: tenants' role reads it, the fleet role writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import RequestIdReused
from kit.postgres.database import Database
from services.billing.adapters.plan_content import plan_from_content, plan_to_content
from services.billing.domain.catalog import CatalogChange, CatalogPlan, Plan, change_catalog, cheapest_first


class PostgresPlans:
    """Plans over the tenant and the fleet role. Versions never change, so each is read once."""

    def __init__(self, tenant: Database, fleet: Database) -> None:
        self._tenant = tenant
        self._fleet = fleet
        self._versions: dict[tuple[str, int], Plan] = {}

    async def sold(self) -> Sequence[Plan]:
        """As Plans."""
        async with self._tenant.transaction() as connection:
            known = await _newest_of_all(connection)
        return cheapest_first([entry.plan for entry in known.values() if entry.is_sold])

    async def newest(self, plan_id: str) -> CatalogPlan | None:
        """As Plans."""
        async with self._tenant.transaction() as connection:
            return (await _newest_of_all(connection)).get(plan_id)

    async def known(self) -> Mapping[str, CatalogPlan]:
        """As Plans."""
        async with self._tenant.transaction() as connection:
            return await _newest_of_all(connection)

    async def version(self, plan_id: str, version: int) -> Plan:
        """As Plans."""
        key = (plan_id, version)
        if key not in self._versions:
            async with self._tenant.transaction() as connection:
                names = {"plan_id": plan_id, "version": version}
                content = (await connection.execute(_VERSION, names)).scalar_one()
            self._versions[key] = plan_from_content(plan_id, version, content)
        return self._versions[key]

    async def apply(self, plans: Sequence[Plan], *, request_id: str, digest: bytes, actor: str) -> CatalogChange:
        """As Plans."""
        async with self._fleet.transaction() as connection:
            # Appliers take turns from here on; readers of the catalog do not wait.
            await connection.execute(_TAKE_TURN)
            known = await _newest_of_all(connection)
            before = (await connection.execute(_REQUEST, {"request_id": request_id})).one_or_none()
            if before is not None:
                return _applied_before(request_id, digest, before, known)
            change = change_catalog(plans, known)
            for plan in change.changed:
                names = {"plan_id": plan.plan_id, "version": plan.version, "content": plan_to_content(plan)}
                await connection.execute(_ADD_VERSION, names)
            for plan in change.sold:
                await connection.execute(_SELL, {"plan_id": plan.plan_id, "version": plan.version})
            await connection.execute(_WITHDRAW, {"plan_ids": list(change.withdrawn)})
            names = {
                "request_id": request_id,
                "digest": digest,
                "actor": actor,
                "changed": [plan.plan_id for plan in change.changed],
                "withdrawn": list(change.withdrawn),
            }
            await connection.execute(_REMEMBER, names)
        return change


def _applied_before(request_id: str, digest: bytes, before: Any, known: Mapping[str, CatalogPlan]) -> CatalogChange:
    if bytes(before.digest) != digest:
        raise RequestIdReused(request_id=request_id)
    sold = cheapest_first([entry.plan for entry in known.values() if entry.is_sold])
    changed = tuple(known[plan_id].plan for plan_id in before.changed_plan_ids)
    return CatalogChange(sold, changed, tuple(before.withdrawn_plan_ids))


async def _newest_of_all(connection: AsyncConnection) -> dict[str, CatalogPlan]:
    rows = await connection.execute(_NEWEST)
    return {
        row.plan_id: CatalogPlan(plan_from_content(row.plan_id, row.version, row.content), row.is_sold) for row in rows
    }


# Conflicts with itself and with writers of the table, never with those who read it.
_TAKE_TURN = text("LOCK TABLE billing.plans IN SHARE ROW EXCLUSIVE MODE")
_NEWEST = text("""
    SELECT plans.plan_id, versions.version, versions.content, plans.is_sold
    FROM billing.plans JOIN billing.plan_versions AS versions
        ON versions.plan_id = plans.plan_id AND versions.version = plans.newest_version
""")
_VERSION = text("SELECT content FROM billing.plan_versions WHERE plan_id = :plan_id AND version = :version")
_REQUEST = text("""
    SELECT digest, changed_plan_ids, withdrawn_plan_ids FROM billing.catalog_requests WHERE request_id = :request_id
""")
_ADD_VERSION = text("""
    INSERT INTO billing.plan_versions (plan_id, version, content) VALUES (:plan_id, :version, CAST(:content AS jsonb))
""")
_SELL = text("""
    INSERT INTO billing.plans (plan_id, newest_version, is_sold) VALUES (:plan_id, :version, true)
    ON CONFLICT (plan_id) DO UPDATE SET newest_version = :version, is_sold = true
""")
_WITHDRAW = text("UPDATE billing.plans SET is_sold = false WHERE plan_id = ANY(:plan_ids)")
_REMEMBER = text("""
    INSERT INTO billing.catalog_requests (request_id, digest, actor, changed_plan_ids, withdrawn_plan_ids)
    VALUES (:request_id, :digest, :actor, :changed, :withdrawn)
""")
