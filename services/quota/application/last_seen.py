"""What this process has seen of counters and reservations: what it goes by while the store is away."""

from __future__ import annotations

from dataclasses import dataclass

from kit.recent import Recent
from services.quota.application.ports import Answer
from services.quota.domain.checks import Applied, Check
from services.quota.domain.decisions import LimitState
from services.quota.domain.degraded import Seen
from services.quota.domain.maxima import SEEN_COUNTERS_MAX, SEEN_RESERVATIONS_MAX

LimitKey = tuple[str, str, str]
"""Organization, limit, and the id of the scope that it covers: one counter, as one limit compares it."""


@dataclass(frozen=True, slots=True)
class SeenReservation:
    """An open reservation, as the store, or a degraded answer, said last."""

    check: Check
    """Its subject, and what it holds at least."""
    expire_us: int

    @property
    def quantities(self) -> dict[str, int]:
        """What it holds at least, by meter."""
        return {each.meter: each.holdable for each in self.check.consumptions}


class LastSeen:
    """Remembers in bounded memory. What it forgets is as if it was never seen."""

    def __init__(self) -> None:
        self._counters = Recent[LimitKey, tuple[int, int, int]](SEEN_COUNTERS_MAX)
        self._reservations = Recent[tuple[str, str], SeenReservation](SEEN_RESERVATIONS_MAX)

    def note(self, check: Check, answer: Answer) -> None:
        """Remembers what the store answered; what it repeated is older than what was seen since."""
        organization_id = check.organization_id
        if answer.decided_us == answer.instant.now_us:
            for state in answer.decision.states:
                seen = (state.used, state.held, answer.decided_us)
                self._counters.put((organization_id, state.limit.limit_id, state.counter.scope.id), seen)
        if answer.reservation is not None:
            known = None if check.consumptions else self._reservations.get((organization_id, check.request_id))
            self.note_reservation(known.check if known else check, answer.reservation.expire_us)

    def note_reservation(self, check: Check, expire_us: int) -> None:
        """Remembers that it holds at least what the check says, until then."""
        self._reservations.put((check.organization_id, check.request_id), SeenReservation(check, expire_us))

    def note_held(self, key: LimitKey, quantity: int) -> None:
        """Remembers that so much more is held than was seen, where something was."""
        seen = self._counters.get(key)
        if seen is not None:
            used, held, seen_us = seen
            self._counters.put(key, (used, held + quantity, seen_us))

    def forget_reservation(self, organization_id: str, reservation_id: str) -> None:
        """It is no longer known what it holds."""
        self._reservations.drop((organization_id, reservation_id))

    def reservation(self, organization_id: str, reservation_id: str, *, now_us: int) -> SeenReservation | None:
        """The reservation, if its time is not over."""
        seen = self._reservations.get((organization_id, reservation_id))
        return seen if seen is not None and now_us < seen.expire_us else None

    def counter(self, organization_id: str, applied: Applied, *, given: int, now_us: int) -> Seen:
        """What is known of a limit's counter. What was seen in a window is worth as much as the window is long."""
        seen = self._counters.get(limit_key(organization_id, applied))
        if seen is None:
            return Seen(given=given)
        used, held, seen_us = seen
        window = applied.limit.window
        if window is not None and now_us - seen_us >= window.length_us:
            return Seen(given=given)
        return Seen(used, held, is_known=True, given=given)


def limit_key(organization_id: str, applied: Applied | LimitState) -> LimitKey:
    """The key of a limit and its counter."""
    return (organization_id, applied.limit.limit_id, applied.counter.scope.id)
