"""The organizations of a store, and what decides for one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from kit.clock import Clock, unix_microseconds
from services.quota.adapters.memory.organization import Organization
from services.quota.application.ports import (
    Answer,
    CountersBehind,
    CountersMissing,
    Kept,
    Reservation,
    TermsOutdated,
)
from services.quota.domain.checks import Check, Mode, matching
from services.quota.domain.decisions import (
    NOTHING_DRAWN,
    Counted,
    Decision,
    decide,
)
from services.quota.domain.limits import LevelMeter
from services.quota.domain.seen import SeenSequences
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter


class Organizations:
    """All of them, by a clock that is handed in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: dict[str, Organization] = defaultdict(Organization)
        self.seen = SeenSequences()

    def __getitem__(self, organization_id: str) -> Organization:
        """The organization; an empty one when nothing is kept of it."""
        return self._all[organization_id]

    @property
    def now_us(self) -> int:
        """The clock's time."""
        return unix_microseconds(self._clock.now())

    def clear(self) -> None:
        """Forgets everything."""
        self._all.clear()

    def settled(
        self,
        organization: Organization,
        terms: Terms,
        tracked: Collection[LevelMeter],
        now_us: int,
        *,
        period_confirmed: bool,
    ) -> int:
        """The position that is applied. Raises as Counters.check unless terms and counters are those that are kept."""
        period = terms.entitlement.period
        period_is_over = now_us >= period.end_us and not period_confirmed
        if Kept(terms.entitlement, terms.own) != Kept(organization.entitlement, organization.own) or period_is_over:
            raise TermsOutdated
        if organization.state is None or organization.holds_are_lost or organization.state.period != period:
            raise CountersMissing
        if not organization.state.tracked.issuperset(tracked):
            raise CountersMissing
        if organization.state.position.sequence < self.seen.of(terms.organization_id):
            raise CountersBehind
        self.seen.note(terms.organization_id, organization.state.position.sequence)
        return organization.state.position.sequence

    def decided(
        self,
        organization: Organization,
        check: Check,
        terms: Terms,
        now_us: int,
        *,
        period_confirmed: bool,
        growth_only: bool = False,
        drawn: Mapping[str, int] = NOTHING_DRAWN,
    ) -> tuple[Decision, Counted, Answer]:
        """The decision with what it was made by, and the answer to it. Windows admit what is allowed."""
        applied, entitlement = matching(terms.limits, check), terms.entitlement
        tracked = {tracks for each in applied if (tracks := each.limit.tracks)}
        sequence = self.settled(organization, terms, tracked, now_us, period_confirmed=period_confirmed)
        windows = {WindowCounter(each.counter, each.limit.window) for each in applied if each.limit.window}
        counted = organization.counted(windows, now_us)
        decision, after = decide(
            applied, counted, check, standing=entitlement.standing, growth_only=growth_only, drawn=drawn
        )
        reserves = check.mode is Mode.RESERVE and not decision.is_denied
        answer = Answer(
            decision=decision,
            reservation=Reservation(check.request_id, now_us + check.reserve_us) if reserves else None,
            entitlement_version=entitlement.version,
            period=entitlement.period,
            applied_sequence=sequence,
            decided_us=now_us,
            instant=organization.instant(now_us),
        )
        organization.windows.update({each: admitted.slots for each, admitted in after.windows.items()})
        return decision, counted, answer


class OverOrganizations:
    """A part of the store."""

    def __init__(self, organizations: Organizations) -> None:
        self._organizations = organizations
