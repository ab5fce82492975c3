"""Confirm positions: what a follower needs no longer may be dropped, once all have said so."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import Clock
from kit.errors import InvalidField, LimitExceeded
from services.metering.application.ports import Confirmations
from services.metering.domain import limits
from services.metering.domain.retention import Confirmation


class ConfirmPositions:
    """Takes the confirmations of a follower."""

    def __init__(self, confirmations: Confirmations, clock: Clock) -> None:
        self._confirmations = confirmations
        self._clock = clock

    async def __call__(self, follower: str, confirmations: Sequence[Confirmation]) -> int:
        """How many were kept; see Confirmations. Idempotent. Raises InvalidField, LimitExceeded and
        DependencyUnavailable.
        """
        if not confirmations:
            raise InvalidField(field="positions", problem="empty")
        if len(confirmations) > limits.CONFIRMATIONS_MAX:
            raise LimitExceeded(what="positions", actual=len(confirmations), maximum=limits.CONFIRMATIONS_MAX)
        if len({each.organization_id for each in confirmations}) < len(confirmations):
            raise InvalidField(field="positions", problem="two of one organization")
        return await self._confirmations.confirm(follower, confirmations, now=self._clock.now())
