"""Whose time it is: everybody's, which a control moves forward, or that of a test clock and all that hangs on it."""

from datetime import datetime, timedelta

from kit.clock import Clock
from tools.stripe_simulator.forms import Tree
from tools.stripe_simulator.store import Store, StripeObject

_OFFSET_SETTING = "clock_offset_seconds"

# The parameters that name an object whose customer, and with it whose clock, a call is about.
_NAMING_PARAMS = ("customer", "invoice", "subscription", "charge", "payment_intent", "test_clock")


class SimulatedTime:
    """A clock that runs with the real one, so many seconds ahead of it as it was told to be; a restart keeps them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._offset = timedelta(seconds=int(store.setting(_OFFSET_SETTING) or 0))

    def now(self) -> datetime:
        """As Clock."""
        return self._clock.now() + self._offset

    def real_now(self) -> datetime:
        """The time of everything outside, such as a webhook's receiver."""
        return self._clock.now()

    def advance(self, seconds: int) -> None:
        """Moves it forward, inside a transaction."""
        self._offset += timedelta(seconds=seconds)
        self._store.set_setting(_OFFSET_SETTING, str(int(self._offset.total_seconds())))


def test_clock_of(store: Store, body: StripeObject | None) -> str | None:
    """The id of the test clock in whose time the object lives: its own, or its customer's."""
    if body is None:
        return None
    if body["object"] == "test_helpers.test_clock":
        return str(body["id"])
    if body.get("test_clock"):
        return str(body["test_clock"])
    customer = body.get("customer")
    return test_clock_of(store, store.get(customer)) if isinstance(customer, str) else None


def time_of_call(store: Store, *, path: dict[str, str], params: Tree, now: int) -> int:
    """The time in which a call happens: that of the objects that it names, else everybody's, which is `now`."""
    if not store.has_any("test_helpers.test_clock"):
        return now
    named = [path.get("id"), *(params.get(name) for name in _NAMING_PARAMS)]
    for identifier in named:
        clock = test_clock_of(store, store.get(identifier)) if isinstance(identifier, str) else None
        if clock is not None:
            body = store.get(clock)
            return now if body is None or body.get("deleted") else int(body["frozen_time"])
    return now
