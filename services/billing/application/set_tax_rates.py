"""Set tax rates: which taxes a customer pays from a time on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.clock import Clock, unix_microseconds
from kit.errors import InvalidField
from kit.money import format_decimal
from services.billing.application.ports.books import Books
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.tax import TaxRate, TaxRates, require_rates


class SetTaxRates:
    """Changes the taxes of a customer."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        rates: Sequence[TaxRate],
        *,
        start_time: datetime | None,
        request_id: str,
        actor: str,
    ) -> TaxRates:
        """What is charged on what is finalized from start_time on; None means now. Never in the past: what is final
        stays as it is. Idempotent. Raises InvalidField, LimitExceeded and RequestIdReused.
        """
        require_request_id(request_id)
        require_rates(rates)
        start_us = None if start_time is None else unix_microseconds(start_time)
        content = [
            [each.display_name, format_decimal(each.percent), each.jurisdiction, each.treatment.value, each.note]
            for each in rates
        ]
        digest = request_digest("SetTaxRates", organization_id, start_us, content)
        now = self._clock.now()
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                return next(each for each in await book.profile.tax_history() if str(each.version) == made)
            if start_time is not None and start_time < now:
                raise InvalidField(field="start_time", problem="lies in the past")
            kept = await book.profile.set_taxes(rates, start_time=start_time or now, actor=actor, request_id=request_id)
            await book.requests.remember(request_id, digest, str(kept.version))
            return kept
