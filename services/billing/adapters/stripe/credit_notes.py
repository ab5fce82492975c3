"""Our credit notes at Stripe."""

from __future__ import annotations

from services.billing.adapters.stripe.client import StripeApi, keyed
from services.billing.adapters.stripe.shapes import CREDIT_NOTE_KEY, ORGANIZATION_KEY
from services.billing.domain.credit_notes import CreditNote


class StripeCreditNotes:
    """CreditNoteCollector over the API."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api
        self._notes = api.v1.credit_notes
        self._invoices = api.v1.invoices

    async def take_back(self, note: CreditNote, stripe_invoice_id: str, *, attempt_count: int) -> str:
        """As CreditNoteCollector."""
        if attempt_count > 1:
            async for each in self._api.all_of(self._notes.list_async, {"invoice": stripe_invoice_id}):
                if (each["metadata"] or {}).get(CREDIT_NOTE_KEY) == note.credit_note_id:
                    return str(each["id"])
        amount = note.split.reduced.minor + note.split.refunded.minor
        theirs = await self._api(self._invoices.retrieve_async, stripe_invoice_id)
        # It may have been paid since: then what was to be due no longer has to be paid back.
        refunded = amount - min(amount, theirs.amount_remaining)
        made = await self._api(
            self._notes.create_async,
            {
                "invoice": stripe_invoice_id,
                # What went to prepaid credit is ours to keep account of, and nothing to Stripe.
                "amount": amount,
                "refund_amount": refunded,
                "memo": f"{note.number} {note.memo}".strip(),
                "metadata": {ORGANIZATION_KEY: note.organization_id, CREDIT_NOTE_KEY: note.credit_note_id},
            },
            # The parts are in the key: Stripe refuses a key that comes again with other content.
            keyed(f"credit-note-{refunded}", note.credit_note_id, attempt_count),
        )
        return made.id
