"""Update billing profile: who the customer is."""

from __future__ import annotations

from dataclasses import replace

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.domain.profile import DEFAULT_LOCALE, BillingProfile, Party, require_locale, require_party
from services.billing.domain.requests import request_digest, require_request_id


class UpdateBillingProfile:
    """Changes what the customer says of itself."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(
        self, organization_id: str, party: Party, *, locale: str, request_id: str, actor: str
    ) -> BillingProfile:
        """The profile with this party and locale (empty: the default), and the terms as they were. Idempotent. Raises
        InvalidField, LimitExceeded and RequestIdReused.
        """
        require_request_id(request_id)
        require_party("party", party)
        wanted = locale or DEFAULT_LOCALE
        require_locale(wanted)
        digest = request_digest(
            "UpdateBillingProfile",
            organization_id,
            [party.legal_name, list(party.address_lines), party.country_code, party.tax_id, party.mail],
            locale,
        )
        async with self._books.open(organization_id) as book:
            current = await book.profile.current()
            if await book.requests.answer_to(request_id, digest) is not None:
                return current
            changed = replace(current, party=party, locale=wanted, update_time=self._clock.now())
            kept = await book.profile.set(changed, actor=actor, request_id=request_id)
            await book.requests.remember(request_id, digest, str(kept.version))
            return kept
