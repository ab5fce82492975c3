"""Create a meter: add it to the catalog, or nothing when it is there."""

from __future__ import annotations

from services.metering.application.ports import MeterRegistry
from services.metering.domain.meters import Meter, MeterRequest, check


class CreateMeter:
    """Adds meters."""

    def __init__(self, meters: MeterRegistry) -> None:
        self._meters = meters

    async def __call__(self, request: MeterRequest) -> Meter:
        """The meter as it is kept. Idempotent. This process counts with it when this returns, the others within
        seconds. Raises InvalidField, AlreadyExists, RequestIdReused, LimitExceeded and DependencyUnavailable.
        """
        check(request)
        return await self._meters.add(request)
