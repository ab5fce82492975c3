"""What price books must be like before anything is sold by them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kit.money import Money, UnknownCurrency, currency_exponent, parse_decimal
from services.billing.domain import limits
from services.billing.domain.catalog import PriceBook, display_name_of
from services.billing.domain.catalog_text import (
    ChargeText,
    FlatFeeText,
    GraduatedText,
    PackageText,
    PercentageText,
    PerUnitText,
    PriceBookText,
    PriceText,
    TierText,
    VolumeText,
)
from services.billing.domain.errors import InvalidCatalog
from services.billing.domain.meters import Meter
from services.billing.domain.prices import (
    Charge,
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Price,
    Tier,
    UsagePrice,
    Volume,
)

NAME = re.compile(r"[a-z0-9_]{1,64}")
NAME_RULE = "1 to 64 lower-case letters, digits or `_`"
_QUANTITY_RULE = "not in 0 to 2^53 - 1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a catalog something is written, for whoever has to correct it."""

    plan_id: str
    path: str = ""

    def at(self, part: str) -> Place:
        """A part of it."""
        return Place(self.plan_id, f"{self.path}.{part}" if self.path else part)

    def refused(self, problem: str) -> InvalidCatalog:
        """The error to raise about it."""
        return InvalidCatalog(plan_id=self.plan_id, field=self.path, problem=problem)

    def require(self, sound: bool, problem: str) -> None:  # noqa: FBT001 - the condition itself, not a flag
        """Raises InvalidCatalog unless it is sound."""
        if not sound:
            raise self.refused(problem)


def read_price_books(
    place: Place, texts: Sequence[PriceBookText], *, countable: Mapping[str, Meter], held: frozenset[str]
) -> tuple[PriceBook, ...]:
    """The books. countable: the meters that there are; held: those that the plan limits by what is held at once. Raises
    InvalidCatalog.
    """
    place.at("price_books").require(len(texts) <= limits.PRICE_BOOKS_MAX, f"more than {limits.PRICE_BOOKS_MAX}")
    books: dict[str, PriceBook] = {}
    for text in texts:
        at = place.at(f"price_books[{text.currency_code[:8]}]")
        at.require(text.currency_code not in books, "appears twice")
        books[text.currency_code] = _read_book(at, text, countable, held)
    first, *others = books.values()
    for book in others:
        # A charge that was forgotten in one currency would be given away there.
        problem = f"must have the same charges, by id and meter, as price_books[{first.currency_code}]"
        place.at(f"price_books[{book.currency_code}].charges").require(_charged(book) == _charged(first), problem)
    return tuple(books.values())


def read_amount(place: Place, text: str, currency_code: str) -> Money:
    """An amount of 0 or more, no finer than its currency. Raises InvalidCatalog."""
    try:
        amount = Money.parse(text, currency_code)
    except ValueError as error:
        raise place.refused(str(error)) from None
    place.require(0 <= parse_decimal(text) <= limits.PRICE_MAX, f"not in 0 to {limits.PRICE_MAX}")
    return amount


def read_rate(place: Place, text: str, *, maximum: Decimal = limits.PRICE_MAX) -> Decimal:
    """A price of a unit: 0 or more, of 12 decimals at most. Raises InvalidCatalog."""
    try:
        rate = parse_decimal(text)
    except ValueError as error:
        raise place.refused(str(error)) from None
    place.require(0 <= rate <= maximum, f"not in 0 to {maximum}")
    return rate


def require_currency(place: Place, currency_code: str) -> None:
    """Raises InvalidCatalog for a currency that cannot be billed."""
    try:
        currency_exponent(currency_code)
    except UnknownCurrency:
        raise place.refused(f"{currency_code[:8]!r} is not a currency that can be billed") from None


def require_quantity(place: Place, quantity: int | None) -> None:
    """Raises InvalidCatalog for a quantity that no meter can reach; None is unlimited."""
    place.require(quantity is None or 0 <= quantity <= limits.QUANTITY_MAX, _QUANTITY_RULE)


def require_display_name(place: Place, name: str) -> None:
    """Raises InvalidCatalog for a name that cannot be shown."""
    shown = 0 < len(name.encode()) <= limits.DISPLAY_NAME_BYTES_MAX and name.isprintable()
    place.require(shown, f"1 to {limits.DISPLAY_NAME_BYTES_MAX} bytes of printable text")


def _charged(book: PriceBook) -> dict[str, str]:
    return {charge.charge_id: charge.meter for charge in book.charges}


def _read_book(place: Place, text: PriceBookText, countable: Mapping[str, Meter], held: frozenset[str]) -> PriceBook:
    currency_code = text.currency_code
    require_currency(place.at("currency_code"), currency_code)
    place.at("charges").require(len(text.charges) <= limits.CHARGES_MAX, f"more than {limits.CHARGES_MAX}")
    charges: dict[str, Charge] = {}
    for each in text.charges:
        at = place.at(f"charges[{each.charge_id[:64]}]")
        at.at("charge_id").require(bool(NAME.fullmatch(each.charge_id)), NAME_RULE)
        at.require(each.charge_id not in charges, "appears twice")
        charges[each.charge_id] = _read_charge(at, each, currency_code, countable, held)
    minimum = None
    if text.minimum:
        minimum = read_amount(place.at("minimum"), text.minimum, currency_code)
        place.at("minimum").require(minimum.minor > 0, "must be above 0, or left out")
    return PriceBook(
        currency_code=currency_code,
        base_price=read_amount(place.at("base_price"), text.base_price, currency_code),
        charges=tuple(charges.values()),
        minimum=minimum,
    )


def _read_charge(
    place: Place, text: ChargeText, currency_code: str, countable: Mapping[str, Meter], held: frozenset[str]
) -> Charge:
    display_name = text.display_name or display_name_of(text.charge_id)
    require_display_name(place.at("display_name"), display_name)
    if text.price is None:
        raise place.at("price").refused("must be said")
    price: Price
    if isinstance(text.price, FlatFeeText):
        place.at("meter").require(not text.meter, "must be empty for a flat fee")
        place.at("included_quantity").require(not text.included_quantity, "must be 0 for a flat fee")
        # Read as an amount, which is no finer than the currency; kept exactly.
        read_amount(place.at("flat_fee.amount"), text.price.amount, currency_code)
        price = FlatFee(parse_decimal(text.price.amount))
    else:
        meter = countable.get(text.meter)
        if meter is None:
            raise place.at("meter").refused(f"{text.meter[:64]!r} is not a meter")
        # What is held at once is not used up, so there is nothing of it to charge.
        place.at("meter").require(text.meter not in held, "is limited by concurrency and cannot be charged")
        require_quantity(place.at("included_quantity"), text.included_quantity)
        price = _read_usage_price(place, text.price, meter, currency_code)
    return Charge(
        charge_id=text.charge_id,
        display_name=display_name,
        meter=text.meter,
        included_quantity=text.included_quantity,
        price=price,
    )


def _read_usage_price(place: Place, text: PriceText, meter: Meter, currency_code: str) -> UsagePrice:
    match text:
        case PerUnitText(unit_price):
            return PerUnit(read_rate(place.at("per_unit.unit_price"), unit_price))
        case GraduatedText(tiers):
            return Graduated(_read_tiers(place.at("graduated"), tiers, currency_code))
        case VolumeText(tiers):
            return Volume(_read_tiers(place.at("volume"), tiers, currency_code))
        case PackageText(size=size, price=price):
            at = place.at("package")
            at.at("size").require(1 <= size <= limits.QUANTITY_MAX, "not in 1 to 2^53 - 1")
            return Package(size=size, price=read_rate(at.at("price"), price))
        case PercentageText():
            return _read_percentage(place.at("percentage"), text, meter, currency_code)
        case FlatFeeText():
            raise place.refused("a flat fee counts nothing")


def _read_tiers(place: Place, texts: Sequence[TierText], currency_code: str) -> tuple[Tier, ...]:
    place.at("tiers").require(1 <= len(texts) <= limits.TIERS_MAX, f"not 1 to {limits.TIERS_MAX} of them")
    tiers: list[Tier] = []
    end = 0
    for number, text in enumerate(texts, start=1):
        at = place.at(f"tiers[{number}]")
        if text.up_to is None:
            at.at("up_to").require(number == len(texts), "only the last tier is open")
        else:
            at.at("up_to").require(number < len(texts), "must be absent: the last tier is open")
            at.at("up_to").require(end < text.up_to <= limits.QUANTITY_MAX, f"not in {end + 1} to 2^53 - 1")
            end = text.up_to
        flat_price = Decimal(0)
        if text.flat_price:
            read_amount(at.at("flat_price"), text.flat_price, currency_code)
            flat_price = parse_decimal(text.flat_price)
        unit_price = read_rate(at.at("unit_price"), text.unit_price)
        tiers.append(Tier(up_to=text.up_to, unit_price=unit_price, flat_price=flat_price))
    return tuple(tiers)


def _read_percentage(place: Place, text: PercentageText, meter: Meter, currency_code: str) -> Percentage:
    counted = meter.display_unit.upper()
    try:
        currency_exponent(counted)
    except UnknownCurrency:
        problem = f"{meter.name!r} counts {meter.display_unit!r} and no money: there is nothing to take a share of"
        raise place.refused(problem) from None
    percent = read_rate(place.at("percent"), text.percent, maximum=limits.PERCENT_MAX)
    at = place.at("exchange_rate")
    if counted == currency_code:
        at.require(not text.exchange_rate, f"must be empty: the meter counts {currency_code} already")
        return Percentage(percent=percent)
    at.require(bool(text.exchange_rate), f"must be said: the meter counts {counted}")
    exchange_rate = read_rate(at, text.exchange_rate)
    at.require(exchange_rate > 0, "must be above 0")
    return Percentage(percent=percent, exchange_rate=exchange_rate)
