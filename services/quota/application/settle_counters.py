"""Settle on counters and terms that fit each other, then do something with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from kit.errors import DependencyUnavailable
from services.quota.application.find_terms import FindTerms
from services.quota.application.ports import Counters, CountersBehind, CountersMissing, TermsOutdated
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.domain.terms import Terms

log = structlog.get_logger()

T = TypeVar("T")

# A lost store costs two (no terms, then no counters); two more for others who change them meanwhile.
_ATTEMPTS_MAX = 5


class SettleCounters:
    """Repeats an attempt that the store refused, with what it lacked put right."""

    def __init__(
        self,
        terms: FindTerms,
        rebuild: RebuildCounters,
        counters: Counters,
        *,
        catch_up: Callable[[str], Awaitable[None]],
    ) -> None:
        """catch_up: applies to an organization's counters what the ledger has now."""
        self._terms = terms
        self._rebuild = rebuild
        self._counters = counters
        self._catch_up = catch_up

    async def __call__(self, organization_id: str, attempt: Callable[[Terms, bool], Awaitable[T]]) -> T:
        """What the attempt answers. It takes terms and whether their period is confirmed by billing, and
        raises TermsOutdated, CountersMissing or CountersBehind without having changed anything. Raises
        DependencyUnavailable.
        """
        terms, period_confirmed = await self._terms(organization_id), False
        for _ in range(_ATTEMPTS_MAX):
            try:
                return await attempt(terms, period_confirmed)
            except TermsOutdated:
                terms, period_confirmed = await self._terms.renew(terms)
            except CountersMissing:
                await self._rebuild(organization_id)
            except CountersBehind:
                log.warning("counters_behind", organization_id=organization_id)
                await self._catch_up(organization_id)
                self._counters.trust(organization_id)
        raise DependencyUnavailable(dependency="a settled state of the counters")
