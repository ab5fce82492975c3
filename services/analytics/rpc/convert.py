"""Prices and costs on the wire and in the domain."""

from __future__ import annotations

from decimal import Decimal

from kit.grpc.convert import moment_from_pb, moment_to_pb
from kit.money import format_decimal
from services.analytics.domain.prices import Price, new_price
from services.analytics.domain.summary import CostSummary
from tollbook.analytics.v1 import analytics_pb2, prices_pb2

CURRENCY_CODE = "USD"
_NANOS_PER_MICROSECOND = 1_000


def price_from_pb(message: prices_pb2.Price) -> Price:
    """The price. Raises InvalidField."""
    return new_price(
        provider=message.provider,
        model=message.model,
        effective_time=moment_from_pb(message.effective_time, "price.effective_time")
        if message.HasField("effective_time")
        else None,
        input_per_thousand=message.input_per_thousand,
        output_per_thousand=message.output_per_thousand,
        cache_read_per_thousand=message.cache_read_per_thousand,
        cache_write_per_thousand=message.cache_write_per_thousand,
    )


def price_to_pb(price: Price) -> prices_pb2.Price:
    """The price as it was set."""
    message = prices_pb2.Price(
        provider=price.provider,
        model=price.model,
        input_per_thousand=format_decimal(price.input_per_thousand),
        output_per_thousand=format_decimal(price.output_per_thousand),
        cache_read_per_thousand=_optional_to_pb(price.cache_read_per_thousand),
        cache_write_per_thousand=_optional_to_pb(price.cache_write_per_thousand),
    )
    if price.effective_time is not None:
        message.effective_time.CopyFrom(moment_to_pb(price.effective_time))
    return message


def summary_to_pb(summary: CostSummary) -> analytics_pb2.GetCostSummaryResponse:
    """The summary, every amount exact."""
    return analytics_pb2.GetCostSummaryResponse(
        actual_cost=usd(summary.actual_femto_usd),
        baseline_cost=usd(summary.baseline_femto_usd),
        savings=usd(summary.savings_femto_usd),
        savings_percent=two_decimals(summary.savings_percent_hundredths),
        breakdown=[
            analytics_pb2.ProviderCost(provider=total.provider, cost=usd(total.cost_femto_usd), calls=total.call_count)
            for total in summary.providers
        ],
        currency_code=CURRENCY_CODE,
        baseline_provider=summary.baseline_provider,
        applied_sequence=summary.applied_sequence,
    )


def usd(femto_usd: int) -> str:
    """Whole femto-US-dollars (1e-15) as the shortest exact decimal string in US dollars."""
    # From text: Decimal takes every digit of a text, while its arithmetic rounds to 28.
    return format_decimal(Decimal(f"{femto_usd}E-15"))


def two_decimals(hundredths: int) -> str:
    """Hundredths as a decimal string with both decimals: `"50.00"`, `"-0.05"`, `"0.00"`."""
    whole, rest = divmod(abs(hundredths), 100)
    return f"{'-' if hundredths < 0 else ''}{whole}.{rest:02d}"


def _optional_to_pb(amount: Decimal | None) -> str:
    return "" if amount is None else format_decimal(amount)
