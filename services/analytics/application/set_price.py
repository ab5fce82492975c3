"""Set a price: add a version to the table, or nothing when it is there."""

from __future__ import annotations

from services.analytics.application.ports import PriceBook
from services.analytics.domain.price_requests import PriceRequest, check_request_id
from services.analytics.domain.prices import Price


class SetPrice:
    """Adds prices."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices

    async def __call__(self, request: PriceRequest) -> Price:
        """The price that is kept. In force for every call priced after this returns; calls priced before are re-rated
        within seconds. Idempotent. Raises InvalidField, AlreadyExists, RequestIdReused, LimitExceeded and
        DependencyUnavailable.
        """
        check_request_id(request.request_id)
        return await self._prices.set_price(request)
