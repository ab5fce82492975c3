"""Webhooks on their way: signed as Stripe signs them, tried again until the receiver answers 2xx."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
from collections.abc import Iterable
from dataclasses import replace

import httpx
import structlog

from kit.clock import Clock
from tools.stripe_simulator import events
from tools.stripe_simulator.faults import Faults
from tools.stripe_simulator.store import Delivery, Store

ATTEMPTS_MAX = 30
_DELAY_SECONDS_MIN = 0.2
_DELAY_SECONDS_MAX = 10.0
_TIMEOUT_SECONDS = 10.0
_CONCURRENT_MAX = 8
# How many waiting deliveries are looked at together; a shuffle is over these.
_WINDOW = 200
# So long a shuffled event waits for others to be shuffled with.
_SHUFFLE_SECONDS = 0.25

_log = structlog.get_logger()


class WebhookSender:
    """Delivers every pending event at least once, in no promised order, a few at a time.

    What is delivered is in the store, so a sender that starts later goes on where this one stopped; an attempt
    that was cut off is made again.
    """

    def __init__(self, store: Store, clock: Clock, faults: Faults, *, url: str, secret: str) -> None:
        self._store = store
        self._clock = clock
        self._faults = faults
        self._url = url
        self._secret = secret
        self._woken = asyncio.Event()
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        # Not the environment's proxies: the receiver is a neighbour.
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)

    def wake(self) -> None:
        """Something changed: there may be something to deliver."""
        self._woken.set()

    async def run(self) -> None:
        """Delivers until cancelled."""
        try:
            while True:
                self._woken.clear()
                wait_seconds = self._start_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_seconds):
                        await self._woken.wait()
        finally:
            attempts = list(self._in_flight.values())
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
            await self._client.aclose()

    def _start_due(self) -> float | None:
        """Starts what is due; answers in how many seconds the next one will be, None to wait for a wake()."""
        if self._faults.webhooks.hold:
            return None
        now = self._clock.now().timestamp()
        waiting = [
            delivery
            for delivery in self._store.pending_deliveries(count_max=_WINDOW)
            if delivery.event_id not in self._in_flight
        ]
        if self._faults.webhooks.lose:
            self._lose(waiting)
            return None
        delay_seconds = 0.0
        if self._faults.webhooks.shuffle:
            delay_seconds = _SHUFFLE_SECONDS
            random.SystemRandom().shuffle(waiting)
        later = []
        for delivery in waiting:
            wait_seconds = delivery.due_at + delay_seconds - now
            if wait_seconds > 0:
                later.append(wait_seconds)
            elif len(self._in_flight) < _CONCURRENT_MAX:
                self._start(delivery)
        return min(later, default=None)

    def _lose(self, deliveries: list[Delivery]) -> None:
        with self._store.transaction():
            for delivery in deliveries:
                self._store.save_delivery(replace(delivery, state="abandoned", outcome="lost"))

    def _start(self, delivery: Delivery) -> None:
        attempt = asyncio.create_task(self._attempt(delivery))
        self._in_flight[delivery.event_id] = attempt
        attempt.add_done_callback(lambda ended: self._ended(delivery.event_id, ended))

    def _ended(self, event_id: str, attempt: asyncio.Task[None]) -> None:
        defect = None if attempt.cancelled() else attempt.exception()
        if defect is None:
            self._free(event_id)
            return
        # Neither delivered nor noted as failed, such as with a full disk: not again at once, for ever.
        _log.error("webhook_attempt_failed", event_id=event_id, exc_info=defect)
        asyncio.get_running_loop().call_later(_DELAY_SECONDS_MAX, self._free, event_id)

    def _free(self, event_id: str) -> None:
        del self._in_flight[event_id]
        self.wake()

    async def _attempt(self, delivery: Delivery) -> None:
        event = self._store.get(delivery.event_id)
        if event is not None and self._faults.webhooks.thin:
            event = events.thin(event)
        payload = json.dumps(event).encode()
        delivered, outcome = await self._post(payload)
        if self._faults.webhooks.duplicate:
            delivered, outcome = await self._post(payload)
        after = after_attempt(delivery, delivered=delivered, outcome=outcome, now=self._clock.now().timestamp())
        with self._store.transaction():
            self._store.save_delivery(after)
        _log.info(
            "webhook_attempted",
            event_id=after.event_id,
            state=after.state,
            attempt_count=after.attempt_count,
            outcome=outcome,
        )

    async def _post(self, payload: bytes) -> tuple[bool, str]:
        faults = self._faults.webhooks
        secrets = [self._secret] if faults.new_secret is None else [self._secret, faults.new_secret]
        timestamp = int(self._clock.now().timestamp()) + faults.skew_seconds
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(payload, secrets=secrets, timestamp=timestamp),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        try:
            response = await self._client.post(self._url, content=payload, headers=headers)
        except httpx.HTTPError as error:
            return False, type(error).__name__
        return response.is_success, str(response.status_code)


def signature(payload: bytes, *, secrets: Iterable[str], timestamp: int) -> str:
    """The Stripe-Signature header, with one signature by each secret.

    By https://docs.stripe.com/webhooks#verify-manually.
    """
    signed = f"{timestamp}.".encode() + payload
    digests = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])


def after_attempt(delivery: Delivery, *, delivered: bool, outcome: str, now: float) -> Delivery:
    """The delivery after one more attempt: done, given up, or due again after a delay that doubles."""
    attempt_count = delivery.attempt_count + 1
    if delivered:
        return replace(delivery, state="delivered", attempt_count=attempt_count, outcome=outcome)
    if attempt_count >= ATTEMPTS_MAX:
        return replace(delivery, state="abandoned", attempt_count=attempt_count, outcome=outcome)
    delay_seconds = min(_DELAY_SECONDS_MAX, _DELAY_SECONDS_MIN * 2 ** (attempt_count - 1))
    return replace(delivery, attempt_count=attempt_count, due_at=now + delay_seconds, outcome=outcome)
