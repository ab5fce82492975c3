"""Test clocks: customers that live in a time of their own, which moves only when it is told to."""

from tools.stripe_simulator import agenda, intervals, lists, subscription_state
from tools.stripe_simulator.errors import not_possible, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.resources import customers
from tools.stripe_simulator.store import StripeObject

KIND = "test_helpers.test_clock"
_DELETED_AFTER_DAYS = 30
# https://docs.stripe.com/billing/testing/test-clocks: two intervals of the shortest subscription, or two years.
_INTERVALS_MAX = 2
_YEARS_MAX = 2


def create(call: Call) -> StripeObject:
    """POST /v1/test_helpers/test_clocks."""
    frozen_time = call.params.integer("frozen_time")
    if frozen_time is None:
        raise parameter_missing("frozen_time")
    clock = call.begin(KIND) | {
        "deletes_after": intervals.later_by_days(call.now, _DELETED_AFTER_DAYS),
        "frozen_time": frozen_time,
        "name": call.params.text("name") or None,
        "status": "ready",
        "status_details": {},
    }
    call.params.finish()
    call.add(clock, event="test_helpers.test_clock.created")
    return clock


def retrieve(call: Call) -> StripeObject:
    """GET /v1/test_helpers/test_clocks/{id}."""
    call.params.finish()
    return call.target(KIND)


def list_all(call: Call) -> StripeObject:
    """GET /v1/test_helpers/test_clocks."""
    return lists.page(call, KIND, url="/v1/test_helpers/test_clocks")


def advance(call: Call) -> StripeObject:
    """POST /v1/test_helpers/test_clocks/{id}/advance: forward only, and not too far at once.

    All is done when this answers. It still answers `advancing`, as Stripe does, so that callers wait for `ready`.
    """
    clock = call.target(KIND)
    frozen_time = call.params.integer("frozen_time")
    call.params.finish()
    if frozen_time is None:
        raise parameter_missing("frozen_time")
    if frozen_time <= clock["frozen_time"]:
        message = f"A test clock goes forward only: frozen_time has to be after {clock['frozen_time']}."
        raise not_possible(message, param="frozen_time")
    limit = _limit(call, clock)
    if frozen_time > limit:
        message = f"A test clock is advanced by two intervals of its shortest subscription at most: to {limit}."
        raise not_possible(message, param="frozen_time")
    advancing = clock | {"frozen_time": frozen_time, "status": "advancing"}
    call.store.replace(advancing)
    call.tell("test_helpers.test_clock.advancing", advancing)
    agenda.work_off(call, test_clock=clock["id"], until=frozen_time)
    ready = advancing | {"status": "ready"}
    call.store.replace(ready)
    call.at(frozen_time).tell("test_helpers.test_clock.ready", ready)
    return advancing


def _limit(call: Call, clock: StripeObject) -> int:
    limit = intervals.boundary(clock["frozen_time"], interval="year", interval_count=1, index=_YEARS_MAX)
    for subscription in call.store.newest_first("subscription"):
        if subscription["test_clock"] == clock["id"] and subscription["status"] not in subscription_state.ENDED:
            recurring = subscription["items"]["data"][0]["price"]["recurring"]
            interval, count = recurring["interval"], recurring["interval_count"]
            two = intervals.boundary(
                clock["frozen_time"], interval=interval, interval_count=count, index=_INTERVALS_MAX
            )
            limit = min(limit, two)
    return limit


def delete(call: Call) -> StripeObject:
    """DELETE /v1/test_helpers/test_clocks/{id}: with the customers that live in its time."""
    clock = call.target(KIND)
    call.params.finish()
    for customer in list(call.store.newest_first("customer")):
        if customer["test_clock"] == clock["id"]:
            customers.forget(call, customer)
    stub = {"id": clock["id"], "object": KIND, "deleted": True}
    call.store.leave_stub(stub)
    call.tell("test_helpers.test_clock.deleted", clock)
    return stub


OPERATIONS = (
    Operation("POST", "/v1/test_helpers/test_clocks", create),
    Operation("GET", "/v1/test_helpers/test_clocks", list_all),
    Operation("GET", "/v1/test_helpers/test_clocks/{id}", retrieve),
    Operation("POST", "/v1/test_helpers/test_clocks/{id}/advance", advance),
    Operation("DELETE", "/v1/test_helpers/test_clocks/{id}", delete),
)
