from __future__ import annotations

from decimal import Decimal

import pytest

from services.analytics.domain.summary import ProviderTotal, summarize
from services.analytics.rpc.convert import summary_to_pb, two_decimals, usd


def total(provider: str, cost: int, baseline: int = 0, calls: int = 1) -> ProviderTotal:
    return ProviderTotal(provider=provider, cost_femto_usd=cost, baseline_femto_usd=baseline, call_count=calls)


def percent(actual: int, baseline: int) -> str:
    summary = summarize([total("a", actual, baseline)], baseline_provider="a", applied_sequence=1)
    return two_decimals(summary.savings_percent_hundredths)


def test_providers_are_listed_costliest_first_and_by_name_when_equal() -> None:
    summary = summarize(
        [total("cheap", 1), total("b", 5), total("a", 5), total("dear", 9)], baseline_provider="a", applied_sequence=7
    )
    assert [each.provider for each in summary.providers] == ["dear", "a", "b", "cheap"]
    assert summary.actual_femto_usd == 20


@pytest.mark.parametrize(
    ("actual", "baseline", "expected"),
    [
        (0, 0, "0.00"),
        (5, 0, "0.00"),
        (0, 5, "100.00"),
        (5, 5, "0.00"),
        (2, 3, "33.33"),
        (1, 3, "66.67"),
        (19_999, 20_000, "0.01"),  # a half
        (20_001, 20_000, "-0.01"),  # a half, away from zero
        (200_009, 200_000, "0.00"),
        (300, 100, "-200.00"),
    ],
)
def test_savings_percent_is_rounded_half_up_of_the_exact_fraction(actual: int, baseline: int, expected: str) -> None:
    assert percent(actual, baseline) == expected


@pytest.mark.parametrize(
    ("femto_usd", "text"),
    [
        (0, "0"),
        (1, "0.000000000000001"),
        (-1, "-0.000000000000001"),
        (10**15, "1"),
        (54 * 10**15 + 5 * 10**14, "54.5"),
        (123_456_789_012_345_678_901_234_567_890_123_456_789, "123456789012345678901234.567890123456789"),
    ],
)
def test_amounts_are_exact_decimal_strings_however_many_digits_they_have(femto_usd: int, text: str) -> None:
    assert usd(femto_usd) == text
    assert Decimal(text).as_integer_ratio() == Decimal(f"{femto_usd}E-15").as_integer_ratio()


def test_an_answer_adds_up_and_says_what_it_is_made_of() -> None:
    summary = summarize(
        [total("github_copilot", 25 * 10**14, 4 * 10**15, 3)], baseline_provider="openai_codex", applied_sequence=9
    )
    answer = summary_to_pb(summary)
    assert (answer.actual_cost, answer.baseline_cost, answer.savings) == ("2.5", "4", "1.5")
    assert (answer.savings_percent, answer.currency_code) == ("37.50", "USD")
    assert [(each.provider, each.cost, each.calls) for each in answer.breakdown] == [("github_copilot", "2.5", 3)]
    assert (answer.baseline_provider, answer.applied_sequence) == ("openai_codex", 9)
