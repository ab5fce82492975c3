"""What check.lua is asked and answers, between its packed arrays and the values of the ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgpack

from kit.errors import NotFound, RequestIdReused
from services.quota.adapters.redis_counters.documents import decided_by_from_document
from services.quota.adapters.redis_counters.shapes import Shape
from services.quota.application.ports import Answer, Extended, Instant, Rate, Readings, Reservation
from services.quota.domain.checks import Applied, Check, Mode
from services.quota.domain.decisions import Decision, LimitState, Outcome, conclude
from services.quota.domain.entitlements import Standing
from services.quota.domain.errors import ReservationEnded
from services.quota.domain.limits import Usage
from services.quota.domain.terms import Terms

_DECIDED, _REPEATED, _REUSED, _ENDED, _UNKNOWN = 0, 1, 2, 3, 4
_OUTCOMES = (Outcome.ALLOWED, Outcome.ALLOWED_IN_GRACE, Outcome.DENIED)
_DENIED = _OUTCOMES.index(Outcome.DENIED)
_NUMBERS_PER_LIMIT = 5
_NO_EXPIRY = -1

MODE_CODES = {Mode.DECIDE: 0, Mode.RESERVE: 1, Mode.CONSUME: 2}


class Reply:
    """One answer of the script."""

    def __init__(self, packed: bytes) -> None:
        # Records are kept as bytes within; texts are decoded where they are read.
        self._now_us, self._sequence, next_expiry_us, self._answers, self._readings = msgpack.unpackb(packed, raw=True)
        self.applied_sequence: int = self._sequence
        self.instant = Instant(self._now_us, None if next_expiry_us == _NO_EXPIRY else next_expiry_us)

    def answers(self, checks: Sequence[Check], shapes: Sequence[Shape], terms: Terms) -> list[Answer | RequestIdReused]:
        """The answers, in the order of the checks. `shapes`: of each check."""
        found: list[Answer | RequestIdReused] = []
        alike: dict[tuple[int, ...], Answer | RequestIdReused] = {}
        for answer, check, shape in zip(self._answers, checks, shapes, strict=True):
            if answer[0] != _DECIDED or answer[3] or answer[1] == _DENIED:
                found.append(self._answer(answer, check, shape, terms))
                continue
            # Allowed and nothing held: what two are told by the same numbers of the same limits is one answer. (How a
            # denial can be lifted depends on what was asked, too.)
            key = (id(shape), *answer[2])
            known = alike.get(key)
            if known is None:
                known = alike[key] = self._answer(answer, check, shape, terms)
            found.append(known)
        return found

    def extension(self, target: Check, shape: Shape, terms: Terms) -> Extended:
        """The answer to the one target that was sent."""
        (answer,) = self._answers
        if answer[0] == _UNKNOWN:
            raise NotFound(what="reservation", name=target.request_id)
        if answer[0] == _ENDED:
            raise ReservationEnded(reservation_id=target.request_id)
        extended = self._answer(answer, target, shape, terms)
        if isinstance(extended, RequestIdReused):
            raise extended
        return Extended(extended, restored=bool(answer[4]) and not extended.decision.is_denied)

    def registered(self, checks: Sequence[Check], shapes: Sequence[Shape], terms: Terms) -> list[Answer]:
        """The answers to those that were made by this call. `shapes`: of each check."""
        made: list[Answer] = []
        for answer, check, shape in zip(self._answers, checks, shapes, strict=True):
            decided = self._answer(answer, check, shape, terms) if answer[0] == _DECIDED else None
            if isinstance(decided, Answer):
                # It was allowed already, whatever became of the standing.
                allowed = conclude(decided.decision.states, check.consumptions, Standing.ACTIVE)
                made.append(replace(decided, decision=allowed))
        return made

    def readings(self, shape: Shape) -> Readings:
        """What the one shape that was sent says."""
        (numbers,) = self._readings
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        counted, rates = pairs[: len(shape.counters)], pairs[len(shape.counters) :]
        usage = {counter: Usage(*pair) for counter, pair in zip(shape.counters, counted, strict=True)}
        in_windows = {
            window: Rate(quantity, empty_us or None)
            for window, (quantity, empty_us) in zip(shape.windows, rates, strict=True)
        }
        return Readings(usage, in_windows, self._sequence, self.instant)

    def _answer(self, answer: list[Any], check: Check, shape: Shape, terms: Terms) -> Answer | RequestIdReused:
        if answer[0] == _REUSED:
            return RequestIdReused(request_id=check.request_id)
        if answer[0] == _REPEATED:
            _, packed, decided_by, expire_us = answer
            decided_us, sequence, _, numbers, first_expire_us = msgpack.unpackb(packed, raw=True)
            version, period, applied = decided_by_from_document(decided_by)
            # When it was extended meanwhile, it ends later than the first answer said.
            expire_us = int(expire_us or first_expire_us)
            decision = _decision(numbers, applied, check, Standing.ACTIVE)
        else:
            _, _, numbers, expire_us, _ = answer
            decided_us, sequence, version, period = (
                self._now_us,
                self._sequence,
                terms.entitlement.version,
                terms.entitlement.period,
            )
            decision = _decision(numbers, shape.applied, check, terms.entitlement.standing)
        return Answer(
            decision=decision,
            reservation=Reservation(check.request_id, expire_us) if expire_us else None,
            entitlement_version=version,
            period=period,
            applied_sequence=sequence,
            decided_us=decided_us,
            instant=self.instant,
        )


def _decision(numbers: list[int], applied: Sequence[Applied], check: Check, standing: Standing) -> Decision:
    states: list[LimitState] = []
    for place, each in enumerate(applied):
        at = place * _NUMBERS_PER_LIMIT
        used, held, outcome, empty_us, room_us = numbers[at : at + _NUMBERS_PER_LIMIT]
        states.append(
            LimitState(each.limit, each.counter, used, held, _OUTCOMES[outcome], empty_us or None, room_us or None)
        )
    return conclude(states, check.consumptions, standing)
