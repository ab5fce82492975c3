from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.prices import PricesError, price_to_pb, read_prices
from tollbook.analytics.v1 import prices_pb2

_ROOT = Path(__file__).resolve().parents[2]
_SHIPPED = _ROOT / "deploy" / "prices.yaml"
_BROKEN = _ROOT / "tests" / "fixtures" / "prices"

# Each file is named after the rule it breaks; what its refusal says after "<path>:".
_REFUSED = {
    "not_yaml": "1: not YAML: ",
    "baseline_without_a_price": "1: baseline: 'nobody' has no price in this file",
    "price_repeated": "6: prices 2: the same provider, model and effective_time are there twice",
    "price_negative": "4: prices 1, input_per_thousand: -0.002 is negative",
    "price_as_text": "4: prices 1, input_per_thousand: 'cheap' is not a decimal",
    "price_with_13_decimals": "4: prices 1, input_per_thousand: '0.0000000000001' is not a decimal",
    "output_price_missing": "3: prices 1: output_per_thousand missing",
    "unknown_key": "6: prices 1: unknown key 'per_call'",
    "provider_with_a_space": "3: prices 1, provider: 'openai codex' must be letters, digits and",
    "time_without_a_zone": "6: prices 1, effective_time: '2026-01-31T00:00:00' is not a time in UTC",
    "prices_as_a_mapping": "3: prices: must be a list, not a mapping",
}


@pytest.mark.parametrize("broken_rule", _REFUSED)
def test_file_that_breaks_a_rule_is_refused_with_line_and_field(broken_rule: str) -> None:
    path = _BROKEN / f"{broken_rule}.yaml"
    with pytest.raises(PricesError, match=re.escape(f"{path}:{_REFUSED[broken_rule]}")):
        read_prices(path)


def test_every_broken_file_has_its_refusal() -> None:
    assert {path.stem for path in _BROKEN.glob("*.yaml")} == set(_REFUSED)


def test_shipped_prices_are_those_of_the_three_providers() -> None:
    shipped = read_prices(_SHIPPED)
    assert shipped.baseline == "openai_codex"
    assert [price_to_pb(price) for price in shipped.prices] == [
        prices_pb2.Price(provider="openai_codex", input_per_thousand="0.002", output_per_thousand="0.004"),
        prices_pb2.Price(provider="github_copilot", input_per_thousand="0.001", output_per_thousand="0.003"),
        prices_pb2.Price(provider="google_code_assist", input_per_thousand="0.0015", output_per_thousand="0.0035"),
    ]


def test_price_of_a_model_from_a_time_on_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "baseline: p\n"
        "prices:\n"
        "  - provider: p\n"
        "    model: m-2\n"
        "    effective_time: 2026-01-31T00:00:00Z\n"
        "    input_per_thousand: 1\n"
        "    output_per_thousand: 2.50\n"
        "    cache_read_per_thousand: 0\n"
        "    cache_write_per_thousand: 0.000000000001\n",
        encoding="ascii",
    )
    message = price_to_pb(read_prices(path).prices[0])
    assert message.model == "m-2"
    assert message.effective_time.ToDatetime(UTC) == datetime(2026, 1, 31, tzinfo=UTC)
    assert (message.input_per_thousand, message.output_per_thousand) == ("1", "2.5")
    assert (message.cache_read_per_thousand, message.cache_write_per_thousand) == ("0", "0.000000000001")
