"""Diff catalog: what applying a catalog would change."""

from __future__ import annotations

from collections.abc import Sequence

from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.usage import Usage
from services.billing.domain.catalog import change_catalog
from services.billing.domain.catalog_diff import PlanDiff, diff_catalog
from services.billing.domain.catalog_rules import read_catalog
from services.billing.domain.catalog_text import PlanText


class DiffCatalog:
    """Compares the given plans with the catalog."""

    def __init__(self, plans: Plans, usage: Usage) -> None:
        self._plans = plans
        self._usage = usage

    async def __call__(self, texts: Sequence[PlanText]) -> tuple[PlanDiff, ...]:
        """By plan id; changes nothing. Raises InvalidCatalog, and DependencyUnavailable also when metering cannot be
        asked for its meters.
        """
        meters = await self._usage.meters()
        plans = read_catalog(texts, meters)
        known = await self._plans.known()
        return diff_catalog(change_catalog(plans, known), known, meters)
