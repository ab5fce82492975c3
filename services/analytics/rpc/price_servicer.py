"""PriceService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.context import ServicerContext
from services.analytics.application.ports import PriceBook
from services.analytics.application.set_price import SetPrice
from services.analytics.domain.price_requests import PriceRequest
from services.analytics.rpc.convert import price_from_pb, price_to_pb
from tollbook.analytics.v1 import prices_pb2, prices_pb2_grpc


class PriceServicer(prices_pb2_grpc.PriceServiceServicer):
    """Lists and sets prices; they are the same for every organization."""

    service_name: ClassVar[str] = "tollbook.analytics.v1.PriceService"

    def __init__(self, *, prices: PriceBook, set_price: SetPrice) -> None:
        self._prices = prices
        self._set_price = set_price

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        prices_pb2_grpc.add_PriceServiceServicer_to_server(self, server)

    async def ListPrices(
        self, request: prices_pb2.ListPricesRequest, context: ServicerContext
    ) -> prices_pb2.ListPricesResponse:
        """See the proto."""
        table = await self._prices.current()
        return prices_pb2.ListPricesResponse(
            prices=[price_to_pb(price) for price in table.prices], baseline_provider=table.baseline_provider
        )

    async def SetPrice(
        self, request: prices_pb2.SetPriceRequest, context: ServicerContext
    ) -> prices_pb2.SetPriceResponse:
        """See the proto."""
        price = await self._set_price(
            PriceRequest(request.request_id, price_from_pb(request.price), makes_baseline=request.baseline)
        )
        return prices_pb2.SetPriceResponse(price=price_to_pb(price))
