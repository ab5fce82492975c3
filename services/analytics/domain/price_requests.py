"""The decision what a request to set a price changes, given the table and what was asked before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from kit.errors import AlreadyExists, InvalidField, LimitExceeded, RequestIdReused
from kit.money import format_decimal
from services.analytics.domain import limits
from services.analytics.domain.prices import Price, PriceTable


@dataclass(frozen=True, slots=True)
class PriceRequest:
    """A sound price to set, under the caller's id of the request."""

    request_id: str
    price: Price
    makes_baseline: bool
    """Whether the price's provider becomes the baseline."""

    @property
    def content(self) -> str:
        """Everything but the id, in one canonical text: what a repeated id is compared by."""
        price = self.price
        return json.dumps(
            [
                price.provider,
                price.model,
                price.effective_time.isoformat() if price.effective_time else None,
                _text(price.input_per_thousand),
                _text(price.output_per_thousand),
                _text(price.cache_read_per_thousand),
                _text(price.cache_write_per_thousand),
                self.makes_baseline,
            ]
        )


@dataclass(frozen=True, slots=True)
class PriceDecision:
    """What to change, and the price to answer with: the one that is kept."""

    price: Price
    adds_price: bool
    sets_baseline: bool


def check_request_id(request_id: str) -> None:
    """Raises InvalidField unless it is 1 to 128 bytes of printable text."""
    if not request_id or not request_id.isprintable() or len(request_id.encode()) > limits.REQUEST_ID_BYTES_MAX:
        problem = f"required: 1 to {limits.REQUEST_ID_BYTES_MAX} bytes of printable text"
        raise InvalidField(field="request_id", problem=problem)


def decide(request: PriceRequest, table: PriceTable, *, remembered: str | None) -> PriceDecision:
    """Decides a request. remembered: the content that its id was used with before; None: it is new.

    A repeated request changes nothing, whatever was set since; nor does a price that costs the same as the one kept
    for its start. Raises RequestIdReused, AlreadyExists for another price at the same start, and LimitExceeded.
    """
    price, kept = request.price, table.same_start(request.price)
    if remembered is not None:
        if remembered != request.content:
            raise RequestIdReused(request_id=request.request_id)
        return PriceDecision(kept or price, adds_price=False, sets_baseline=False)
    if kept is not None and kept.rates != price.rates:
        start = price.effective_time.isoformat() if price.effective_time else "the beginning"
        raise AlreadyExists(what="price", name=f"{price.provider}/{price.model} from {start}")
    if kept is None and len(table.prices) >= limits.PRICES_MAX:
        raise LimitExceeded(what="prices", actual=len(table.prices) + 1, maximum=limits.PRICES_MAX)
    return PriceDecision(
        kept or price,
        adds_price=kept is None,
        sets_baseline=request.makes_baseline and table.baseline_provider != price.provider,
    )


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else format_decimal(amount)
