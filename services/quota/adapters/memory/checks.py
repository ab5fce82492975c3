"""The ports of checks, readings and members over dictionaries."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from kit.errors import RequestIdReused
from services.quota.adapters.memory.organization import Held, Organization
from services.quota.adapters.memory.organizations import OverOrganizations
from services.quota.application.ports import (
    Answer,
    CheckGroup,
    Ranking,
    Rate,
    Readings,
    Reservation,
)
from services.quota.domain.checks import Check, Mode, content_digest, matching, require_plain_consumptions
from services.quota.domain.decisions import (
    decide_all,
)
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import Counter, Usage, most
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter


class MemoryChecks(OverOrganizations):
    """Counters and Members."""

    def refuse_while_away(self) -> None:
        """As Counters: it never is."""

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        organization = self._organizations[check.organization_id]
        now_us = self._organizations.now_us
        first = self._first_answer(organization, check, now_us)
        if first is not None:
            return first
        drawn = organization.drawn_before(check)
        decision, counted, answer = self._organizations.decided(
            organization, check, terms, now_us, period_confirmed=period_confirmed, drawn=drawn
        )
        if decision.is_denied or check.mode is Mode.DECIDE:
            return answer
        if answer.reservation:
            organization.reserve(check, answer, counted, now_us)
        elif check.request_id:
            organization.reservations[check.request_id] = Held(
                content_digest(check), answer, (), now_us, {}, {}, {}, {}, ended_us=now_us
            )
        return replace(answer, instant=organization.instant(now_us))

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        """As Counters."""
        answers: list[Answer | RequestIdReused] = []
        for check in checks:
            try:
                answers.append(await self.check(check, terms, period_confirmed=period_confirmed))
            except RequestIdReused as reused:
                answers.append(reused)
        return answers

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        """As Counters."""
        outcomes: list[Sequence[Answer | RequestIdReused] | Exception] = []
        for group in groups:
            try:
                outcomes.append(
                    await self.check_many(group.checks, group.terms, period_confirmed=group.period_confirmed)
                )
            except Exception as error:  # noqa: BLE001 - it is the outcome of this group
                outcomes.append(error)
        return outcomes

    async def check_all(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """As Counters."""
        require_plain_consumptions(checks)
        organization, now_us = self._organizations[terms.organization_id], self._organizations.now_us
        asked = [(matching(terms.limits, check), check) for check in checks]
        every = [each for applied, _ in asked for each in applied]
        tracked = {tracks for each in every if (tracks := each.limit.tracks)}
        sequence = self._organizations.settled(organization, terms, tracked, now_us, period_confirmed=period_confirmed)
        windows = {WindowCounter(each.counter, each.limit.window) for each in every if each.limit.window}
        counted = organization.counted(windows, now_us)
        decisions, after = decide_all(asked, counted, standing=terms.entitlement.standing)
        organization.windows.update({each: admitted.slots for each, admitted in after.windows.items()})
        return [
            Answer(
                decision=decision,
                reservation=None,
                entitlement_version=terms.entitlement.version,
                period=terms.entitlement.period,
                applied_sequence=sequence,
                decided_us=now_us,
                instant=organization.instant(now_us),
            )
            for decision in decisions
        ]

    async def read(
        self,
        terms: Terms,
        counters: Sequence[Counter],
        windows: Sequence[WindowCounter] = (),
        *,
        period_confirmed: bool = False,
    ) -> Readings:
        """As Counters."""
        organization = self._organizations[terms.organization_id]
        now_us = self._organizations.now_us
        sequence = self._organizations.settled(
            organization, terms, terms.tracked, now_us, period_confirmed=period_confirmed
        )
        counted = organization.counted(windows, now_us)
        usage = {counter: counted.usage.get(counter, Usage()) for counter in counters}
        rates = {each: Rate(admitted.quantity, admitted.empty_us) for each, admitted in counted.windows.items()}
        return Readings(usage, rates, sequence, organization.instant(now_us))

    def trust(self, organization_id: str) -> None:
        """As Counters."""
        self._organizations.seen.forget(organization_id)

    async def rank(
        self,
        organization_id: str,
        period: Period,  # noqa: ARG002 - it keeps one
        rankings: Collection[Ranking],
        *,
        at_most: int,
    ) -> Mapping[Ranking, Sequence[str]]:
        """As Members."""
        organization = self._organizations[organization_id]
        held = Counts(organization.held)
        used = Counts(organization.used) + held
        return {
            ranking: most(ranking.of, held if ranking.held_alone else used, at_most=at_most) for ranking in rankings
        }

    def _first_answer(self, organization: Organization, check: Check, now_us: int) -> Answer | None:
        first = organization.known(check.request_id, now_us)
        if check.mode is Mode.DECIDE or not check.request_id or first is None:
            return None
        if first.digest not in ("", content_digest(check)):
            raise RequestIdReused(request_id=check.request_id)
        reservation = first.answer.reservation and Reservation(check.request_id, first.expire_us)
        return replace(first.answer, reservation=reservation, instant=organization.instant(now_us))
