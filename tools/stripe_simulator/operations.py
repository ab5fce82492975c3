"""What a resource module is made of: operations, each a URL and a function from a call to an object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tools.stripe_simulator import events
from tools.stripe_simulator.errors import resource_missing
from tools.stripe_simulator.ids import new_id
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.simulated_time import test_clock_of
from tools.stripe_simulator.store import Due, Store, StripeObject


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the API, or something that fell due: what was asked, and the store, inside its transaction."""

    store: Store
    params: Params
    path: Mapping[str, str]
    now: int
    """The time in which it happens; that of a test clock for what hangs on one."""
    real_now: float
    """The time outside, by which webhooks are sent."""
    request_id: str | None
    """None for what fell due: nobody asked for it."""
    idempotency_key: str | None
    sends_webhooks: bool
    tasks: "Tasks"
    """What objects have done to them when it falls due."""
    card_on_file: str = ""
    """The test card that a new customer has without naming one; empty: none."""

    def at(self, now: int) -> "Call":
        """The same call in another time, such as that of a test clock that it names only in passing."""
        return replace(self, now=now)

    def find(self, kind: str, identifier: str, *, param: str | None = None) -> StripeObject:
        """The live object; raises resource_missing where there is none, or only a deleted one's stub."""
        body = self.store.get(identifier)
        if body is None or body["object"] != kind or body.get("deleted"):
            raise resource_missing(kind, identifier, param=param)
        return body

    def target(self, kind: str) -> StripeObject:
        """The live object that the URL names."""
        return self.find(kind, self.path["id"])

    def begin(self, kind: str, *, dated: bool = True, moded: bool = True) -> StripeObject:
        """The fields that every new object has: `created` only where it is dated, `livemode` where it is moded."""
        body: StripeObject = {"id": new_id(kind), "object": kind}
        if moded:
            body["livemode"] = False
        if dated:
            body["created"] = self.now
        return body

    def add(self, body: StripeObject, *, owner: str | None = None, event: str | None = None) -> None:
        """Stores a new object and tells of it as the event; None tells nobody."""
        self.store.insert(body, owner=owner)
        if event is not None:
            self.tell(event, body)

    def change(self, body: StripeObject, *further_events: str, told_as: str | None = None) -> None:
        """Stores the object's new state; tells `<object>.updated` if it is another one, then the further events.

        `told_as` is the event that tells what changed instead of `<object>.updated`.
        """
        before = self.store.get(body["id"])
        previous = events.previous_attributes(before or {}, body)
        if previous:
            self.store.replace(body)
            update = told_as or events.update_event(body["object"])
            if update is not None:
                self.tell(update, body, previous)
        for event in further_events:
            self.tell(event, body)

    def tell(self, event_type: str, body: StripeObject, previous: StripeObject | None = None) -> None:
        """Makes an event that holds the object as it is now, and puts it on its way to the receiver."""
        event = self.begin("event") | {
            **events.content(self.store, body, previous),
            "pending_webhooks": int(self.sends_webhooks),
            "request": {"id": self.request_id, "idempotency_key": self.idempotency_key},
            "type": event_type,
        }
        self.store.insert(event, owner=None)
        if self.sends_webhooks:
            self.store.add_delivery(event["id"], due_at=self.real_now)

    def plan(self, body: StripeObject, task: str, *, due_at: int) -> None:
        """Has the task done to the object at that time, in the time in which the object lives."""
        clock = test_clock_of(self.store, body) or ""
        self.store.plan(Due(object_id=body["id"], task=task, due_at=due_at, test_clock=clock))


@dataclass(frozen=True)
class Operation:
    """One method of one URL, such as `POST /v1/invoices/{id}/finalize`."""

    method: str
    path: str
    handle: Callable[[Call], StripeObject]


# What falls due: from the task's name to what it does to the object, which it gets as it is at that time.
Tasks = Mapping[str, Callable[[Call, StripeObject], None]]
