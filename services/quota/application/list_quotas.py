"""List quotas: every limit of an organization with what is counted against it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.quota.application.find_members import FindMembers, Found, ranking_of
from services.quota.application.ports import Counters, Readings
from services.quota.application.settle_swept import SettleSwept
from services.quota.domain.decisions import LimitState
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Counter, Limit, LimitKind, Scope, Usage
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter

_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Quotas:
    """The limits of an organization, by meter and id, as of a sequence of the ledger and an entitlement.

    A limit of each member of a level separately stands there as such, with nothing used, and after it its members that
    used and hold most.
    """

    entitlement: Entitlement
    states: tuple[LimitState, ...]
    applied_sequence: int

    @cached_property
    def by_limit(self) -> Mapping[str, Sequence[LimitState]]:
        """The states of each limit, by its id."""
        found: dict[str, list[LimitState]] = {}
        for state in self.states:
            found.setdefault(state.limit.limit_id, []).append(state)
        return found

    @cached_property
    def token(self) -> str:
        """The same for quotas that show the same, in every process; the sequence alone is no difference."""
        shown = repr((self.entitlement, self.states)).encode()
        return hashlib.blake2b(shown, digest_size=_TOKEN_BYTES).hexdigest()


class ListQuotas:
    """Reads limits and counters together."""

    def __init__(
        self,
        counters: Counters,
        settle: SettleSwept,
        find_members: FindMembers,
    ) -> None:
        self._counters = counters
        self._settle = settle
        self._find_members = find_members

    async def __call__(self, organization_id: str) -> Quotas:
        """The limits as they are in force, and the counters in one look. Raises DependencyUnavailable."""
        terms, members, readings = await self._settle(
            organization_id, self._read, seen=lambda found: ([found[2].instant], True)
        )
        states: list[LimitState] = []
        for limit in sorted(terms.limits, key=lambda each: (each.meter, each.limit_id)):
            if limit.sole_counter is None:
                states.append(LimitState(limit, Counter(Scope(limit.scope.kind), limit.meter), 0, 0))
            states += [_state(limit, counter, readings) for counter in _counters(limit, members)]
        return Quotas(terms.entitlement, tuple(states), readings.applied_sequence)

    async def _read(self, terms: Terms, period_confirmed: bool) -> tuple[Terms, Found, Readings]:  # noqa: FBT001
        members = await self._find_members(terms)
        counted = [(limit.window, counter) for limit in terms.limits for counter in _counters(limit, members)]
        counters = list(dict.fromkeys(counter for window, counter in counted if window is None))
        windows = list(
            dict.fromkeys(WindowCounter(counter, window) for window, counter in counted if window is not None)
        )
        readings = await self._counters.read(terms, counters, windows, period_confirmed=period_confirmed)
        return terms, members, readings


def _counters(limit: Limit, members: Found) -> Iterator[Counter]:
    """The one counter of a limit, or those of its members that are shown."""
    if limit.sole_counter is not None:
        yield limit.sole_counter
    elif (ranking := ranking_of(limit)) is not None:
        for member in members.get(ranking, ()):
            yield Counter(Scope(limit.scope.kind, member), limit.meter)


def _state(limit: Limit, counter: Counter, readings: Readings) -> LimitState:
    if limit.window is not None:
        rate = readings.rates[WindowCounter(counter, limit.window)]
        return LimitState(limit, counter, rate.quantity, 0, empty_us=rate.empty_us)
    usage = readings.usage.get(counter, Usage())
    return LimitState(limit, counter, usage.used if limit.kind is LimitKind.PERIOD else 0, usage.held)
