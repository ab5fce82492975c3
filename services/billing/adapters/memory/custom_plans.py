"""Terms of an organization's own, in memory."""

from __future__ import annotations

from kit.errors import NotFound
from services.billing.adapters.memory.world import World
from services.billing.domain.catalog import Plan


class MemoryCustomPlans:
    """CustomPlanBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._plans = world.pages[organization_id].custom_plans

    async def get(self, custom_id: str) -> Plan:
        """As CustomPlanBook."""
        if custom_id not in self._plans:
            raise NotFound(what="custom plan", name=custom_id)
        return self._plans[custom_id]

    async def add(self, custom_id: str, plan: Plan) -> None:
        """As CustomPlanBook."""
        self._plans[custom_id] = plan
