"""The prices of model providers, from a file into the running suite."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from cli.rpc import CallFailed, call
from cli.seed_files.prices import PricesError, ProviderPrice, read_prices
from kit.grpc.client import connect
from kit.ids import new_id
from kit.money import format_decimal
from tollbook.analytics.v1 import prices_pb2, prices_pb2_grpc

__all__ = ["PricesError", "read_prices", "seed_prices"]

_PATIENCE_SECONDS = 30.0


async def seed_prices(path: Path, analytics_address: str, admin_key: str) -> None:
    """Sets every price of the file, in its order. Setting them again changes nothing. Raises PricesError.

    A price is never replaced in place: one that differs from what was set for the same time is refused, and
    those before it stay set.
    """
    prices = read_prices(path)
    async with connect(analytics_address, admin_key) as channel:
        stub = prices_pb2_grpc.PriceServiceStub(channel)
        for price in prices.prices:
            request = prices_pb2.SetPriceRequest(
                request_id=new_id("price"),
                price=price_to_pb(price),
                baseline=price.provider == prices.baseline,
            )
            try:
                await call(stub.SetPrice, request, patience_seconds=_PATIENCE_SECONDS)
            except CallFailed as failure:
                hint = ""
                if failure.reason == "ALREADY_EXISTS":
                    hint = " Prices are never changed in place: add an entry with a later effective_time."
                raise PricesError(str(price.entry.refused(f"{price.provider}: {failure}{hint}"))) from None


def price_to_pb(price: ProviderPrice) -> prices_pb2.Price:
    """The price as the suite takes it."""
    message = prices_pb2.Price(
        provider=price.provider,
        model=price.model,
        input_per_thousand=format_decimal(price.input_per_thousand),
        output_per_thousand=format_decimal(price.output_per_thousand),
    )
    if price.cache_read_per_thousand is not None:
        message.cache_read_per_thousand = format_decimal(price.cache_read_per_thousand)
    if price.cache_write_per_thousand is not None:
        message.cache_write_per_thousand = format_decimal(price.cache_write_per_thousand)
    if price.effective_time is not None:
        moment = Timestamp()
        moment.FromDatetime(price.effective_time)
        message.effective_time.CopyFrom(moment)
    return message
