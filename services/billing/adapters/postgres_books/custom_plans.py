"""Terms of an organization's own, in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from kit.errors import NotFound
from services.billing.adapters.plan_content import plan_from_content, plan_to_content
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.catalog import Plan


class PostgresCustomPlans:
    """CustomPlanBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def get(self, custom_id: str) -> Plan:
        """As CustomPlanBook."""
        row = (await self._page.execute(_GET, self._page.names(custom_id=custom_id))).one_or_none()
        if row is None:
            raise NotFound(what="custom plan", name=custom_id)
        return plan_from_content(row.plan_id, row.plan_version, row.content)

    async def add(self, custom_id: str, plan: Plan) -> None:
        """As CustomPlanBook."""
        names = self._page.names(
            custom_id=custom_id, plan_id=plan.plan_id, plan_version=plan.version, content=plan_to_content(plan)
        )
        await self._page.execute(_ADD, names)


_GET = text("""
    SELECT plan_id, plan_version, content FROM billing.custom_plans
    WHERE organization_id = :organization_id AND custom_id = :custom_id
""")
_ADD = text("""
    INSERT INTO billing.custom_plans (organization_id, custom_id, plan_id, plan_version, content)
    VALUES (:organization_id, :custom_id, :plan_id, :plan_version, CAST(:content AS jsonb))
""")
