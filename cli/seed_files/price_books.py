"""The prices of a plan in full, as people write them: by currency, charges of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from cli.seed_files.amounts import (
    Quantity,
    read_amount,
    read_display_name,
    read_quantity,
    read_rate,
    require_currency,
    require_name,
)
from cli.seed_files.strict_yaml import Entry
from kit.money import Money


@dataclass(frozen=True, slots=True)
class FlatFee:
    """So much a month."""

    amount: Money


@dataclass(frozen=True, slots=True)
class PerUnit:
    """Every unit at one price."""

    unit_price: Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """A stretch of quantities."""

    up_to: Quantity | None
    unit_price: Decimal
    flat_price: Money | None


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of its tier."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the last one's tier."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """So much for every package that is begun."""

    size: Quantity
    price: Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentage:
    """A share of a meter that counts money."""

    percent: Decimal
    exchange_rate: Decimal | None


Price = FlatFee | PerUnit | Graduated | Volume | Package | Percentage


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """Something that a plan charges beside its base price."""

    charge_id: str
    display_name: str
    """Empty: made of the id."""
    meter: str
    """Empty for a flat fee."""
    included: Quantity | None
    price: Price
    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceBook:
    """Everything that a plan charges in one currency."""

    currency_code: str
    base_price: Money
    minimum: Money | None
    charges: tuple[Charge, ...]


def read_price_books(prices: Entry) -> tuple[PriceBook, ...]:
    """The price books of a plan, one for each currency; the first is the default. Raises FileRefused."""
    books = tuple(_book(currency_code, entry) for currency_code, entry in prices.entries().items())
    if not books:
        raise prices.refused("must have at least one currency")
    return books


def _book(currency_code: str, entry: Entry) -> PriceBook:
    require_currency(currency_code, entry)
    fields = entry.fields(required=("base",), optional=("minimum", "charges"))
    charges = fields["charges"].entries() if "charges" in fields else {}
    return PriceBook(
        currency_code=currency_code,
        base_price=read_amount(fields["base"], currency_code),
        minimum=read_amount(fields["minimum"], currency_code) if "minimum" in fields else None,
        charges=tuple(_charge(charge_id, charge, currency_code) for charge_id, charge in charges.items()),
    )


def _charge(charge_id: str, entry: Entry, currency_code: str) -> Charge:
    require_name(charge_id, entry)
    fields = entry.fields(required=(), optional=("name", "meter", "included", *_PRICES))
    kinds = [kind for kind in _PRICES if kind in fields]
    if len(kinds) != 1:
        raise entry.refused(f"needs one price: one of {', '.join(_PRICES)}")
    (kind,) = kinds
    if kind == "flat_fee":
        for name in ("meter", "included"):
            if name in fields:
                raise fields[name].refused("a flat fee counts nothing")
    return Charge(
        charge_id=charge_id,
        display_name=read_display_name(fields["name"]) if "name" in fields else "",
        meter=_meter(charge_id, fields) if kind != "flat_fee" else "",
        included=read_quantity(fields["included"]) if "included" in fields else None,
        price=_PRICES[kind](fields[kind], currency_code),
        entry=entry,
    )


def _meter(charge_id: str, fields: dict[str, Entry]) -> str:
    # A charge that is named after its meter need not name it twice.
    return fields["meter"].text() if "meter" in fields else charge_id


def _flat_fee(entry: Entry, currency_code: str) -> Price:
    return FlatFee(read_amount(entry, currency_code))


def _per_unit(entry: Entry, _currency_code: str) -> Price:
    return PerUnit(read_rate(entry))


def _graduated(entry: Entry, currency_code: str) -> Price:
    return Graduated(_tiers(entry, currency_code))


def _volume(entry: Entry, currency_code: str) -> Price:
    return Volume(_tiers(entry, currency_code))


def _package(entry: Entry, _currency_code: str) -> Price:
    fields = entry.fields(required=("size", "price"))
    return Package(size=read_quantity(fields["size"]), price=read_rate(fields["price"]))


def _percentage(entry: Entry, _currency_code: str) -> Price:
    fields = entry.fields(required=("percent",), optional=("exchange_rate",))
    rate = read_rate(fields["exchange_rate"]) if "exchange_rate" in fields else None
    return Percentage(percent=read_rate(fields["percent"]), exchange_rate=rate)


def _tiers(entry: Entry, currency_code: str) -> tuple[Tier, ...]:
    items = entry.items()
    if not items:
        raise entry.refused("needs at least one tier")
    tiers = [_tier(item, currency_code) for item in items]
    end = Decimal(0)
    for item, tier in zip(items[:-1], tiers[:-1], strict=True):
        if tier.up_to is None:
            raise item.refused("up_to missing: only the last tier is open")
        if tier.up_to.display_units <= end:
            raise tier.up_to.entry.refused(f"{tier.up_to.display_units} is not above {end}: tiers ascend")
        end = tier.up_to.display_units
    last = tiers[-1].up_to
    if last is not None:
        raise last.entry.refused("the last tier is open: leave up_to out")
    return tuple(tiers)


def _tier(entry: Entry, currency_code: str) -> Tier:
    fields = entry.fields(required=("unit_price",), optional=("up_to", "flat_price"))
    return Tier(
        up_to=read_quantity(fields["up_to"]) if "up_to" in fields else None,
        unit_price=read_rate(fields["unit_price"]),
        flat_price=read_amount(fields["flat_price"], currency_code) if "flat_price" in fields else None,
    )


_PRICES: dict[str, Callable[[Entry, str], Price]] = {
    "flat_fee": _flat_fee,
    "per_unit": _per_unit,
    "graduated": _graduated,
    "volume": _volume,
    "package": _package,
    "percentage": _percentage,
}
