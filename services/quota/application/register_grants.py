"""Register grants: tell the store, once it answers again, what was given away without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog

from kit.clock import Clock, unix_microseconds
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.find_terms import FindTerms
from services.quota.application.grants import Granted, Grants
from services.quota.application.last_seen import LastSeen
from services.quota.application.metrics import REGISTERED
from services.quota.application.ports import Answer, Grant, Reservations, StoreUnavailable
from services.quota.application.settle_counters import SettleCounters
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.maxima import GRANTS_AT_ONCE_MAX
from services.quota.domain.terms import Terms

log = structlog.get_logger()

RETRY_US = 200_000
"""Less than between two looks of the worker, and than a breaker stays open."""


class RegisterGrants:
    """Holds what this process has granted. Harmless at any time: what is registered already is not held twice."""

    def __init__(
        self,
        reservations: Reservations,
        settle: SettleCounters,
        *,
        terms: FindTerms,
        grants: Grants,
        seen: LastSeen,
        agenda: ExpiryAgenda,
        clock: Clock,
    ) -> None:
        self._reservations = reservations
        self._settle = settle
        self._terms = terms
        self._grants = grants
        self._seen = seen
        self._agenda = agenda
        self._clock = clock
        self._registering = SingleFlight[None]()
        self._failed_us: dict[str, int] = {}

    async def __call__(self, organization_id: str) -> None:
        """Registers all grants of the organization, before anything else is asked of the store: a retry of a grant
        finds it, and nobody is given the room that it takes. At once when there are none. Raises DependencyUnavailable.
        """
        if organization_id not in self._grants:
            return
        # A look costs more than an answer by policy: while nobody answers, the worker's looks are enough.
        now_us = unix_microseconds(self._clock.now())
        if 0 <= now_us - self._failed_us.get(organization_id, now_us - RETRY_US) < RETRY_US:
            raise StoreUnavailable(dependency="the store of counters")
        try:
            await self._registering(organization_id, lambda: self._register(organization_id))
        except StoreUnavailable:
            self._failed_us[organization_id] = now_us
            raise
        self._failed_us.pop(organization_id, None)

    async def _register(self, organization_id: str) -> None:
        count = 0
        while True:
            now_us = unix_microseconds(self._clock.now())
            terms = self._terms.last_seen(organization_id)
            page = self._grants.page(organization_id, terms, at_most=GRANTS_AT_ONCE_MAX, now_us=now_us)
            if page is None:
                break
            made = await self._settle(organization_id, self._attempt([_left(each, now_us) for each in page.granted]))
            # First what was given, as if all of it were new; then what the store says, which knows.
            for key, quantity in self._grants.registered(organization_id, page).items():
                self._seen.note_held(key, quantity)
            checks = {each.grant.check.request_id: each.grant.check for each in page.granted}
            for answer in made:
                if answer.reservation is not None:
                    self._seen.note(checks[answer.reservation.reservation_id], answer)
                self._agenda.note(organization_id, answer.instant)
            count += len(made)
        REGISTERED.inc(count)
        log.info("grants_registered", organization_id=organization_id, count=count)

    def _attempt(self, grants: Sequence[Grant]) -> Callable[[Terms, bool], Awaitable[Sequence[Answer]]]:
        async def attempt(terms: Terms, period_confirmed: bool) -> Sequence[Answer]:  # noqa: FBT001 - called by Settle
            return await self._reservations.register(grants, terms, period_confirmed=period_confirmed)

        return attempt


def _left(granted: Granted, now_us: int) -> Grant:
    """The grant, for what is left of its time."""
    check = granted.grant.check
    return replace(granted.grant, check=replace(check, reserve_us=granted.expire_us - now_us))
