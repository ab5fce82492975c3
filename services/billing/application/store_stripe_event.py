"""Store Stripe event: verify, keep once, acknowledge."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import Clock
from services.billing.application.ports.stripe_events import StripeInbox
from services.billing.domain.signatures import verify_signature
from services.billing.domain.stripe_events import read_event


class StoreStripeEvent:
    """Takes a webhook into the inbox."""

    def __init__(self, inbox: StripeInbox, secrets: Sequence[str], clock: Clock) -> None:
        self._inbox = inbox
        self._secrets = secrets
        self._clock = clock

    async def __call__(self, payload: bytes, signature: str) -> None:
        """Returns when the event is committed; a repeated one changes nothing. Raises SignatureInvalid,
        WebhookDisabled, InvalidField, LimitExceeded and DependencyUnavailable: then Stripe sends it again.
        """
        now = self._clock.now()
        verify_signature(payload, signature, self._secrets, now)
        await self._inbox.store(read_event(payload), now=now)
