"""Store Stripe event: verify, keep once, acknowledge."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.metrics import WEBHOOKS
from services.billing.application.ports.stripe_events import StripeInbox
from services.billing.domain.signatures import verify_signature
from services.billing.domain.stripe_events import read_event

log = structlog.get_logger()


class StoreStripeEvent:
    """Takes a webhook into the inbox."""

    def __init__(self, inbox: StripeInbox, secrets: Sequence[str], clock: Clock) -> None:
        self._inbox = inbox
        self._secrets = secrets
        self._clock = clock

    async def __call__(self, payload: bytes, signature: str) -> None:
        """Returns when the event is committed; a repeated one changes nothing. Raises SignatureInvalid,
        WebhookDisabled, InvalidField, LimitExceeded and DependencyUnavailable: then Stripe sends it again. Every
        refusal is counted and logged, without what was sent: whoever tries signatures is to be seen.
        """
        now = self._clock.now()
        try:
            verify_signature(payload, signature, self._secrets, now)
            event = read_event(payload)
        except Refused as refusal:
            WEBHOOKS.labels(refusal.reason.lower()).inc()
            log.warning("webhook_refused", reason=refusal.reason, problem=str(refusal), payload_bytes=len(payload))
            raise
        is_new = await self._inbox.store(event, now=now)
        WEBHOOKS.labels("stored" if is_new else "duplicate").inc()
