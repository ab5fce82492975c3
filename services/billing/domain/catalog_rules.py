"""What a catalog must be like before it is sold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.catalog import (
    FREE_PLAN,
    Interval,
    LimitKind,
    Plan,
    PlanMeter,
    PriceBook,
    per_unit_charge,
)
from services.billing.domain.catalog_text import PlanMeterText, PlanText
from services.billing.domain.errors import InvalidCatalog
from services.billing.domain.meters import Meter
from services.billing.domain.price_rules import (
    NAME,
    NAME_RULE,
    Place,
    read_amount,
    read_price_books,
    read_rate,
    require_currency,
    require_display_name,
    require_quantity,
)
from services.billing.domain.prices import PerUnit


def read_catalog(texts: Sequence[PlanText], meters: Mapping[str, Meter]) -> tuple[Plan, ...]:
    """The plans that the texts describe, of version 0. Raises InvalidCatalog naming the first plan and field that
    break a rule.
    """
    if len(texts) > limits.PLANS_MAX:
        raise InvalidCatalog(plan_id="", field="plans", problem=f"more than {limits.PLANS_MAX}")
    plans = [read_plan(text, meters) for text in texts]
    seen: set[str] = set()
    for plan in plans:
        Place(plan.plan_id, "plan_id").require(plan.plan_id not in seen, "appears twice")
        seen.add(plan.plan_id)
        if plan.plan_id == FREE_PLAN:
            _require_free_of_charge(plan)
    Place(FREE_PLAN, "plan_id").require(FREE_PLAN in seen, "must be in the catalog")
    return tuple(plans)


def read_plan(text: PlanText, meters: Mapping[str, Meter]) -> Plan:
    """One plan by itself, of version 0. Raises InvalidCatalog."""
    Place(text.plan_id[:64], "plan_id").require(bool(NAME.fullmatch(text.plan_id)), NAME_RULE)
    place = Place(text.plan_id)
    require_display_name(place.at("display_name"), text.display_name)
    _require_features(place.at("features"), text.features)
    if text.interval is None:
        raise place.at("interval").refused("is not one that is known")
    in_range = 0 <= text.trial_days <= limits.TRIAL_DAYS_MAX
    place.at("trial_days").require(in_range, f"not in 0 to {limits.TRIAL_DAYS_MAX}")
    plan_meters = _read_meters(place, text.meters, meters)
    if text.price_books:
        held = frozenset(each.meter for each in plan_meters if each.limit_kind is LimitKind.CONCURRENCY)
        books = read_price_books(place, text.price_books, countable=meters, held=held)
        _require_agreement(place, text, books[0])
    else:
        place.at("interval").require(text.interval is Interval.MONTH, "only price_books can say the price of a year")
        books = (_read_short_spelling(place, text),)
    charged = {charge.meter for charge in books[0].usage_charges}
    return Plan(
        plan_id=text.plan_id,
        version=0,
        display_name=text.display_name,
        interval=text.interval,
        trial_days=text.trial_days,
        meters=tuple(_allowance_kept_once(each, charged) for each in plan_meters),
        price_books=books,
        features=dict(sorted(text.features.items())),
    )


def _allowance_kept_once(each: PlanMeter, charged: set[str]) -> PlanMeter:
    return replace(each, included_quantity=0) if each.meter in charged else each


def _require_free_of_charge(plan: Plan) -> None:
    place = Place(plan.plan_id)
    problem = "must be empty: this plan is never billed"
    place.at("trial_days").require(not plan.trial_days, "must be 0: this plan is never billed")
    place.at("interval").require(plan.interval is Interval.MONTH, "must be a month: this plan is never billed")
    for book in plan.price_books:
        place.at("monthly_price").require(not book.base_price.minor, "must be 0 on this plan")
        for charge in book.charges:
            # In the words of the short spelling, where that could have said it.
            said = f"meters[{charge.meter}].overage_unit_price" if charge.charge_id == charge.meter else ""
            place.at(said or f"price_books[{book.currency_code}].charges").require(sound=False, problem=problem)
        place.at(f"price_books[{book.currency_code}].minimum").require(book.minimum is None, problem)


def _require_features(place: Place, features: Mapping[str, bool]) -> None:
    place.require(len(features) <= limits.PLAN_FEATURES_MAX, f"more than {limits.PLAN_FEATURES_MAX}")
    for feature in features:
        place.require(bool(NAME.fullmatch(feature)), f"{feature[:64]!r} is not {NAME_RULE}")


def _read_meters(place: Place, texts: Sequence[PlanMeterText], meters: Mapping[str, Meter]) -> tuple[PlanMeter, ...]:
    place.at("meters").require(len(texts) <= limits.PLAN_METERS_MAX, f"more than {limits.PLAN_METERS_MAX}")
    found: dict[str, PlanMeter] = {}
    for text in texts:
        at = place.at(f"meters[{text.meter[:64]}]")
        at.require(text.meter not in found, "appears twice")
        found[text.meter] = _read_meter(at, text, meters)
    return tuple(found[meter] for meter in sorted(found))


def _read_meter(place: Place, text: PlanMeterText, meters: Mapping[str, Meter]) -> PlanMeter:
    place.at("meter").require(text.meter in meters, "is not a meter")
    if text.limit_kind is None:
        raise place.at("limit_kind").refused("must be said")
    require_quantity(place.at("limit_quantity"), text.limit_quantity)
    in_range = 0 <= text.grace_percent <= limits.GRACE_PERCENT_MAX
    place.at("grace_percent").require(in_range, f"not in 0 to {limits.GRACE_PERCENT_MAX}")
    require_quantity(place.at("included_quantity"), text.included_quantity)
    if text.limit_kind is LimitKind.CONCURRENCY:
        # What is held at once is not used up, so there is nothing of it to include or to charge.
        place.at("included_quantity").require(not text.included_quantity, "must be 0 with a concurrency limit")
        place.at("overage_unit_price").require(not text.overage_unit_price, "must be empty with a concurrency limit")
    return PlanMeter(
        meter=text.meter,
        limit_kind=text.limit_kind,
        limit_quantity=text.limit_quantity,
        grace_percent=text.grace_percent,
        included_quantity=text.included_quantity,
    )


def _read_short_spelling(place: Place, text: PlanText) -> PriceBook:
    require_currency(place.at("currency_code"), text.currency_code)
    charges = [
        per_unit_charge(
            each.meter,
            included_quantity=each.included_quantity,
            unit_price=read_rate(place.at(f"meters[{each.meter}].overage_unit_price"), each.overage_unit_price),
        )
        for each in sorted(text.meters, key=lambda each: each.meter)
        if each.overage_unit_price
    ]
    return PriceBook(
        currency_code=text.currency_code,
        base_price=read_amount(place.at("monthly_price"), text.monthly_price, text.currency_code),
        charges=tuple(charges),
    )


def _require_agreement(place: Place, text: PlanText, book: PriceBook) -> None:
    # Who reads a plan, changes a short field and sends it back would else be told that it was applied.
    def agrees(field: str, *, said: bool, same: bool) -> None:
        place.at(field).require(not said or same, f"is not what price_books[{book.currency_code}] says; leave it empty")

    agrees("currency_code", said=bool(text.currency_code), same=text.currency_code == book.currency_code)
    if text.monthly_price:
        place.at("monthly_price").require(text.interval is Interval.MONTH, "must be empty for a yearly plan")
        monthly_price: Money = read_amount(place.at("monthly_price"), text.monthly_price, book.currency_code)
        agrees("monthly_price", said=True, same=monthly_price == book.base_price)
    charged = {charge.meter for charge in book.usage_charges}
    for each in text.meters:
        at = f"meters[{each.meter}]"
        charge = book.per_unit_charge_of(each.meter)
        allowance, unit_price = 0, None
        if charge is not None and isinstance(charge.price, PerUnit):
            allowance, unit_price = charge.included_quantity, charge.price.unit_price
        if each.overage_unit_price:
            price = read_rate(place.at(f"{at}.overage_unit_price"), each.overage_unit_price)
            agrees(f"{at}.overage_unit_price", said=True, same=price == unit_price)
        said = each.meter in charged and bool(each.included_quantity)
        agrees(f"{at}.included_quantity", said=said, same=each.included_quantity == allowance)
