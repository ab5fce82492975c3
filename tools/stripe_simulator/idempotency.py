"""Idempotency keys, by the rules at https://docs.stripe.com/api/idempotent_requests."""

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import timedelta

from kit.clock import Clock
from tools.stripe_simulator.errors import StripeError, key_in_use, key_reused
from tools.stripe_simulator.store import SavedAnswer, Store

KEY_LENGTH_MAX = 255
_RETENTION = timedelta(hours=24)


class IdempotencyKeys:
    """Keeps the first answer under each key for 24 hours and gives it again to whoever repeats the call."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._running: set[str] = set()

    @contextlib.contextmanager
    def claim(self, key: str | None) -> Iterator[None]:
        """Holds the key while its call runs; raises key_in_use while another call holds it."""
        if key is None:
            yield
            return
        if len(key) > KEY_LENGTH_MAX:
            raise StripeError(f"An idempotency key has up to {KEY_LENGTH_MAX} characters.", saved=False)
        if key in self._running:
            raise key_in_use(key)
        self._running.add(key)
        try:
            yield
        finally:
            self._running.discard(key)

    def first_answer(self, key: str, *, endpoint: str, digest: str) -> SavedAnswer | None:
        """The answer that the key's first call got, if that was this very call and at most 24 hours ago."""
        self._store.forget_answers(saved_before=(self._clock.now() - _RETENTION).timestamp())
        answer = self._store.saved_answer(key)
        if answer is None:
            return None
        if answer.endpoint != endpoint:
            raise key_reused(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for"
                f" ('{endpoint}' vs '{answer.endpoint}'). Try using a key other than '{key}' if you meant to"
                " execute a different request."
            )
        if answer.digest != digest:
            raise key_reused(
                "Keys for idempotent requests can only be used with the same parameters they were first used"
                f" with. Try using a key other than '{key}' if you meant to execute a different request."
            )
        return answer

    def keep(self, key: str, answer: SavedAnswer) -> None:
        """Keeps the first answer."""
        self._store.save_answer(key, answer, saved_at=self._clock.now().timestamp())


def digest_of(fields: list[tuple[str, str]]) -> str:
    """The same for the same parameters in whatever order."""
    return hashlib.sha256(repr(sorted(fields)).encode()).hexdigest()
