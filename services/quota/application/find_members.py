"""Find the members of levels that limits cover separately and that are worth showing: those that used and hold most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from services.quota.application.ports import Members, Ranking
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.limits import LevelMeter, Limit, LimitKind
from services.quota.domain.maxima import (
    LISTED_MEMBERS_IN_ALL_MAX,
    LISTED_MEMBERS_MAX,
    REMEMBERED_MEMBERS_MAX,
)
from services.quota.domain.terms import Terms

# A search is repeated when this many times its own time has passed, so that it takes no more than a twentieth of any:
# of a hundred members it is milliseconds old, of a hundred thousand some seconds. What is shown of a member never is.
_RESTS = 20

Found = Mapping[Ranking, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Remembered:
    terms: Terms
    found: Found
    until: float


class FindMembers:
    """Ranks members, and remembers for a little while whom it found."""

    def __init__(self, members: Members, *, clock: Callable[[], float] = monotonic) -> None:
        self._members = members
        self._clock = clock
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._searching = SingleFlight[_Remembered]()

    async def __call__(self, terms: Terms) -> Found:
        """The ids of members of each ranking that a limit asks for, most first. Raises DependencyUnavailable."""
        rankings = {ranking: None for limit in terms.limits if (ranking := ranking_of(limit)) is not None}
        if not rankings:
            return {}
        organization_id = terms.organization_id
        remembered = self._remembered.get(organization_id)
        if remembered is None or remembered.terms is not terms or self._clock() >= remembered.until:
            remembered = await self._searching(f"{organization_id} {id(terms)}", lambda: self._search(terms, rankings))
        return remembered.found

    async def _search(self, terms: Terms, rankings: Mapping[Ranking, None]) -> _Remembered:
        began_at = self._clock()
        at_most = min(LISTED_MEMBERS_MAX, LISTED_MEMBERS_IN_ALL_MAX // _separate_count(terms))
        found = await self._members.rank(
            terms.organization_id, terms.entitlement.period, list(rankings), at_most=at_most
        )
        ended_at = self._clock()
        remembered = _Remembered(terms, found, ended_at + _RESTS * (ended_at - began_at))
        self._remembered[terms.organization_id] = remembered
        self._remembered.move_to_end(terms.organization_id)
        if len(self._remembered) > REMEMBERED_MEMBERS_MAX:
            self._remembered.popitem(last=False)
        return remembered


def ranking_of(limit: Limit) -> Ranking | None:
    """By what the members that a limit covers separately are ranked; None for a limit of one counter, and for a window
    limit: nobody knows who has windows.
    """
    if limit.sole_counter is not None or limit.kind is LimitKind.WINDOW:
        return None
    return Ranking(LevelMeter(limit.scope.kind, limit.meter), held_alone=limit.kind is LimitKind.CONCURRENCY)


def _separate_count(terms: Terms) -> int:
    return sum(ranking_of(limit) is not None for limit in terms.limits)
