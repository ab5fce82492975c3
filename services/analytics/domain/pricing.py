"""What a provider call costs."""

from __future__ import annotations

from dataclasses import dataclass

from services.analytics.domain.calls import ProviderCall
from services.analytics.domain.prices import PriceTable, Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one call costs, exactly, in femto-US-dollars (1e-15)."""

    cost_femto_usd: int
    baseline_femto_usd: int
    """The same call at the baseline provider."""
    is_fallback: bool
    """Whether the call had no price of its own."""
    baseline_is_fallback: bool
    """Whether the baseline provider had no price of its own for it."""


@dataclass(frozen=True, slots=True)
class RatedCall:
    """A provider call of one organization with its costs, and the version of the price table that they come from."""

    sequence: int
    call: ProviderCall
    costs: Costs
    price_version: int


def price_call(call: ProviderCall, table: PriceTable) -> Costs:
    """The costs of a call at the prices of its event time. A pure function of the two; nothing is rounded. Raises
    PricesMissing when the table has no price, or no baseline.
    """
    quote = table.quote(call.provider, call.model, call.event_time)
    baseline = table.baseline_quote(call.model, call.event_time)
    return Costs(
        cost_femto_usd=_cost(call, quote.rates),
        baseline_femto_usd=_cost(call, baseline.rates),
        is_fallback=quote.is_fallback,
        baseline_is_fallback=baseline.is_fallback,
    )


def _cost(call: ProviderCall, rates: Rates) -> int:
    return (
        call.tokens_input_uncached * rates.input
        + call.tokens_cache_read * rates.cache_read
        + call.tokens_cache_write * rates.cache_write
        + (call.tokens_output + call.tokens_reasoning) * rates.output
    )
