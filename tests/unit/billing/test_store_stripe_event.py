"""F26: what is refused at the webhook, and that it is seen."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from kit.errors import Refused
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.stripe_events import MemoryStripeInbox
from services.billing.application.store_stripe_event import StoreStripeEvent

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD, NEW = "whsec_old", "whsec_new"
PAYLOAD = b'{"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1", "customer": "cus_1"}}}'
THIN = b'{"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}'


def signed(payload: bytes, *, secret: str = NEW, seconds: int = 0) -> str:
    timestamp = int(NOW.timestamp()) + seconds
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("tollbook_billing_webhooks_total", {"outcome": outcome}) or 0.0


@dataclass
class Door:
    """The webhook over a fresh inbox."""

    secrets: list[str] = field(default_factory=lambda: [NEW])

    def __post_init__(self) -> None:
        self.inbox = MemoryStripeInbox(MemoryBooks())
        self.store = StoreStripeEvent(self.inbox, self.secrets, FakeClock(NOW))

    async def stored(self) -> int:
        return len(await self.inbox.claim(now=NOW + timedelta(days=1), count=10))


@pytest.mark.parametrize(
    ("payload", "signature", "reason"),
    [
        (PAYLOAD, "", "SIGNATURE_INVALID"),
        (PAYLOAD, signed(PAYLOAD, secret="whsec_guess"), "SIGNATURE_INVALID"),
        (PAYLOAD, signed(PAYLOAD, secret=""), "SIGNATURE_INVALID"),
        (PAYLOAD, signed(PAYLOAD, seconds=-301), "SIGNATURE_INVALID"),
        (PAYLOAD, signed(PAYLOAD, seconds=301), "SIGNATURE_INVALID"),
        (json.dumps(json.loads(PAYLOAD), indent=1).encode(), signed(PAYLOAD), "SIGNATURE_INVALID"),
        (THIN, signed(THIN), "INVALID_FIELD"),
        (b"{}" + b" " * 1024 * 1024, signed(b"{}" + b" " * 1024 * 1024), "LIMIT_EXCEEDED"),
        (b"not json", signed(b"not json"), "INVALID_FIELD"),
    ],
    ids=["missing", "guessed", "empty secret", "old", "ahead", "encoded anew", "thin", "a mebibyte", "no event"],
)
async def test_f26_what_does_not_fit_is_refused_counted_and_logged_and_not_stored(
    payload: bytes, signature: str, reason: str
) -> None:
    door, before = Door(), counted(reason.lower())
    with capture_logs() as logs, pytest.raises(Refused) as caught:
        await door.store(payload, signature)
    assert (caught.value.reason, await door.stored()) == (reason, 0)
    assert counted(reason.lower()) == before + 1
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("webhook_refused", reason)]
    assert payload.decode()[:20] not in str(logs)


@pytest.mark.parametrize("secret", [OLD, NEW])
async def test_f26_while_secrets_rotate_both_are_good(secret: str) -> None:
    door = Door([OLD, NEW])
    await door.store(PAYLOAD, signed(PAYLOAD, secret=secret))
    assert await door.stored() == 1


async def test_f26_an_empty_secret_turns_the_webhook_off() -> None:
    door, before = Door([]), counted("webhook_disabled")
    with pytest.raises(Refused, match="off"):
        await door.store(PAYLOAD, signed(PAYLOAD, secret=""))
    assert (await door.stored(), counted("webhook_disabled")) == (0, before + 1)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
async def test_f26_a_clock_five_minutes_off_either_way_is_good(seconds: int) -> None:
    door = Door()
    await door.store(PAYLOAD, signed(PAYLOAD, seconds=seconds))
    assert await door.stored() == 1


async def test_b39_an_event_that_comes_again_is_stored_once_and_counted() -> None:
    door, before = Door(), counted("duplicate")
    for _ in range(3):
        await door.store(PAYLOAD, signed(PAYLOAD))
    assert (await door.stored(), counted("duplicate")) == (1, before + 2)
