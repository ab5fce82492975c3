"""List limits: those of an organization's own and those of its plan."""

from __future__ import annotations

from dataclasses import dataclass

from kit.errors import InvalidField
from services.quota.application.find_terms import FindTerms
from services.quota.application.ports import LimitRecord
from services.quota.domain.limits import Limit
from services.quota.domain.maxima import LISTED_LIMITS, LISTED_LIMITS_MAX


@dataclass(frozen=True, slots=True)
class LimitPage:
    """Limits by id, and after which one the next page begins; empty: there is none."""

    limits: tuple[Limit, ...]
    next_after: str


class ListLimits:
    """Reads the record, not what is in force: the two differ for no longer than a change takes."""

    def __init__(self, record: LimitRecord, terms: FindTerms) -> None:
        self._record = record
        self._terms = terms

    async def __call__(self, organization_id: str, *, after: str = "", size: int = 0) -> LimitPage:
        """The limits whose ids come after one, by id. Size 0: 100. Raises InvalidField and DependencyUnavailable."""
        if not 0 <= size <= LISTED_LIMITS_MAX:
            raise InvalidField(field="page_size", problem=f"not in 0 to {LISTED_LIMITS_MAX}")
        own = await self._record.own_limits(organization_id)
        plan = (await self._terms.kept(organization_id)).entitlement.limits
        following = sorted((each for each in (*own.limits, *plan) if each.limit_id > after), key=lambda e: e.limit_id)
        page = tuple(following[: size or LISTED_LIMITS])
        return LimitPage(page, page[-1].limit_id if len(page) < len(following) else "")
