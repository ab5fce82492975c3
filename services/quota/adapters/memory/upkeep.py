"""The ports of upkeep and audit over dictionaries."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from kit.feed import Position
from services.quota.adapters.memory.organizations import OverOrganizations
from services.quota.application.ports import (
    CountersMissing,
    CounterState,
    Holds,
    Overrun,
    Recount,
)
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Counter, LevelMeter
from services.quota.domain.maxima import (
    COUNTER_MAX,
)
from services.quota.domain.usage import Tally


class MemoryUpkeep(OverOrganizations):
    """CounterUpkeep and CounterAudit."""

    async def state(self, organization_id: str) -> CounterState | None:
        """As CounterUpkeep."""
        return self._organizations[organization_id].state

    async def reset(
        self,
        entitlement: Entitlement,
        *,
        expected: CounterState | None,
        position: Position,
        used: Mapping[Counter, int],
        tracked: frozenset[LevelMeter] = frozenset(),
        force: bool = False,
    ) -> bool:
        """As CounterUpkeep."""
        organization = self._organizations[entitlement.organization_id]
        if organization.state != expected or organization.entitlement != entitlement:
            return False
        kept = None if organization.holds_are_lost else organization.state
        epoch = kept.epoch if kept else secrets.token_hex(8)
        organization.holds_are_lost = False
        state = CounterState(epoch, position, entitlement.period, tracked)
        if state == organization.state and not force:
            return False
        organization.state = state
        organization.used = {counter: min(quantity, COUNTER_MAX) for counter, quantity in used.items()}
        return True

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        """As CounterUpkeep."""
        organization = self._organizations[organization_id]
        if organization.state != expected:
            return None
        if organization.holds_are_lost:
            raise CountersMissing
        for counter, quantity in page.used.items():
            sum_used = organization.used.get(counter, 0) + quantity
            organization.used[counter] = max(0, min(sum_used, COUNTER_MAX))
        beyond_count = after_count = 0
        for reservation_id, drawn in page.draws.items():
            reservation = organization.reservations.get(reservation_id)
            if reservation is None:
                organization.remember(reservation_id, drawn)
            if reservation is None or reservation.ended_us is not None:
                after_count += bool(drawn.quantities)
                if reservation is not None and reservation.ended_by_time:
                    # It may be made anew by who still uses it.
                    reservation.draw(drawn)
            else:
                beyond_count += organization.draw(reservation, drawn, self._organizations.now_us)
        organization.state = replace(expected, position=position)
        return Overrun(beyond_count, after_count)

    async def recount(self, organization_id: str, *, repair_held: bool = False) -> Recount | None:
        """As CounterAudit."""
        organization = self._organizations[organization_id]
        if organization.state is None:
            return None
        if organization.holds_are_lost:
            raise CountersMissing
        sums: dict[Counter, int] = defaultdict(int)
        for reservation in organization.reservations.values():
            for meter, remaining in reservation.held.items():
                for scope in reservation.scopes:
                    sums[Counter(scope, meter)] += remaining
        held = Holds(_above_zero(organization.held), _above_zero(sums))
        if repair_held:
            organization.held = sums
        return Recount(organization.state, _above_zero(organization.used), used_is_sample=False, held=held)


def _above_zero(quantities: Mapping[Counter, int]) -> dict[Counter, int]:
    return {counter: quantity for counter, quantity in quantities.items() if quantity}
