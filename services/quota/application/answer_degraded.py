"""Answer degraded: decide by the limits' own policies while the store is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from kit.clock import Clock, unix_microseconds
from kit.errors import RequestIdReused
from services.quota.application.find_terms import FindTerms
from services.quota.application.grants import Granted, Grants
from services.quota.application.last_seen import LastSeen, limit_key
from services.quota.application.metrics import count_degraded
from services.quota.application.ports import Answer, Extended, Grant, Instant, Reservation, StoreUnavailable
from services.quota.domain.checks import Check, Mode, content_digest, matching
from services.quota.domain.decisions import Decision, DenyReason, Outcome
from services.quota.domain.degraded import Seen, decide_degraded
from services.quota.domain.reservations import growth
from services.quota.domain.terms import Terms

log = structlog.get_logger()


class AnswerDegraded:
    """Answers what the store could not. It waits for nothing, and remembers what it grants until that is registered."""

    def __init__(self, terms: FindTerms, seen: LastSeen, grants: Grants, clock: Clock) -> None:
        self._terms = terms
        self._seen = seen
        self._grants = grants
        self._clock = clock

    def check(self, check: Check, unavailable: StoreUnavailable) -> Answer:
        """The answer to a check by `decide_degraded`. DECIDE gives nothing away. RESERVE is remembered, its retry gets
        the first answer, and it is registered later. CONSUME is given and never registered: the window that it belongs
        to is over then. Raises RequestIdReused, and `unavailable` when this process never saw the organization's terms.
        """
        terms = self._known_terms(check, unavailable)
        now_us = unix_microseconds(self._clock.now())
        if check.mode is Mode.RESERVE:
            first = self._grants.find(check.organization_id, check.request_id, now_us=now_us)
            if first is not None:
                if first.grant.digest not in ("", content_digest(check)):
                    raise RequestIdReused(request_id=check.request_id)
                return first.answer
        answer = self._decided(check, terms, now_us)
        if answer.decision.is_denied or check.mode is Mode.DECIDE:
            return answer
        if check.mode is Mode.CONSUME:
            self._give(check, answer, now_us)
            return answer
        answer = replace(answer, reservation=Reservation(check.request_id, now_us + check.reserve_us))
        return self._grant(Grant(check, content_digest(check)), check, answer, now_us)

    def check_all(self, checks: Sequence[Check], unavailable: StoreUnavailable) -> Sequence[Answer]:
        """The answers to consumptions that are allowed together or not at all. Where they share a limit, what was given
        before one is denied stays given, until the store answers.
        """
        looked = [self.check(replace(each, mode=Mode.DECIDE), unavailable) for each in checks]
        if any(answer.decision.is_denied for answer in looked):
            return looked
        return [self.check(each, unavailable) for each in checks]

    def extend(self, target: Check, unavailable: StoreUnavailable) -> Extended:
        """The answer to an extension. What a reservation is known to hold, it may use until its known end: a target
        within that is allowed, and moves nothing. What is asked beyond it, and all of it when nothing is known of the
        reservation or its time is over, is decided as a check, and remembered with its new end. Raises RequestIdReused
        when the subject is of other scopes, and `unavailable` when nothing is known of what is asked.
        """
        terms = self._known_terms(target, unavailable)
        organization_id, now_us = target.organization_id, unix_microseconds(self._clock.now())
        known = self._seen.reservation(organization_id, target.request_id, now_us=now_us)
        if known is None:
            if not target.consumptions:
                raise unavailable
            answer = self._decided(target, terms, now_us)
            if answer.decision.is_denied:
                return Extended(answer, restored=False)
            answer = replace(answer, reservation=Reservation(target.request_id, now_us + target.reserve_us))
            return Extended(self._grant(Grant(target, ""), target, answer, now_us), restored=False)
        if known.check.subject.scopes != target.subject.scopes:
            raise RequestIdReused(request_id=target.request_id)
        wanted = growth(target, known.quantities)
        answer = self._decided(wanted, terms, now_us, growth_only=True)
        if answer.decision.is_denied:
            return Extended(answer, restored=False)
        if not any(each.holdable for each in wanted.consumptions):
            return Extended(
                replace(answer, reservation=Reservation(target.request_id, known.expire_us)), restored=False
            )
        answer = replace(answer, reservation=Reservation(target.request_id, now_us + target.reserve_us))
        first = self._grants.find(organization_id, target.request_id, now_us=now_us)
        grant = Grant(_merged(known.check, target), first.grant.digest if first else "")
        return Extended(self._grant(grant, wanted, answer, now_us), restored=False)

    def _known_terms(self, check: Check, unavailable: StoreUnavailable) -> Terms:
        terms = self._terms.last_seen(check.organization_id)
        if terms is None:
            raise unavailable
        return terms

    def _decided(self, check: Check, terms: Terms, now_us: int, *, growth_only: bool = False) -> Answer:
        organization_id, applied = check.organization_id, matching(terms.limits, check)
        seen: list[Seen] = []
        for each in applied:
            window_us = each.limit.window.length_us if each.limit.window else None
            key = limit_key(organization_id, each)
            given = self._grants.given(organization_id, key, window_us=window_us, now_us=now_us)
            seen.append(self._seen.counter(organization_id, each, given=given, now_us=now_us))
        decision = decide_degraded(applied, seen, check, standing=terms.entitlement.standing, growth_only=growth_only)
        if not decision.is_denied and check.mode is not Mode.DECIDE and self._grants.is_full:
            decision = _denied_where_limited(decision)
        count_degraded(decision.outcome)
        return Answer(
            decision=decision,
            reservation=None,
            entitlement_version=terms.entitlement.version,
            period=terms.entitlement.period,
            applied_sequence=0,
            decided_us=now_us,
            instant=Instant(now_us, None),
            degraded=True,
        )

    def _grant(self, grant: Grant, given: Check, answer: Answer, now_us: int) -> Answer:
        """Remembers the grant, of which so much was not given before."""
        if answer.reservation is not None:
            granted = None
            if not self._grants.is_full:
                granted = Granted(grant, answer, answer.reservation.expire_us)
            self._give(given, answer, now_us, granted)
            self._seen.note_reservation(grant.check, answer.reservation.expire_us)
        return answer

    def _give(self, check: Check, answer: Answer, now_us: int, granted: Granted | None = None) -> None:
        if self._grants.is_full:
            return
        quantities = {each.meter: each.holdable for each in check.consumptions}
        states = answer.decision.states
        self._grants.give(check.organization_id, states, quantities, now_us=now_us, granted=granted)


def _merged(known: Check, target: Check) -> Check:
    """At least what both of them name, for the target's time."""
    quantities = {each.meter: each for each in known.consumptions}
    for each in target.consumptions:
        before = quantities.get(each.meter)
        if before is None or before.holdable < each.holdable:
            quantities[each.meter] = each
    return replace(target, consumptions=tuple(quantities[meter] for meter in sorted(quantities)))


def _denied_where_limited(decision: Decision) -> Decision:
    """What cannot be remembered is not given away, unless no limit asks for it."""
    states = [
        replace(state, outcome=state.outcome if state.limit.hard is None else Outcome.DENIED)
        for state in decision.states
    ]
    if not any(state.denies for state in states):
        return decision
    return Decision(Outcome.DENIED, DenyReason.STORE_UNAVAILABLE, tuple(states))
