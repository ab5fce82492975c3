"""What model providers charge, as people write it: US dollars per 1 000 tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from cli.seed_files.strict_yaml import Entry, FileRefused, read_yaml
from kit.money import parse_decimal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,127}")
_AMOUNTS = (
    "input_per_thousand",
    "output_per_thousand",
    "cache_read_per_thousand",
    "cache_write_per_thousand",
)


class PricesError(Exception):
    """The prices cannot be set; the message names the file and, where known, line, provider and field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderPrice:
    """A price from some time on. Amounts are US dollars per 1 000 tokens."""

    provider: str
    model: str
    """Empty: every model of the provider without a price of its own."""
    effective_time: datetime | None
    """None: from the beginning."""
    input_per_thousand: Decimal
    output_per_thousand: Decimal
    cache_read_per_thousand: Decimal | None
    cache_write_per_thousand: Decimal | None
    """None: as input, as with cache_read_per_thousand."""
    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """All prices of a file."""

    baseline: str
    """The provider that the baseline prices every call at."""
    prices: tuple[ProviderPrice, ...]


def read_prices(path: Path) -> Prices:
    """The prices in a file. Raises PricesError."""
    try:
        return _prices(read_yaml(path))
    except FileRefused as refusal:
        raise PricesError(str(refusal)) from None


def _prices(root: Entry) -> Prices:
    fields = root.fields(required=("baseline", "prices"))
    prices = tuple(_price(entry) for entry in fields["prices"].items())
    seen: set[tuple[str, str, datetime | None]] = set()
    for price in prices:
        identity = (price.provider, price.model, price.effective_time)
        if identity in seen:
            raise price.entry.refused("the same provider, model and effective_time are there twice")
        seen.add(identity)
    baseline = fields["baseline"].text()
    if baseline not in {price.provider for price in prices}:
        raise fields["baseline"].refused(f"{baseline!r} has no price in this file")
    return Prices(baseline=baseline, prices=prices)


def _price(entry: Entry) -> ProviderPrice:
    fields = entry.fields(
        required=("provider", "input_per_thousand", "output_per_thousand"),
        optional=("model", "effective_time", "cache_read_per_thousand", "cache_write_per_thousand"),
    )
    amounts = {name: _amount(fields[name]) for name in _AMOUNTS if name in fields}
    return ProviderPrice(
        provider=_name(fields["provider"]),
        model=_name(fields["model"]) if "model" in fields else "",
        effective_time=_time(fields["effective_time"]) if "effective_time" in fields else None,
        input_per_thousand=amounts["input_per_thousand"],
        output_per_thousand=amounts["output_per_thousand"],
        cache_read_per_thousand=amounts.get("cache_read_per_thousand"),
        cache_write_per_thousand=amounts.get("cache_write_per_thousand"),
        entry=entry,
    )


def _amount(entry: Entry) -> Decimal:
    try:
        amount = parse_decimal(entry.text())
    except ValueError as error:
        raise entry.refused(str(error)) from None
    if amount < 0:
        raise entry.refused(f"{entry.text()} is negative")
    return amount


def _name(entry: Entry) -> str:
    text = entry.text()
    if not _NAME.fullmatch(text):
        raise entry.refused(f"{text!r} must be letters, digits and _ . : @ / -, at most 128 of them")
    return text


def _time(entry: Entry) -> datetime:
    text = entry.text()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise entry.refused(f"{text!r} is not a time in UTC such as 2026-01-31T00:00:00Z")
    return moment.astimezone(UTC)
