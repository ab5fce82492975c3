"""Terms of an organization's own."""

from __future__ import annotations

from typing import Protocol

from services.billing.domain.catalog import Plan


class CustomPlanReader(Protocol):
    """The terms in one organization's books."""

    async def get(self, custom_id: str) -> Plan:
        """The terms, under the id and version of the catalog's plan that they stand in for; they never change. Raises
        NotFound, also for another organization's.
        """
        ...


class CustomPlanBook(CustomPlanReader, Protocol):
    """The same, open for writing."""

    async def add(self, custom_id: str, plan: Plan) -> None:
        """Keeps terms under a new id."""
        ...
