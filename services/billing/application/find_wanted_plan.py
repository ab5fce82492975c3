"""Find wanted plan: what a caller who names a plan is sold."""

from __future__ import annotations

from dataclasses import dataclass

from kit.errors import InvalidField, InvalidState, NotFound
from kit.ids import new_id
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.usage import Usage
from services.billing.domain.catalog import FREE_PLAN, Plan
from services.billing.domain.catalog_rules import read_plan
from services.billing.domain.catalog_text import PlanText
from services.billing.domain.timeline import PlanRef


@dataclass(frozen=True, slots=True)
class CustomTerms:
    """Terms of an organization's own, as a caller wrote them."""

    text: PlanText
    content: str
    """The same as it was sent, for the digest of the request."""


@dataclass(frozen=True, slots=True)
class WantedPlan:
    """Terms to sell."""

    plan: Plan
    ref: PlanRef
    is_sold: bool

    def require_sold(self) -> None:
        """Raises InvalidState for a plan that is no longer sold."""
        if not self.is_sold:
            raise InvalidState(problem=f"The plan {self.ref.plan_id!r} is no longer sold.")


class FindWantedPlan:
    """Finds the newest version of a plan, or reads terms that stand in for it."""

    def __init__(self, plans: Plans, usage: Usage) -> None:
        self._plans = plans
        self._usage = usage

    async def __call__(self, plan_id: str, terms: CustomTerms | None) -> WantedPlan:
        """The terms; those of the organization's own have a new id, and are kept nowhere yet.

        Raises NotFound for an unknown plan, InvalidField for terms under another plan's name or of `free`,
        InvalidCatalog for terms that break a rule of plans, and DependencyUnavailable.
        """
        entry = await self._plans.newest(plan_id)
        if entry is None:
            raise NotFound(what="plan", name=plan_id[:64])
        newest = PlanRef(plan_id, entry.plan.version)
        if terms is None:
            return WantedPlan(entry.plan, newest, entry.is_sold)
        if terms.text.plan_id != plan_id or plan_id == FREE_PLAN:
            raise InvalidField(field="custom_terms.plan_id", problem="not the plan_id of a plan that is billed")
        plan = read_plan(terms.text, await self._usage.meters()).with_version(newest.version)
        # A plan that is sold to nobody else may be sold to one: what it costs is said here.
        return WantedPlan(plan, PlanRef(plan_id, newest.version, new_id("terms")), is_sold=True)
