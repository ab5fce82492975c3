"""Set billing terms: what the operator agreed with a customer."""

from __future__ import annotations

from dataclasses import replace

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.domain.profile import BillingProfile, BillingTerms, require_terms
from services.billing.domain.requests import request_digest, require_request_id


class SetBillingTerms:
    """Changes who bills a customer, in which currency, and how it pays."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(
        self, organization_id: str, terms: BillingTerms, *, request_id: str, actor: str
    ) -> BillingProfile:
        """The profile with these terms. Invoices that are final, and the currency of subscriptions that there are, stay
        as they are. Idempotent. Raises InvalidField, NotFound for the legal entity, and RequestIdReused.
        """
        require_request_id(request_id)
        require_terms(terms)
        content = [terms.legal_entity_id, terms.currency_code, terms.collection_method.value, terms.term_days]
        digest = request_digest("SetBillingTerms", organization_id, content)
        async with self._books.open(organization_id) as book:
            current = await book.profile.current()
            if await book.requests.answer_to(request_id, digest) is not None:
                return current
            changed = replace(current, terms=terms, update_time=self._clock.now())
            kept = await book.profile.set(changed, actor=actor, request_id=request_id)
            await book.requests.remember(request_id, digest, str(kept.version))
            return kept
