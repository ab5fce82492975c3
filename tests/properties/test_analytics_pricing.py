"""Pricing against an oracle that knows nothing of our units: fractions of dollars, and a look at every price."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from services.analytics.domain.calls import ProviderCall
from services.analytics.domain.prices import KeptPrice, Price, PriceTable
from services.analytics.domain.pricing import price_call
from services.analytics.domain.summary import ProviderTotal, summarize
from services.analytics.rpc.convert import summary_to_pb, two_decimals
from tests.unit.analytics.samples import NOON, call

TOKENS_MAX = 2**53 - 1
PROVIDERS = ("openai_codex", "github_copilot", "google_code_assist")
MODELS = ("", "large", "small")

amounts = st.decimals(
    min_value=0, max_value=Decimal(10**18 - 1), places=12, allow_nan=False, allow_infinity=False
) | st.sampled_from(
    [Decimal("0.002"), Decimal("0.0015"), Decimal("0.000000000001"), Decimal("9" * 18 + "." + "9" * 12)]
)
moments = st.integers(-5, 5).map(lambda hours: NOON + timedelta(hours=hours))
# Mostly a moment: beside a price from the beginning nothing is earlier than every price.
starts = st.integers(-5, 6).map(lambda hours: NOON + timedelta(hours=hours) if hours < 6 else None)
tokens = st.integers(0, TOKENS_MAX) | st.sampled_from([0, 1, 999, TOKENS_MAX])
names = st.sampled_from(PROVIDERS)
models = st.sampled_from(MODELS)
prices = st.builds(
    Price,
    provider=names,
    model=models,
    effective_time=starts,
    input_per_thousand=amounts,
    output_per_thousand=amounts,
    cache_read_per_thousand=st.none() | amounts,
    cache_write_per_thousand=st.none() | amounts,
)
calls = st.builds(
    ProviderCall,
    provider=names | st.just("unheard_of"),
    model=models | st.just("unheard_of"),
    event_time=moments,
    tokens_input_uncached=tokens,
    tokens_cache_read=tokens,
    tokens_cache_write=tokens,
    tokens_output=tokens,
    tokens_reasoning=tokens,
    **{name: st.just("") for name in ("project_id", "team_id", "user_id", "agent_id", "task_id")},
)


@st.composite
def tables(draw: st.DrawFn) -> PriceTable:
    kept = draw(
        st.lists(
            prices, min_size=1, max_size=8, unique_by=lambda each: (each.provider, each.model, each.effective_time)
        )
    )
    versions = [KeptPrice(number, each) for number, each in enumerate(kept, start=1)]
    baseline = draw(st.sampled_from(versions))
    return PriceTable(
        version=len(versions),
        prices=versions,
        baseline_provider=baseline.price.provider,
        baseline_version=baseline.version,
    )


def _as_of(table: PriceTable, version: int) -> PriceTable:
    return PriceTable(
        version=version,
        prices=[kept for kept in table._kept if kept.version <= version],
        baseline_provider=table.baseline_provider,
        baseline_version=table._baseline_version,
    )


class Oracle:
    """Prices a call by looking at every price, in dollars, as the README says it."""

    def __init__(self, known: list[Price]) -> None:
        self._known = known

    def dollars(self, asked: ProviderCall, provider: str) -> Fraction:
        first = min(self._start(each) for each in self._known)
        moment = max(asked.event_time, first)
        own = self._in_force(provider, asked.model, moment) or self._in_force(provider, "", moment)
        in_force = [each for each in self._known if each is self._in_force(each.provider, each.model, moment)]
        used = [own] if own else in_force
        return (
            max(Fraction(each.input_per_thousand) for each in used) * asked.tokens_input_uncached
            + max(self._or_input(each, each.cache_read_per_thousand) for each in used) * asked.tokens_cache_read
            + max(self._or_input(each, each.cache_write_per_thousand) for each in used) * asked.tokens_cache_write
            + max(Fraction(each.output_per_thousand) for each in used) * (asked.tokens_output + asked.tokens_reasoning)
        ) / 1_000

    def is_fallback(self, asked: ProviderCall, provider: str) -> bool:
        own = self._in_force(provider, asked.model, asked.event_time) or self._in_force(provider, "", asked.event_time)
        return own is None

    def _in_force(self, provider: str, model: str, moment: datetime) -> Price | None:
        series = [
            each
            for each in self._known
            if (each.provider, each.model) == (provider, model) and self._start(each) <= moment
        ]
        return max(series, key=self._start, default=None)

    @staticmethod
    def _start(price: Price) -> datetime:
        return price.effective_time or NOON - timedelta(days=10_000)

    @staticmethod
    def _or_input(price: Price, amount: Decimal | None) -> Fraction:
        return Fraction(price.input_per_thousand if amount is None else amount)


@given(tables(), calls)
def test_costs_equal_an_exact_fraction_oracle(table: PriceTable, asked: ProviderCall) -> None:
    costs = price_call(asked, table)
    known = list(table.prices)
    everyone, baseline = Oracle(known), Oracle([each for each in known if each.provider == table.baseline_provider])
    assert Fraction(costs.cost_femto_usd, 10**15) == everyone.dollars(asked, asked.provider)
    assert Fraction(costs.baseline_femto_usd, 10**15) == baseline.dollars(asked, table.baseline_provider)
    assert costs.is_fallback == everyone.is_fallback(asked, asked.provider)
    assert costs.baseline_is_fallback == baseline.is_fallback(asked, table.baseline_provider)


@given(tables(), st.lists(calls, max_size=20))
def test_the_decimal_strings_of_an_answer_add_up_exactly(table: PriceTable, asked: list[ProviderCall]) -> None:
    rated = [(each, price_call(each, table)) for each in asked]
    totals = [
        ProviderTotal(
            provider=name,
            cost_femto_usd=sum(costs.cost_femto_usd for each, costs in rated if each.provider == name),
            baseline_femto_usd=sum(costs.baseline_femto_usd for each, costs in rated if each.provider == name),
            call_count=sum(each.provider == name for each, _ in rated),
        )
        for name in sorted({each.provider for each in asked})
    ]
    answer = summary_to_pb(summarize(totals, baseline_provider=table.baseline_provider, applied_sequence=len(asked)))
    oracle = Oracle(list(table.prices))
    actual, baseline, savings = (
        Fraction(Decimal(text)) for text in (answer.actual_cost, answer.baseline_cost, answer.savings)
    )
    assert actual == sum(oracle.dollars(each, each.provider) for each in asked)
    assert actual == sum(Fraction(Decimal(each.cost)) for each in answer.breakdown)
    assert savings == baseline - actual
    assert sum(each.calls for each in answer.breakdown) == len(asked)


@given(calls, calls, tables())
def test_a_call_split_in_two_costs_the_same(first: ProviderCall, second: ProviderCall, table: PriceTable) -> None:
    classes = [name for name in ProviderCall.__dataclass_fields__ if name.startswith("tokens_")]
    other = replace(first, **{name: getattr(second, name) for name in classes})
    whole = replace(first, **{name: getattr(first, name) + getattr(second, name) for name in classes})
    parts = [price_call(each, table).cost_femto_usd for each in (first, other)]
    assert price_call(whole, table).cost_femto_usd == sum(parts)


@settings(max_examples=400)
@given(tables(), st.data())
def test_new_prices_leave_every_call_before_changed_since_as_it_was(table: PriceTable, data: st.DataObject) -> None:
    version = data.draw(st.integers(0, table.version))
    older, since = _as_of(table, version), table.changed_since(version)
    for provider, model, hours in product((*PROVIDERS, "unheard_of"), (*MODELS, "unheard_of"), range(-6, 7)):
        asked = call(provider, model, event_time=NOON + timedelta(hours=hours))
        if asked.event_time < since:
            assert price_call(asked, older) == price_call(asked, table)


@given(st.integers(0, 10**40), st.integers(1, 10**40))
def test_savings_percent_is_the_nearest_hundredth(actual: int, baseline: int) -> None:
    total = ProviderTotal(provider="a", cost_femto_usd=actual, baseline_femto_usd=baseline, call_count=1)
    summary = summarize([total], baseline_provider="a", applied_sequence=1)
    exact = Fraction(baseline - actual, baseline) * 100
    shown = Fraction(Decimal(two_decimals(summary.savings_percent_hundredths)))
    assert abs(shown - exact) <= Fraction(1, 200)
