"""Apply catalog: what is sold from now on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.usage import Usage
from services.billing.domain.catalog import CatalogChange, Interval
from services.billing.domain.catalog_rules import read_catalog
from services.billing.domain.catalog_text import PlanText, PriceBookText
from services.billing.domain.requests import request_digest, require_request_id


class ApplyCatalog:
    """Makes the given plans the catalog."""

    def __init__(self, plans: Plans, usage: Usage) -> None:
        self._plans = plans
        self._usage = usage

    async def __call__(self, texts: Sequence[PlanText], *, request_id: str, actor: str) -> CatalogChange:
        """What changed. Idempotent. Raises InvalidCatalog with nothing applied, RequestIdReused, and
        DependencyUnavailable also when metering cannot be asked for its meters.
        """
        require_request_id(request_id)
        plans = read_catalog(texts, await self._usage.meters())
        digest = request_digest("ApplyCatalog", [_content(text) for text in texts])
        return await self._plans.apply(plans, request_id=request_id, digest=digest, actor=actor)


def _content(text: PlanText) -> list[object]:
    meters = [
        [
            each.meter,
            each.limit_kind.value if each.limit_kind else None,
            each.limit_quantity,
            each.grace_percent,
            each.included_quantity,
            each.overage_unit_price,
        ]
        for each in text.meters
    ]
    features = [[name, text.features[name]] for name in sorted(text.features)]
    content: list[object] = [text.plan_id, text.display_name, text.monthly_price, text.currency_code, meters, features]
    interval = text.interval.value if text.interval else None
    books = [_book(book) for book in text.price_books]
    said = interval != Interval.MONTH.value or text.trial_days or books
    # Only where it is said: a request that was answered before plans had these is answered the same again.
    return [*content, interval, text.trial_days, books] if said else content


def _book(text: PriceBookText) -> list[object]:
    charges = [
        [
            each.charge_id,
            each.display_name,
            each.meter,
            each.included_quantity,
            type(each.price).__name__,
            asdict(each.price) if each.price else None,
        ]
        for each in text.charges
    ]
    return [text.currency_code, text.base_price, text.minimum, charges]
