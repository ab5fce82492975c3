"""What a resource module is made of: operations, each a URL and a function from a call to an object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.stripe_simulator import events
from tools.stripe_simulator.errors import resource_missing
from tools.stripe_simulator.ids import new_id
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import Store, StripeObject


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the API: what was asked, and the store, inside the call's transaction."""

    store: Store
    params: Params
    path: Mapping[str, str]
    now: int
    request_id: str
    idempotency_key: str | None
    sends_webhooks: bool

    def find(self, kind: str, identifier: str, *, param: str | None = None) -> StripeObject:
        """The live object; raises resource_missing where there is none, or only a deleted one's stub."""
        body = self.store.get(identifier)
        if body is None or body["object"] != kind or body.get("deleted"):
            raise resource_missing(kind, identifier, param=param)
        return body

    def target(self, kind: str) -> StripeObject:
        """The live object that the URL names."""
        return self.find(kind, self.path["id"])

    def begin(self, kind: str, *, dated: bool = True) -> StripeObject:
        """The fields that every new object has, `created` only where it is dated."""
        body: StripeObject = {"id": new_id(kind), "object": kind, "livemode": False}
        return body | {"created": self.now} if dated else body

    def add(self, body: StripeObject, *, owner: str | None = None, event: str | None = None) -> None:
        """Stores a new object and tells of it as the event; None tells nobody."""
        self.store.insert(body, owner=owner)
        if event is not None:
            self.tell(event, body)

    def change(self, body: StripeObject, *further_events: str) -> None:
        """Stores the object's new state; tells `<object>.updated` if it is another one, then the further events."""
        before = self.store.get(body["id"])
        previous = events.previous_attributes(before or {}, body)
        if previous:
            self.store.replace(body)
            self.tell(f"{body['object']}.updated", body, previous)
        for event in further_events:
            self.tell(event, body)

    def tell(self, event_type: str, body: StripeObject, previous: StripeObject | None = None) -> None:
        """Makes an event that holds the object as it is now, and puts it on its way to the receiver."""
        event = self.begin("event") | {
            "api_version": events.API_VERSION,
            "data": {"object": body} | ({} if previous is None else {"previous_attributes": previous}),
            "pending_webhooks": int(self.sends_webhooks),
            "request": {"id": self.request_id, "idempotency_key": self.idempotency_key},
            "type": event_type,
        }
        self.store.insert(event, owner=None)
        if self.sends_webhooks:
            self.store.add_delivery(event["id"], due_at=self.now)


@dataclass(frozen=True)
class Operation:
    """One method of one URL, such as `POST /v1/invoices/{id}/finalize`."""

    method: str
    path: str
    handle: Callable[[Call], StripeObject]
