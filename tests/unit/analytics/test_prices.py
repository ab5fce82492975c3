from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kit.errors import AlreadyExists, InvalidField, LimitExceeded, RequestIdReused
from services.analytics.domain import limits
from services.analytics.domain.errors import PricesMissing
from services.analytics.domain.price_requests import check_request_id, decide
from services.analytics.domain.prices import BEGINNING, END, Price, PriceTable, Rates, new_price
from services.analytics.domain.pricing import price_call
from tests.unit.analytics.samples import NOON, call, price, request, table

HOUR = timedelta(hours=1)
# 0.001 dollars per 1 000 tokens are 1e9 femto-dollars per token.
MILLI = 10**9


def test_a_call_costs_its_tokens_at_its_providers_rates() -> None:
    costs = price_call(call("github_copilot"), table(price(), price("github_copilot", rates=("0.001", "0.003"))))
    assert costs.cost_femto_usd == 1_000 * MILLI + 500 * 3 * MILLI
    assert costs.baseline_femto_usd == 1_000 * 2 * MILLI + 500 * 4 * MILLI
    assert not costs.is_fallback
    assert not costs.baseline_is_fallback


def test_token_classes_are_disjoint_and_reasoning_costs_as_output() -> None:
    prices = table(price(rates=("0.001", "0.01"), cache=("0.0001", "0.002")))
    costs = price_call(
        call(
            tokens_input_uncached=1,
            tokens_cache_read=10,
            tokens_cache_write=100,
            tokens_output=1_000,
            tokens_reasoning=10_000,
        ),
        prices,
    )
    assert costs.cost_femto_usd == MILLI + 10 * MILLI // 10 + 100 * 2 * MILLI + 11_000 * 10 * MILLI


def test_cached_tokens_cost_as_input_unless_the_price_says_otherwise() -> None:
    assert price(rates=("0.001", "0.003")).rates == Rates(
        input=MILLI, cache_read=MILLI, cache_write=MILLI, output=3 * MILLI
    )
    assert price(rates=("0.001", "0.003"), cache=("0", "")).rates.cache_read == 0


def test_the_finest_price_is_one_femto_dollar_per_token() -> None:
    assert price(rates=("0.000000000001", "0")).rates.input == 1


def test_a_price_is_in_force_from_its_effective_time_on() -> None:
    prices = table(price(rates=("1", "1")), price(rates=("2", "2"), start=NOON))
    before = price_call(call(event_time=NOON - timedelta(microseconds=1)), prices)
    at = price_call(call(event_time=NOON), prices)
    assert at.cost_femto_usd == 2 * before.cost_femto_usd
    assert not before.is_fallback
    assert not at.is_fallback


def test_a_models_own_price_goes_before_its_providers() -> None:
    prices = table(price(rates=("1", "1")), price(model="mini", rates=("3", "3"), start=NOON))
    assert prices.quote("openai_codex", "mini", NOON).rates.input == 10**12 * 3
    assert prices.quote("openai_codex", "mini", NOON - HOUR).rates.input == 10**12
    assert prices.quote("openai_codex", "other", NOON).rates.input == 10**12


def test_an_unknown_provider_costs_the_costliest_rate_of_each_class_and_is_flagged() -> None:
    prices = table(
        price("openai_codex", rates=("1", "5"), cache=("4", "1")),
        price("other", rates=("2", "1"), cache=("1", "3")),
    )
    quote = prices.quote("unheard_of", "", NOON)
    assert quote.is_fallback
    assert quote.rates == Rates(input=2 * 10**12, cache_read=4 * 10**12, cache_write=3 * 10**12, output=5 * 10**12)


def test_a_fallback_knows_only_prices_in_force_at_the_calls_time() -> None:
    prices = table(price(rates=("1", "1")), price("dear", rates=("100", "100"), start=NOON))
    assert prices.quote("unheard_of", "", NOON - HOUR).rates.input == 10**12
    assert prices.quote("unheard_of", "", NOON).rates.input == 100 * 10**12


def test_a_call_earlier_than_every_price_is_priced_by_the_first_and_flagged() -> None:
    prices = table(price(rates=("1", "1"), start=NOON), price(rates=("9", "9"), start=NOON + HOUR))
    costs = price_call(call(event_time=NOON - HOUR), prices)
    assert costs.cost_femto_usd == price_call(call(event_time=NOON), prices).cost_femto_usd
    assert costs.is_fallback
    assert costs.baseline_is_fallback


def test_a_baseline_without_the_model_falls_back_to_its_own_costliest_rates() -> None:
    prices = table(
        price(model="small", rates=("1", "1")), price(model="large", rates=("2", "2")), price("dear", rates=("9", "9"))
    )
    quote = prices.baseline_quote("large", NOON)
    assert (quote.rates.input, quote.is_fallback) == (2 * 10**12, False)
    quote = prices.baseline_quote("foreign", NOON)
    assert (quote.rates.input, quote.is_fallback) == (2 * 10**12, True)


def test_nothing_is_priced_without_a_price_or_a_baseline() -> None:
    with pytest.raises(PricesMissing):
        price_call(call(), PriceTable())
    with pytest.raises(PricesMissing):
        price_call(call(), table(price(), baseline=""))


def test_a_price_for_the_future_concerns_no_call_before_it() -> None:
    assert table(price(), price(start=NOON)).changed_since(1) == NOON
    assert table(price(), price(start=NOON), price("new", start=NOON - HOUR)).changed_since(1) == NOON - HOUR
    assert table(price()).changed_since(1) == END


def test_a_new_first_price_or_a_new_baseline_concerns_every_call() -> None:
    assert table(price(start=NOON), price("new", start=NOON)).changed_since(1) == BEGINNING
    assert table(price("other"), price(start=NOON), price(start=NOON - HOUR)).changed_since(2) == BEGINNING
    assert table(price("other"), price(start=NOON)).changed_since(1) == BEGINNING
    assert table(price()).changed_since(0) == BEGINNING


@pytest.mark.parametrize("text", ["-1", "-0", "1e3", "NaN", "0.0000000000001", "1_000", "٣", " 1", "1,5", "9" * 19])
@pytest.mark.parametrize("field", ["input_per_thousand", "output_per_thousand", "cache_read_per_thousand"])
def test_an_amount_that_is_no_plain_decimal_is_refused_by_name(field: str, text: str) -> None:
    amounts = {"input_per_thousand": "1", "output_per_thousand": "1"} | {field: text}
    with pytest.raises(InvalidField, match=rf"price\.{field}"):
        new_price(provider="p", model="", effective_time=None, **amounts)


@pytest.mark.parametrize("rates", [("", "1"), ("1", "")])
def test_a_price_needs_its_input_and_its_output(rates: tuple[str, str]) -> None:
    with pytest.raises(InvalidField, match="put_per_thousand"):
        price(rates=rates)


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\x00"])
def test_a_provider_without_a_sound_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidField, match=r"price\.provider"):
        price(name)


def test_the_same_price_again_changes_nothing_however_it_is_written() -> None:
    prices = table(price(rates=("0.002", "0.004")))
    for same in (price(rates=("0.0020", "0.004")), price(cache=("0.002", "0.002"))):
        decision = decide(request(same, makes_baseline=True), prices, remembered=None)
        assert (decision.price, decision.adds_price, decision.sets_baseline) == (prices.prices[0], False, False)


def test_another_price_at_the_same_instant_is_refused() -> None:
    with pytest.raises(AlreadyExists, match="openai_codex"):
        decide(request(price(rates=("0.003", "0.004"))), table(price()), remembered=None)
    later = decide(request(price(rates=("0.003", "0.004"), start=NOON)), table(price()), remembered=None)
    assert later.adds_price


def test_a_known_price_can_make_its_provider_the_baseline() -> None:
    prices = table(price(), price("other"))
    decision = decide(request(price("other"), makes_baseline=True), prices, remembered=None)
    assert (decision.adds_price, decision.sets_baseline) == (False, True)


def test_a_repeated_request_changes_nothing_even_after_the_baseline_moved() -> None:
    first = request(price("other"), makes_baseline=True)
    decision = decide(first, table(price(), price("other")), remembered=first.content)
    assert (decision.adds_price, decision.sets_baseline) == (False, False)


def test_a_request_id_with_another_content_is_refused() -> None:
    first = request(price())
    for other in (price("other"), price(start=NOON), replace(price(), output_per_thousand=Decimal(1))):
        with pytest.raises(RequestIdReused):
            decide(request(other, request_id=first.request_id), table(price()), remembered=first.content)


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\tb"])
def test_a_request_needs_a_sound_id(request_id: str) -> None:
    with pytest.raises(InvalidField, match="request_id"):
        check_request_id(request_id)


def test_the_table_has_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRICES_MAX", 1)
    with pytest.raises(LimitExceeded):
        decide(request(price("other")), table(price()), remembered=None)
    assert not decide(request(price()), table(price()), remembered=None).adds_price


def test_prices_are_listed_by_provider_model_and_effective_time() -> None:
    wanted: list[Price] = [
        price("a"),
        price("a", start=NOON - HOUR),
        price("a", start=NOON),
        price("a", model="m"),
        price("b"),
    ]
    assert list(table(*reversed(wanted)).prices) == wanted
