"""The price table: which rates were in force when, and what a call falls back to that has none of its own.

Rates are whole femto-US-dollars (1e-15) per token: a price has at most 12 decimals per 1 000 tokens, so 15 per token,
and every rate, cost and sum of costs is an integer. Nothing is ever rounded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from kit.errors import InvalidField
from kit.money import parse_decimal
from services.analytics.domain import limits
from services.analytics.domain.errors import PricesMissing

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)
FEMTO_USD_PER_USD = 10**15
_TOKENS_PRICED = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one token costs, in femto-US-dollars."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    """Of output and reasoning tokens alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a provider charges from some time on, in US dollars per 1 000 tokens."""

    provider: str
    model: str
    """Empty: every model of the provider without a price of its own."""
    effective_time: datetime | None
    """None: from the beginning."""
    input_per_thousand: Decimal
    output_per_thousand: Decimal
    cache_read_per_thousand: Decimal | None = None
    """None: as input."""
    cache_write_per_thousand: Decimal | None = None
    """None: as input."""

    @property
    def start(self) -> datetime:
        """From when on it is in force."""
        return self.effective_time or BEGINNING

    @property
    def rates(self) -> Rates:
        """The price per token."""

        def of(amount: Decimal | None) -> int:
            return _femto_usd_per_token(self.input_per_thousand if amount is None else amount)

        return Rates(
            input=of(self.input_per_thousand),
            cache_read=of(self.cache_read_per_thousand),
            cache_write=of(self.cache_write_per_thousand),
            output=of(self.output_per_thousand),
        )


@dataclass(frozen=True, slots=True)
class KeptPrice:
    """A price, and the version of the table that added it."""

    version: int
    price: Price


@dataclass(frozen=True, slots=True)
class Quote:
    """The rates that a call is priced with, and whether they are a fallback for want of its own."""

    rates: Rates
    is_fallback: bool


class PriceTable:
    """Every price there is, as of one version. Immutable.

    A call's own price is the one in force at its time for its provider and model, else for its provider. Without one
    it is priced, as a fallback and never at zero, class by class at the costliest rate then in force. A call earlier
    than every price is priced, as a fallback, as if it had happened when the first one took effect.
    """

    def __init__(
        self,
        *,
        version: int = 0,
        prices: Iterable[KeptPrice] = (),
        baseline_provider: str = "",
        baseline_version: int = 0,
    ) -> None:
        """baseline_version: the version that made baseline_provider (empty: none yet) the baseline."""
        self.version = version
        self.baseline_provider = baseline_provider
        self._baseline_version = baseline_version
        self._kept = tuple(sorted(prices, key=_order))
        self._by_name = {_name(kept.price): kept.price for kept in self._kept}
        self._all = _Shelf(self.prices)
        self._baseline = _Shelf(price for price in self.prices if price.provider == baseline_provider)

    @property
    def prices(self) -> tuple[Price, ...]:
        """By provider, model and effective time."""
        return tuple(kept.price for kept in self._kept)

    def same_start(self, price: Price) -> Price | None:
        """The price of the same provider and model that takes effect at the same instant, if there is one."""
        return self._by_name.get(_name(price))

    def quote(self, provider: str, model: str, moment: datetime) -> Quote:
        """The rates of a call. Raises PricesMissing when there is no price at all."""
        if self._all.first is None:
            raise PricesMissing(missing="there is no price")
        return self._all.quote(provider, model, moment)

    def baseline_quote(self, model: str, moment: datetime) -> Quote:
        """The rates of the same call at the baseline provider; what it lacks falls back to its own costliest rates.
        Raises PricesMissing when there is no baseline provider.
        """
        if self._baseline.first is None:
            raise PricesMissing(missing="there is no price of a baseline provider")
        return self._baseline.quote(self.baseline_provider, model, moment)

    def changed_since(self, version: int) -> datetime:
        """From which event time on this table may price a call otherwise than that version of it did: BEGINNING for
        every call, END for none.
        """
        newer = [kept.price for kept in self._kept if kept.version > version]
        older = [kept.price for kept in self._kept if kept.version <= version]
        if self._baseline_version > version:
            return BEGINNING
        since = min((price.start for price in newer), default=END)
        for chosen in ({price.provider for price in self.prices}, {self.baseline_provider}):
            first_new = min((price.start for price in newer if price.provider in chosen), default=END)
            first_old = min((price.start for price in older if price.provider in chosen), default=END)
            # What is earlier than every price is priced by the first of them, so a new first one changes it all.
            if first_new <= first_old and first_new != END:
                return BEGINNING
        return since


class _Shelf:
    """The prices of some providers, ready to be asked."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._series: dict[tuple[str, str], list[tuple[datetime, Rates]]] = defaultdict(list)
        for price in prices:  # in the order of effective time
            self._series[price.provider, price.model].append((price.start, price.rates))
        self._starts = sorted({start for series in self._series.values() for start, _ in series})
        self._costliest: dict[int, Rates] = {}

    @property
    def first(self) -> datetime | None:
        """When the first price takes effect."""
        return self._starts[0] if self._starts else None

    def quote(self, provider: str, model: str, moment: datetime) -> Quote:
        """The rates of a call; there must be a price."""
        asked = max(moment, self._starts[0])
        own = self._in_force(provider, model, asked)
        if own is None:
            return Quote(self._costliest_at(asked), is_fallback=True)
        return Quote(own, is_fallback=asked != moment)

    def _in_force(self, provider: str, model: str, moment: datetime) -> Rates | None:
        return _latest(self._series.get((provider, model)), moment) or _latest(self._series.get((provider, "")), moment)

    def _costliest_at(self, moment: datetime) -> Rates:
        # Between two starts nothing changes, so each stretch is worked out once.
        stretch = bisect_right(self._starts, moment)
        costliest = self._costliest.get(stretch)
        if costliest is None:
            in_force = [rates for series in self._series.values() if (rates := _latest(series, moment)) is not None]
            costliest = self._costliest[stretch] = Rates(
                input=max(rates.input for rates in in_force),
                cache_read=max(rates.cache_read for rates in in_force),
                cache_write=max(rates.cache_write for rates in in_force),
                output=max(rates.output for rates in in_force),
            )
        return costliest


def new_price(
    *,
    provider: str,
    model: str,
    effective_time: datetime | None,
    input_per_thousand: str,
    output_per_thousand: str,
    cache_read_per_thousand: str = "",
    cache_write_per_thousand: str = "",
) -> Price:
    """A sound price. Amounts are decimal strings, at least 0, with at most 12 decimals; an empty cache price is as
    input. Raises InvalidField.
    """
    for field, name in (("provider", provider), ("model", model)):
        if field == "model" and not name:
            continue
        if not name or not name.isprintable() or len(name.encode()) > limits.NAME_BYTES_MAX:
            problem = f"1 to {limits.NAME_BYTES_MAX} bytes of printable text"
            raise InvalidField(field=f"price.{field}", problem=problem)
    return Price(
        provider=provider,
        model=model,
        effective_time=effective_time,
        input_per_thousand=_amount("input_per_thousand", input_per_thousand),
        output_per_thousand=_amount("output_per_thousand", output_per_thousand),
        cache_read_per_thousand=_optional_amount("cache_read_per_thousand", cache_read_per_thousand),
        cache_write_per_thousand=_optional_amount("cache_write_per_thousand", cache_write_per_thousand),
    )


def _optional_amount(field: str, text: str) -> Decimal | None:
    return _amount(field, text) if text else None


def _amount(field: str, text: str) -> Decimal:
    try:
        amount = parse_decimal(text)
    except ValueError:
        amount = None
    if amount is None or amount.is_signed():
        problem = "a decimal of at least 0 in US dollars, such as 0.002, with at most 12 decimals"
        raise InvalidField(field=f"price.{field}", problem=problem)
    return amount


def _femto_usd_per_token(amount: Decimal) -> int:
    exact = Fraction(amount) * FEMTO_USD_PER_USD / _TOKENS_PRICED
    if exact.denominator != 1:
        msg = f"{amount} per 1 000 tokens is finer than a femto-US-dollar per token"
        raise ValueError(msg)
    return exact.numerator


def _latest(series: list[tuple[datetime, Rates]] | None, moment: datetime) -> Rates | None:
    place = bisect_right(series, moment, key=_start_of) if series else 0
    return series[place - 1][1] if series and place else None


def _start_of(entry: tuple[datetime, Rates]) -> datetime:
    return entry[0]


def _name(price: Price) -> tuple[str, str, datetime | None]:
    return price.provider, price.model, price.effective_time


def _order(kept: KeptPrice) -> tuple[str, str, datetime, bool]:
    price = kept.price
    return price.provider, price.model, price.start, price.effective_time is not None
