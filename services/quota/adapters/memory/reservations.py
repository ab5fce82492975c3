"""The ports of reservations and their ends over dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kit.errors import NotFound, RequestIdReused
from services.quota.adapters.memory.organization import Held, Organization
from services.quota.adapters.memory.organizations import OverOrganizations
from services.quota.application.ports import (
    Answer,
    Committed,
    Extended,
    Freed,
    Grant,
    Reservation,
)
from services.quota.domain.checks import Check, Mode
from services.quota.domain.decisions import (
    NOTHING_DRAWN,
    Decision,
    Outcome,
    conclude,
)
from services.quota.domain.entitlements import Standing
from services.quota.domain.errors import ReservationEnded
from services.quota.domain.maxima import (
    SETTLE_US,
    SWEPT_AT_ONCE_MAX,
)
from services.quota.domain.reservations import Settlement, growth, overrun, settle
from services.quota.domain.terms import Terms


class MemoryReservations(OverOrganizations):
    """Reservations and Expiries."""

    async def extend(self, target: Check, terms: Terms, *, period_confirmed: bool = False) -> Extended:
        """As Reservations."""
        organization = self._organizations[target.organization_id]
        now_us = self._organizations.now_us
        known = organization.known(target.request_id, now_us)
        tombstone = organization.tombstones.get(target.request_id)
        if (tombstone is not None and tombstone.is_final) or (known is not None and known.is_over):
            raise ReservationEnded(reservation_id=target.request_id)
        is_open = known is not None and known.ended_us is None
        if known is not None and is_open and known.scopes != target.subject.scopes:
            raise RequestIdReused(request_id=target.request_id)
        if not is_open and not target.consumptions:
            raise NotFound(what="reservation", name=target.request_id)
        wanted = growth(target, known.held) if known is not None and is_open else target
        decision, counted, answer = self._organizations.decided(
            organization, wanted, terms, now_us, growth_only=is_open, period_confirmed=period_confirmed
        )
        # What could let the same extension through depends on the whole of it: its own hold is not in its way.
        decision = conclude(decision.states, target.consumptions, terms.entitlement.standing)
        answer = replace(answer, decision=decision)
        if decision.is_denied:
            return Extended(answer, restored=False)
        if known is not None and is_open:
            organization.grow(known, wanted, counted, known.held)
            known.expire_us, known.expired_at_head = now_us + target.reserve_us, None
        else:
            # What it holds is still to come, whatever was drawn before; a commit goes by both.
            drawn = organization.tombstones.pop(target.request_id, None) or known
            organization.reserve(target, answer, counted, now_us)
            made = organization.reservations[target.request_id]
            made.digest, made.is_restored = "", True
            made.draw_before(drawn.drawn if drawn else NOTHING_DRAWN)
        return Extended(replace(answer, instant=organization.instant(now_us)), restored=not is_open)

    async def register(
        self, grants: Sequence[Grant], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """As Reservations."""
        organization = self._organizations[terms.organization_id]
        now_us = self._organizations.now_us
        self._organizations.settled(organization, terms, (), now_us, period_confirmed=period_confirmed)
        made: list[Answer] = []
        for grant in grants:
            check = grant.check
            known = organization.known(check.request_id, now_us)
            if known is None or known.ended_by_time:
                if check.consumptions:
                    made.append(self._register(organization, grant, terms, now_us, period_confirmed=period_confirmed))
                    if known is not None:
                        anew = organization.reservations[check.request_id]
                        anew.is_restored = True
                        anew.draw_before(known.drawn)
                continue
            if known.is_over or known.ended_us is not None:
                continue
            if now_us + check.reserve_us > known.expire_us:
                known.expire_us, known.expired_at_head = now_us + check.reserve_us, None
            # What events drew of what it held all along is no room to hold it once more.
            wanted = growth(check, known.targets)
            if known.scopes == check.subject.scopes and any(each.holdable for each in wanted.consumptions):
                looked = replace(wanted, mode=Mode.DECIDE)
                _, counted, answer = self._organizations.decided(
                    organization, looked, terms, now_us, period_confirmed=period_confirmed
                )
                organization.grow(known, wanted, counted, known.targets)
                reservation = Reservation(check.request_id, known.expire_us)
                answer = replace(answer, decision=_as_granted(organization, wanted, answer), reservation=reservation)
                made.append(replace(answer, instant=organization.instant(now_us)))
        return made

    def _register(
        self, organization: Organization, grant: Grant, terms: Terms, now_us: int, *, period_confirmed: bool
    ) -> Answer:
        check, reservation = grant.check, Reservation(grant.check.request_id, now_us + grant.check.reserve_us)
        looked = replace(check, mode=Mode.DECIDE)
        _, counted, answer = self._organizations.decided(
            organization, looked, terms, now_us, period_confirmed=period_confirmed
        )
        organization.reserve(check, replace(answer, reservation=reservation), counted, now_us)
        made = organization.reservations[check.request_id]
        made.answer = replace(answer, decision=_as_granted(organization, check, answer), reservation=reservation)
        made.digest = grant.digest
        return replace(made.answer, instant=organization.instant(now_us))

    async def commit(self, organization_id: str, reservation_id: str, actuals: Mapping[str, int]) -> Committed:
        """As Reservations."""
        organization = self._organizations[organization_id]
        now_us = self._organizations.now_us
        found = self._found(organization, reservation_id, now_us)
        kept = settle(actuals, held=found.held, drawn=found.drawn)
        for meter, quantity in kept.items():
            organization.hold(found.scopes, meter, quantity - found.held[meter])
            found.held[meter] = quantity
        holds = any(found.held.values())
        if found.ended_us is None and not holds:
            found.ended_us = now_us
        elif holds and not (found.is_settling or found.is_releasing):
            found.is_settling, found.expire_us, found.expired_at_head = True, now_us + SETTLE_US, None
        settlement = Settlement(
            held={meter: quantity for meter, quantity in sorted(found.held.items()) if quantity},
            overrun={} if found.is_restored else overrun(actuals, granted=found.granted),
            expire_us=found.expire_us if holds else None,
        )
        return Committed(settlement, organization.instant(now_us))

    async def release(self, organization_id: str, reservation_id: str) -> bool:
        """As Reservations."""
        organization = self._organizations[organization_id]
        now_us = self._organizations.now_us
        found = self._found(organization, reservation_id, now_us)
        if found.ended_us is None and not any(found.held.values()):
            found.ended_us = now_us
        if found.ended_us is not None:
            return True
        found.expire_us = min(found.expire_us, now_us)
        found.is_settling, found.is_releasing = False, True
        return False

    async def due(self, organization_id: str) -> Sequence[str]:
        """As Expiries."""
        now_us = self._organizations.now_us
        by_expiry = self._organizations[organization_id].open_by_expiry()
        return [name for expire_us, name in by_expiry if expire_us <= now_us][:SWEPT_AT_ONCE_MAX]

    async def free(self, organization_id: str, reservation_ids: Sequence[str], *, head_sequence: int) -> Freed:
        """As Expiries."""
        organization = self._organizations[organization_id]
        now_us = self._organizations.now_us
        applied = organization.state.position.sequence if organization.state else 0
        freed_count = unmatched_count = waiting_count = 0
        for name in reservation_ids:
            reservation = organization.reservations.get(name)
            if reservation is None or reservation.ended_us is not None or reservation.expire_us > now_us:
                continue
            if reservation.expired_at_head is None:
                reservation.expired_at_head = head_sequence
            if applied >= min(reservation.expired_at_head, head_sequence):
                unmatched_count += reservation.is_settling and any(reservation.held.values())
                reservation.ended_by_time = not (reservation.is_settling or reservation.is_releasing)
                organization.end(reservation, now_us)
                freed_count += 1
            else:
                waiting_count += 1
        return Freed(freed_count, unmatched_count, waiting_count, organization.instant(now_us))

    def _found(self, organization: Organization, name: str, now_us: int) -> Held:
        known = organization.known(name, now_us)
        if known is None or not known.scopes:
            raise NotFound(what="reservation", name=name)
        return known


def _as_granted(organization: Organization, check: Check, answer: Answer) -> Decision:
    """It was allowed already, and its retries are answered so."""
    states = [
        replace(
            state,
            held=state.held if state.limit.window else organization.held[state.counter],
            outcome=Outcome.ALLOWED,
            room_us=None,
        )
        for state in answer.decision.states
    ]
    return conclude(sorted(states, key=lambda each: each.limit.order), check.consumptions, Standing.ACTIVE)
