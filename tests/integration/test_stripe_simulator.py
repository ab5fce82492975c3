"""The Stripe simulator, as a process of its own, driven by Stripe's own Python library."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from pydantic import SecretStr

from kit.testing.clock import FakeClock
from tests.integration.processes import is_running, wait_until
from tools.stripe_simulator.app import make_app
from tools.stripe_simulator.collection import apply_balance
from tools.stripe_simulator.delivery import ATTEMPTS_MAX, after_attempt
from tools.stripe_simulator.errors import StripeError
from tools.stripe_simulator.events import previous_attributes
from tools.stripe_simulator.forms import decode
from tools.stripe_simulator.ids import new_id
from tools.stripe_simulator.store import Delivery, Store

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

API_KEY = "sk_test_simulator"
WEBHOOK_SECRET = "whsec_simulator"
START_SECONDS = 20.0
DELIVERY_SECONDS = 15.0


@dataclass
class Receiver:
    """A webhook receiver on a port of its own, which keeps what it gets and answers as told."""

    answer_status: int = 200
    received: list[tuple[bytes, str]] = field(default_factory=list)
    url: str = ""

    def events(self) -> list[Any]:
        """What arrived, each verified by Stripe's library."""
        return [
            stripe.Webhook.construct_event(payload, signature, WEBHOOK_SECRET)
            for payload, signature in list(self.received)
        ]

    def types(self) -> list[str]:
        return [event.type for event in self.events()]

    def ids(self) -> list[str]:
        return [event.id for event in self.events()]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = self.rfile.read(int(self.headers["Content-Length"]))
            kept.received.append((payload, self.headers["Stripe-Signature"]))
            self.send_response(kept.answer_status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}/webhooks"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


class Simulator:
    """The simulator's process: started on a free port, stopped and started again on the same state."""

    def __init__(self, folder: Path, webhook_url: str | None) -> None:
        self.state = folder / "state"
        self.log_path = folder / "log"
        self._webhook_url = webhook_url
        self._process: subprocess.Popen[bytes] | None = None
        self._http_clients: list[stripe.HTTPXClient] = []
        self.address = ""

    def environment(self, **changes: str) -> dict[str, str]:
        webhooks = {} if self._webhook_url is None else {"STRIPE_SIMULATOR_WEBHOOK_URL": self._webhook_url}
        return {
            "PATH": os.environ["PATH"],
            "STRIPE_SIMULATOR_ADDRESS": "127.0.0.1:0",
            "STRIPE_SIMULATOR_STATE": str(self.state),
            "STRIPE_SIMULATOR_API_KEY": API_KEY,
            "STRIPE_SIMULATOR_WEBHOOK_SECRET": WEBHOOK_SECRET,
            **webhooks,
            **changes,
        }

    def start(self) -> None:
        self.log_path.write_bytes(b"")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.stripe_simulator"], env=self.environment(), stderr=log
            )
        wait_until(self._started, seconds=START_SECONDS, what="the simulator answers")

    def _started(self) -> bool:
        started = [line for line in self.log() if line["event"] == "simulator_started"]
        if not started:
            return False
        self.address = started[0]["address"]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.address}/healthz").status_code == 200
        return False

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def stop(self, stop_signal: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(stop_signal)
        return self._process.wait(timeout=5)

    def end(self) -> None:
        for http_client in self._http_clients:
            http_client.close()  # type: ignore[no-untyped-call]
        if self._process is not None and is_running(self._process.pid):
            self._process.kill()
            self._process.wait()

    def client(self, *, api_key: str = API_KEY, timeout_seconds: float = 20) -> stripe.StripeClient:
        http_client = stripe.HTTPXClient(timeout=timeout_seconds, allow_sync_methods=True)
        self._http_clients.append(http_client)
        return stripe.StripeClient(
            api_key,
            base_addresses={"api": f"http://{self.address}"},
            http_client=http_client,
            max_network_retries=0,
        )

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call in plain HTTP, to see what the library hides."""
        headers = {"Authorization": f"Bearer {API_KEY}", **options.pop("headers", {})}
        return httpx.request(method, f"http://{self.address}{path}", headers=headers, **options)

    def inject(self, **plan: Any) -> None:
        assert self.call("POST", "/_simulator/faults", json=plan).status_code == 200


@pytest.fixture
def simulator(tmp_path: Path, receiver: Receiver) -> Iterator[Simulator]:
    process = Simulator(tmp_path, receiver.url)
    try:
        process.start()
        yield process
    finally:
        process.end()


def customer_with_card(client: stripe.StripeClient, card: str = "pm_card_visa") -> str:
    customer = client.v1.customers.create({"name": "Acme", "email": "billing@acme.example"})
    method = client.v1.payment_methods.attach(card, {"customer": customer.id})
    client.v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    return customer.id


def draft(client: stripe.StripeClient, customer: str, *amounts: int, **params: Any) -> stripe.Invoice:
    """A draft with one line per amount."""
    created: Any = {"customer": customer, "currency": "usd", **params}
    invoice = client.v1.invoices.create(created)
    if not amounts:
        return invoice
    lines: list[Any] = [{"amount": amount, "description": f"line {amount}"} for amount in amounts]
    return client.v1.invoices.add_lines(invoice.id, {"lines": lines})


# ---- calls: keys, errors, idempotency


def test_a_wrong_key_is_refused_and_never_logged(simulator: Simulator) -> None:
    with pytest.raises(stripe.AuthenticationError) as refusal:
        simulator.client(api_key="sk_test_somebody_else").v1.customers.list()
    assert refusal.value.http_status == 401
    assert httpx.get(f"http://{simulator.address}/v1/customers").status_code == 401
    assert httpx.get(f"http://{simulator.address}/_simulator/events").status_code == 401
    log = simulator.log_path.read_text(encoding="utf-8")
    assert "somebody_else" not in log
    assert API_KEY not in log


def test_errors_have_stripes_shape_and_headers(simulator: Simulator) -> None:
    client = simulator.client()
    with pytest.raises(stripe.InvalidRequestError) as missing:
        client.v1.invoices.retrieve("in_none")
    assert (missing.value.http_status, missing.value.code, missing.value.param) == (
        404,
        "resource_missing",
        "id",
    )
    with pytest.raises(stripe.InvalidRequestError) as no_customer:
        client.v1.invoices.create({"customer": "cus_none"})
    assert (no_customer.value.http_status, no_customer.value.param) == (400, "customer")

    refused = simulator.call("POST", "/v1/customers", data={"nmae": "Acme"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "parameter_unknown"
    assert refused.json()["error"]["param"] == "nmae"
    assert refused.headers["request-id"].startswith("req_")
    assert refused.headers["stripe-version"]
    assert simulator.call("GET", "/v1/unicorns").json()["error"]["type"] == "invalid_request_error"
    assert simulator.call("DELETE", "/v1/customers").status_code == 404
    old = simulator.call("GET", "/v1/customers", headers={"Stripe-Version": "2024-06-20"})
    assert old.status_code == 400


def test_repeating_a_call_under_its_key_gives_the_first_answer_and_one_object(simulator: Simulator) -> None:
    client = simulator.client()
    options: Any = {"idempotency_key": "customer-1"}
    first = client.v1.customers.create({"name": "Acme"}, options)
    again = client.v1.customers.create({"name": "Acme"}, options)
    assert again.id == first.id
    assert len(client.v1.customers.list().data) == 1
    assert first.last_response is not None
    assert again.last_response is not None
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert again.last_response.headers["original-request"] == first.last_response.headers["request-id"]
    assert again.last_response.body == first.last_response.body


def test_a_key_used_with_other_parameters_or_elsewhere_is_an_error(simulator: Simulator) -> None:
    client = simulator.client()
    options: Any = {"idempotency_key": "customer-1"}
    client.v1.customers.create({"name": "Acme"}, options)
    with pytest.raises(stripe.IdempotencyError) as other_parameters:
        client.v1.customers.create({"name": "Umbrella"}, options)
    assert other_parameters.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        client.v1.products.create({"name": "Acme"}, options)


def test_a_key_whose_call_still_runs_is_in_conflict(simulator: Simulator) -> None:
    simulator.inject(calls=[{"path": "/v1/customers", "kind": "slow", "seconds": 2}])
    options: Any = {"idempotency_key": "customer-1"}
    created: list[str] = []
    slow = threading.Thread(
        target=lambda: created.append(simulator.client().v1.customers.create({"name": "Acme"}, options).id)
    )
    slow.start()
    wait_until(
        lambda: simulator.call("GET", "/_simulator/faults").json()["calls"] == [],
        seconds=2,
        what="the slow call is under way",
    )
    with pytest.raises(stripe.StripeError) as conflict:
        simulator.client().v1.customers.create({"name": "Acme"}, options)
    slow.join()
    assert conflict.value.http_status == 409
    assert conflict.value.error is not None
    assert conflict.value.error.code == "idempotency_key_in_use"
    assert simulator.client().v1.customers.create({"name": "Acme"}, options).id == created[0]


def test_what_was_refused_before_any_work_does_not_use_up_its_key(simulator: Simulator) -> None:
    headers = {"Idempotency-Key": "customer-1"}
    assert simulator.call("POST", "/v1/customers", headers=headers, data={"nmae": "A"}).status_code == 400
    assert simulator.call("POST", "/v1/customers", headers=headers, data={"name": "A"}).status_code == 200


async def test_keys_are_forgotten_after_24_hours(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store(tmp_path)
    app = make_app(store=store, clock=clock, api_key=SecretStr(API_KEY))
    headers = {"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": "customer-1"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://simulator", headers=headers
    ) as client:
        ids = []
        for _ in range(3):
            ids.append((await client.post("/v1/customers", data={"name": "Acme"})).json()["id"])
            clock.advance(timedelta(hours=23))
    store.close()
    assert ids[0] == ids[1] != ids[2]


def test_nested_form_keys_become_trees_and_nonsense_is_refused() -> None:
    fields = [("lines[0][period][start]", "5"), ("lines[1][amount]", "7"), ("expand[]", "a"), ("expand[]", "b")]
    assert decode(fields) == {
        "lines": {"0": {"period": {"start": "5"}}, "1": {"amount": "7"}},
        "expand": {"0": "a", "1": "b"},
    }
    for bad in ([("a[", "1")], [("[a]", "1")], [("a", "1"), ("a[b]", "2")], [("a[b]", "2"), ("a", "1")]):
        with pytest.raises(StripeError):
            decode(bad)


# ---- objects


def test_customers_are_created_changed_listed_and_deleted(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create({"name": "Acme", "metadata": {"organization_id": "org_1", "tier": "pro"}})
    changed = client.v1.customers.update(customer.id, {"email": "a@acme.example", "metadata": {"tier": ""}})
    assert (changed.name, changed.email) == ("Acme", "a@acme.example")
    assert changed.metadata is not None
    assert changed.metadata.to_dict() == {"organization_id": "org_1"}
    assert [found.id for found in client.v1.customers.list({"email": "a@acme.example"}).data] == [customer.id]
    assert client.v1.customers.delete(customer.id).deleted
    assert client.v1.customers.retrieve(customer.id).deleted
    assert client.v1.customers.list().data == []
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.update(customer.id, {"name": "Acme"})


def test_prices_belong_to_products_and_are_found_by_lookup_key(simulator: Simulator) -> None:
    client = simulator.client()
    product = client.v1.products.create({"name": "Agent minutes"})
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount_decimal": "0.005",  # type: ignore[typeddict-item]
            "lookup_key": "minutes",
        }
    )
    assert price.unit_amount is None
    assert str(price.unit_amount_decimal) == "0.005"
    monthly = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 4900,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Starter"},
        }
    )
    assert (monthly.type, monthly.unit_amount) == ("recurring", 4900)
    assert [found.id for found in client.v1.prices.list({"lookup_keys": ["minutes"]}).data] == [price.id]
    assert [found.id for found in client.v1.prices.list({"product": product.id}).data] == [price.id]
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.prices.create({"currency": "usd", "product": product.id, "unit_amount": 1, "lookup_key": "minutes"})


def test_lists_go_by_cursor_newest_first_in_both_directions(simulator: Simulator) -> None:
    client = simulator.client()
    ids = [client.v1.customers.create({"name": str(index)}).id for index in range(12)][::-1]
    first = client.v1.customers.list()
    assert ([body.id for body in first.data], first.has_more) == (ids[:10], True)
    rest = client.v1.customers.list({"starting_after": ids[9]})
    assert ([body.id for body in rest.data], rest.has_more) == (ids[10:], False)
    back = client.v1.customers.list({"ending_before": ids[5], "limit": 3})
    assert ([body.id for body in back.data], back.has_more) == (ids[2:5], True)
    assert [body.id for body in client.v1.customers.list({"limit": 5}).auto_paging_iter()] == ids
    for limit in (0, 101):
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.customers.list({"limit": limit})


# ---- invoices


def test_a_draft_takes_twelve_lines_adds_them_up_and_is_paid(simulator: Simulator, receiver: Receiver) -> None:
    client = simulator.client()
    amounts = [4900, *range(1, 11), -250]
    invoice = draft(
        client,
        customer_with_card(client),
        *amounts,
        number="TB-2026-000001",
        auto_advance=False,
        metadata={"invoice_id": "inv_1"},
    )
    assert (invoice.status, invoice.total, invoice.subtotal) == ("draft", sum(amounts), sum(amounts))
    assert (invoice.amount_due, invoice.amount_paid, invoice.amount_remaining) == (4705, 0, 4705)
    assert [line.amount for line in invoice.lines.data] == amounts[:10]
    assert invoice.lines.has_more

    listed = client.v1.invoices.line_items.list(invoice.id)
    assert ([line.amount for line in listed.data], listed.has_more) == (amounts[:10], True)
    assert [line.amount for line in listed.auto_paging_iter()] == amounts

    opened = client.v1.invoices.finalize_invoice(invoice.id)
    assert (opened.status, opened.number, opened.amount_due) == ("open", "TB-2026-000001", 4705)
    assert opened.status_transitions.finalized_at is not None
    paid = client.v1.invoices.pay(invoice.id)
    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 4705, 0)
    assert client.v1.invoices.retrieve(invoice.id).status == "paid"
    expected = {"invoice.created", "invoice.updated", "invoice.finalized", "invoice.paid", "invoiceitem.created"}
    wait_until(lambda: expected <= set(receiver.types()), seconds=DELIVERY_SECONDS, what="webhooks")


def test_an_advancing_invoice_is_paid_when_it_is_finalized(simulator: Simulator) -> None:
    client = simulator.client()
    invoice = draft(client, customer_with_card(client), 4900)
    assert client.v1.invoices.finalize_invoice(invoice.id, {"auto_advance": True}).status == "paid"


def test_a_declined_card_leaves_the_invoice_open_and_another_card_pays_it(simulator: Simulator) -> None:
    client = simulator.client()
    customer = customer_with_card(client, "pm_card_chargeCustomerFail")
    invoice = draft(client, customer, 4900, auto_advance=True)
    declined = client.v1.invoices.finalize_invoice(invoice.id)
    assert (declined.status, declined.attempted, declined.attempt_count) == ("open", True, 1)
    assert client.v1.customers.retrieve(customer).delinquent
    failures = client.v1.events.list({"type": "invoice.payment_failed"}).data
    assert [event.data.object["id"] for event in failures] == [invoice.id]
    with pytest.raises(stripe.CardError) as again:
        client.v1.invoices.pay(invoice.id)
    assert (again.value.http_status, again.value.code) == (402, "card_declined")
    assert len(client.v1.events.list({"type": "invoice.payment_failed"}).data) == 2

    good = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer})
    assert client.v1.invoices.pay(invoice.id, {"payment_method": good.id}).status == "paid"
    assert not client.v1.customers.retrieve(customer).delinquent


def test_a_zero_total_is_paid_when_it_is_finalized(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create().id
    paid = client.v1.invoices.finalize_invoice(draft(client, customer, 500, -500).id)
    assert (paid.status, paid.total, paid.amount_due, paid.amount_paid) == ("paid", 0, 0, 0)


def test_credit_and_amounts_too_small_to_charge_stay_on_the_balance(simulator: Simulator) -> None:
    client = simulator.client()
    customer = customer_with_card(client)
    credit = client.v1.invoices.finalize_invoice(draft(client, customer, -1000).id)
    assert (credit.status, credit.amount_due, credit.ending_balance) == ("paid", 0, -1000)
    used = client.v1.invoices.finalize_invoice(draft(client, customer, 1500).id)
    assert (used.total, used.starting_balance, used.amount_due) == (1500, -1000, 500)
    client.v1.invoices.void_invoice(used.id)
    assert client.v1.customers.retrieve(customer).balance == -1000
    small = client.v1.invoices.finalize_invoice(draft(client, customer, 1049).id)
    assert (small.status, small.amount_due, small.ending_balance) == ("paid", 0, 49)


@pytest.mark.parametrize("total", [-700, 0, 1, 49, 50, 4900])
@pytest.mark.parametrize("balance", [-5000, -1, 0, 30, 600])
def test_what_is_due_and_what_stays_on_the_balance_is_all_that_is_owed(total: int, balance: int) -> None:
    due, ending = apply_balance(total, balance, currency="usd")
    assert due + ending == total + balance
    assert due == 0 or due >= 50


def test_void_and_uncollectible_end_collection(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create().id
    first, second = draft(client, customer, 900), draft(client, customer, 800)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.void_invoice(first.id)
    for invoice in (first, second):
        client.v1.invoices.finalize_invoice(invoice.id)
    voided = client.v1.invoices.void_invoice(first.id)
    assert (voided.status, voided.status_transitions.voided_at is None) == ("void", False)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.pay(first.id)
    assert client.v1.invoices.mark_uncollectible(second.id).status == "uncollectible"
    paid = client.v1.invoices.pay(second.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid) == ("paid", 800)
    types = {event.type for event in client.v1.events.list({"limit": 100}).data}
    assert {"invoice.voided", "invoice.marked_uncollectible", "invoice.payment_succeeded"} <= types


def test_a_finalized_invoice_keeps_its_amounts(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create().id
    invoice = draft(client, customer, 900)
    client.v1.invoices.finalize_invoice(invoice.id)
    refusals: list[Callable[[], object]] = [
        lambda: client.v1.invoices.add_lines(invoice.id, {"lines": [{"amount": 1}]}),
        lambda: client.v1.invoice_items.create({"customer": customer, "invoice": invoice.id, "amount": 1}),
        lambda: client.v1.invoices.update(invoice.id, {"number": "TB-1"}),
        lambda: client.v1.invoices.delete(invoice.id),
        lambda: client.v1.invoices.finalize_invoice(invoice.id),
    ]
    for refused in refusals:
        with pytest.raises(stripe.InvalidRequestError):
            refused()
    noted = client.v1.invoices.update(invoice.id, {"metadata": {"parked": "no"}})
    assert noted.total == 900


def test_pending_items_join_an_invoice_that_asks_for_them(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create().id
    for amount in (100, 200):
        client.v1.invoice_items.create({"customer": customer, "amount": amount, "currency": "usd"})
    empty = client.v1.invoices.create({"customer": customer})
    assert (empty.total, empty.lines.data) == (0, [])
    full = client.v1.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"})
    assert [line.amount for line in full.lines.data] == [200, 100]
    later = client.v1.invoice_items.create({"customer": customer, "invoice": full.id, "amount": 5})
    assert client.v1.invoices.retrieve(full.id).total == 305
    client.v1.invoice_items.delete(later.id)
    assert client.v1.invoices.retrieve(full.id).total == 300
    first = full.lines.data[0].id
    less = client.v1.invoices.remove_lines(full.id, {"lines": [{"id": first, "behavior": "unassign"}]})
    assert less.total == 100
    assert [item.amount for item in client.v1.invoice_items.list({"pending": True}).data] == [200]


def test_a_line_priced_by_unit_is_rounded_once(simulator: Simulator) -> None:
    client = simulator.client()
    invoice = draft(client, client.v1.customers.create().id)
    price_data: Any = {"currency": "usd", "unit_amount_decimal": "0.5", "product_data": {"name": "Minutes"}}
    line: Any = {"price_data": price_data, "quantity": 4_321}
    priced = client.v1.invoices.add_lines(invoice.id, {"lines": [line]})
    assert (priced.total, priced.lines.data[0].quantity) == (2_161, 4_321)


def test_lines_are_added_all_or_none(simulator: Simulator) -> None:
    client = simulator.client()
    invoice = draft(client, client.v1.customers.create().id, 100)
    wrong: Any = [{"amount": 1}, {"description": "costs nothing that anybody named"}]
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        client.v1.invoices.add_lines(invoice.id, {"lines": wrong})
    assert refusal.value.param == "lines[1][amount]"
    assert client.v1.invoices.retrieve(invoice.id).total == 100
    assert len(client.v1.invoice_items.list().data) == 1


def test_an_invoice_number_is_used_once(simulator: Simulator) -> None:
    client = simulator.client()
    customer = client.v1.customers.create().id
    first = client.v1.invoices.create({"customer": customer, "number": "TB-1"})
    with pytest.raises(stripe.InvalidRequestError) as taken:
        client.v1.invoices.create({"customer": customer, "number": "TB-1"})
    assert taken.value.param == "number"
    client.v1.invoices.delete(first.id)
    assert client.v1.invoices.create({"customer": customer, "number": "TB-1"}).number == "TB-1"
    numbers = [client.v1.invoices.finalize_invoice(draft(client, customer, 100).id).number for _ in range(2)]
    assert [number and number[-5:] for number in numbers] == ["-0001", "-0002"]


def test_invoices_are_listed_by_customer_status_and_time(simulator: Simulator) -> None:
    client = simulator.client()
    one, other = client.v1.customers.create().id, client.v1.customers.create().id
    mine, theirs = draft(client, one, 100), draft(client, other, 100)
    client.v1.invoices.finalize_invoice(theirs.id)

    def listed(**params: Any) -> list[str]:
        return [invoice.id for invoice in client.v1.invoices.list(params).data]  # type: ignore[arg-type]

    assert listed(customer=one) == [mine.id]
    assert listed(status="open") == [theirs.id]
    assert listed(created={"gte": mine.created, "lte": theirs.created}) == [theirs.id, mine.id]
    assert listed(created={"gt": theirs.created}) == []
    expanded = client.v1.invoices.retrieve(mine.id, {"expand": ["customer"]}).customer
    assert isinstance(expanded, stripe.Customer)


# ---- events and their delivery


def test_an_event_tells_the_old_values_of_what_changed() -> None:
    before = {"id": "in_1", "status": "draft", "at": {"paid": None, "final": 5}, "lines": [1]}
    after = {"id": "in_1", "status": "open", "at": {"paid": 7, "final": 5}, "lines": [1, 2], "note": "n"}
    assert previous_attributes(before, after) == {
        "status": "draft",
        "at": {"paid": None},
        "lines": [1],
        "note": None,
    }


def test_every_change_is_an_event_that_is_delivered_signed(simulator: Simulator, receiver: Receiver) -> None:
    client = simulator.client()
    customer = client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "customer-1"})
    client.v1.customers.update(customer.id, {"name": "Acme Ltd"})
    client.v1.customers.delete(customer.id)
    expected = ["customer.created", "customer.deleted", "customer.updated"]
    wait_until(lambda: sorted(receiver.types()) == expected, seconds=DELIVERY_SECONDS, what="three webhooks")
    updated = next(event for event in receiver.events() if event.type == "customer.updated")
    assert updated.data.previous_attributes["name"] == "Acme"
    assert updated.data.object["name"] == "Acme Ltd"
    created = next(event for event in receiver.events() if event.type == "customer.created")
    assert created.request.idempotency_key == "customer-1"
    wait_until(
        lambda: client.v1.events.retrieve(created.id).pending_webhooks == 0,
        seconds=DELIVERY_SECONDS,
        what="the event is marked as delivered",
    )
    payload, signature = receiver.received[0]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(payload, signature, "whsec_another")


def test_a_failing_receiver_gets_the_event_again_until_it_accepts(simulator: Simulator, receiver: Receiver) -> None:
    receiver.answer_status = 500
    simulator.client().v1.customers.create()
    wait_until(lambda: len(receiver.received) >= 3, seconds=DELIVERY_SECONDS, what="three attempts")
    receiver.answer_status = 200
    wait_until(lambda: deliveries(simulator) == ["delivered"], seconds=DELIVERY_SECONDS, what="delivery")
    assert len(set(receiver.ids())) == 1


def test_delivery_is_given_up_after_thirty_attempts_with_growing_delays() -> None:
    delivery = Delivery(event_id="evt_1", state="pending", attempt_count=0, due_at=0, outcome="")
    delays = []
    for _ in range(ATTEMPTS_MAX - 1):
        delivery = after_attempt(delivery, delivered=False, outcome="500", now=1000)
        assert delivery.state == "pending"
        delays.append(delivery.due_at - 1000)
    assert delays[:3] == pytest.approx([0.2, 0.4, 0.8])
    assert delays[-1] == 10
    last = after_attempt(delivery, delivered=False, outcome="500", now=1000)
    assert (last.state, last.attempt_count) == ("abandoned", 30)


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGKILL])
def test_state_and_pending_deliveries_survive_the_process(
    simulator: Simulator, receiver: Receiver, stop_signal: signal.Signals
) -> None:
    receiver.answer_status = 503
    client = simulator.client()
    options: Any = {"idempotency_key": "customer-1"}
    customer = client.v1.customers.create({"name": "Acme"}, options)
    invoice = draft(client, customer.id, 4900)
    wait_until(lambda: len(receiver.received) >= 4, seconds=DELIVERY_SECONDS, what="first attempts")
    exit_code = simulator.stop(stop_signal)
    assert exit_code == (0 if stop_signal == signal.SIGTERM else -signal.SIGKILL)

    receiver.answer_status = 200
    receiver.received.clear()
    simulator.start()
    client = simulator.client()
    assert client.v1.invoices.retrieve(invoice.id).total == 4900
    assert client.v1.customers.create({"name": "Acme"}, options).id == customer.id
    wait_until(lambda: set(deliveries(simulator)) == {"delivered"}, seconds=DELIVERY_SECONDS, what="delivery")
    assert "invoice.created" in receiver.types()


def deliveries(simulator: Simulator) -> list[str]:
    events = simulator.call("GET", "/_simulator/events").json()["events"]
    return [entry["delivery"]["state"] for entry in events]


# ---- faults


@pytest.mark.parametrize(
    ("kind", "status"), [("429", 429), ("409", 409), ("500", 500)], ids=["rate", "conflict", "failure"]
)
def test_an_injected_error_strikes_as_often_as_told_and_changes_nothing(
    simulator: Simulator, kind: str, status: int
) -> None:
    simulator.inject(calls=[{"path": "/v1/customers", "kind": kind, "count": 2}])
    client = simulator.client()
    options: Any = {"idempotency_key": "customer-1"}
    for _ in range(2):
        with pytest.raises(stripe.StripeError) as error:
            client.v1.customers.create({"name": "Acme"}, options)
        assert error.value.http_status == status
    assert client.v1.customers.create({"name": "Acme"}, options).name == "Acme"
    assert len(client.v1.customers.list().data) == 1


def test_a_failure_half_way_is_the_answer_to_every_retry(simulator: Simulator) -> None:
    simulator.inject(calls=[{"path": "/v1/customers", "kind": "500_saved"}])
    client = simulator.client()
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "customer-1"})
    assert client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "customer-2"}).name == "Acme"


def test_work_whose_answer_was_lost_is_found_again_by_its_key(simulator: Simulator) -> None:
    client = simulator.client()
    customer = customer_with_card(client)
    invoice = client.v1.invoices.finalize_invoice(draft(client, customer, 4900).id)
    simulator.inject(calls=[{"path": "/v1/invoices/*/pay", "kind": "timeout_after_success"}])
    options: Any = {"idempotency_key": "pay-1"}
    with pytest.raises(stripe.APIConnectionError):
        simulator.client(timeout_seconds=0.5).v1.invoices.pay(invoice.id, {}, options)
    assert client.v1.invoices.retrieve(invoice.id).status == "paid"
    again = client.v1.invoices.pay(invoice.id, {}, options)
    assert again.status == "paid"
    assert len(client.v1.events.list({"type": "invoice.paid"}).data) == 1


def test_webhooks_are_held_then_released_in_any_order_and_twice(simulator: Simulator, receiver: Receiver) -> None:
    simulator.inject(webhooks={"hold": True})
    client = simulator.client()
    created = {client.v1.customers.create().id for _ in range(5)}
    time.sleep(0.5)  # nothing tells of a delivery that does not happen
    assert receiver.received == []
    simulator.inject(webhooks={"duplicate": True, "shuffle": True})
    wait_until(lambda: len(receiver.received) == 10, seconds=DELIVERY_SECONDS, what="each event twice")
    assert {event.data.object["id"] for event in receiver.events()} == created
    assert simulator.call("DELETE", "/_simulator/faults").json()["webhooks"]["duplicate"] is False
    assert simulator.call("POST", "/_simulator/faults", json={"cals": []}).status_code == 400


def test_an_event_is_delivered_again_when_it_is_told_to(simulator: Simulator, receiver: Receiver) -> None:
    simulator.client().v1.customers.create()
    wait_until(lambda: deliveries(simulator) == ["delivered"], seconds=DELIVERY_SECONDS, what="delivery")
    event_id = receiver.ids()[0]
    assert simulator.call("POST", f"/_simulator/events/{event_id}/resend").json()["id"] == event_id
    wait_until(lambda: receiver.ids() == [event_id, event_id], seconds=DELIVERY_SECONDS, what="the same event again")


def test_a_thin_event_names_its_object_and_does_not_hold_it(simulator: Simulator, receiver: Receiver) -> None:
    simulator.inject(webhooks={"thin": True})
    client = simulator.client()
    customer = client.v1.customers.create()
    wait_until(lambda: receiver.received != [], seconds=DELIVERY_SECONDS, what="a webhook")
    payload, signature = receiver.received[0]
    notification: Any = client.parse_event_notification(payload, signature, WEBHOOK_SECRET)
    assert (notification.type, notification.related_object.id) == ("v1.customer.created", customer.id)
    with pytest.raises(ValueError, match="thin event notification"):
        stripe.Webhook.construct_event(payload, signature, WEBHOOK_SECRET)


def test_webhooks_are_signed_with_both_secrets_while_one_is_rolled(simulator: Simulator, receiver: Receiver) -> None:
    simulator.inject(webhooks={"new_secret": "whsec_new"})
    simulator.client().v1.customers.create()
    wait_until(lambda: receiver.received != [], seconds=DELIVERY_SECONDS, what="a webhook")
    payload, signature = receiver.received[0]
    for secret in (WEBHOOK_SECRET, "whsec_new"):
        assert stripe.Webhook.construct_event(payload, signature, secret).type == "customer.created"


@pytest.mark.parametrize("skew_seconds", [-301, 3_600], ids=["behind", "ahead"])
def test_webhooks_are_signed_by_another_clock_when_told_to(
    simulator: Simulator, receiver: Receiver, skew_seconds: int
) -> None:
    simulator.inject(webhooks={"skew_seconds": skew_seconds})
    simulator.client().v1.customers.create()
    wait_until(lambda: receiver.received != [], seconds=DELIVERY_SECONDS, what="a webhook")
    signed_at = int(receiver.received[0][1].split(",")[0].removeprefix("t="))
    assert abs(signed_at - skew_seconds - time.time()) < 60


def test_webhooks_that_are_lost_are_in_the_list_of_events_and_never_come(
    simulator: Simulator, receiver: Receiver
) -> None:
    simulator.inject(webhooks={"lose": True})
    simulator.client().v1.customers.create()
    wait_until(lambda: deliveries(simulator) == ["abandoned"], seconds=DELIVERY_SECONDS, what="the loss")
    simulator.inject(webhooks={})
    simulator.client().v1.products.create({"name": "Minutes"})
    wait_until(lambda: receiver.types() == ["product.created"], seconds=DELIVERY_SECONDS, what="what came after")
    types = [event.type for event in simulator.client().v1.events.list().data]
    assert types == ["product.created", "customer.created"]


def test_stripes_own_library_reads_subscriptions_checkouts_portals_and_clocks(simulator: Simulator) -> None:
    client = simulator.client()
    clock = client.v1.test_helpers.test_clocks.create({"frozen_time": 1_800_000_000})
    customer = client.v1.customers.create({"test_clock": clock.id})
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 4900,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Starter"},
        }
    )
    session = client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": customer.id,
            "line_items": [{"price": price.id, "quantity": 1}],
            "success_url": "https://example.com/",
            "subscription_data": {"metadata": {"organization_id": "acme"}},
        }
    )
    simulator.call("POST", f"/_simulator/checkout/sessions/{session.id}/complete")
    done = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
    sold = done.subscription
    assert isinstance(sold, stripe.Subscription)
    end = sold["items"].data[0].current_period_end
    client.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": end + 3_600})
    assert client.v1.test_helpers.test_clocks.retrieve(clock.id).status == "ready"
    renewals = client.v1.invoices.list({"subscription": sold.id}).data
    assert [invoice.status for invoice in renewals] == ["paid", "paid"]
    portal = client.v1.billing_portal.sessions.create({"customer": customer.id})
    assert portal.url
    changed = client.v1.subscriptions.update(sold.id, {"cancel_at_period_end": True})
    assert changed.cancel_at == changed["items"].data[0].current_period_end


def test_time_that_was_moved_stays_moved_and_webhooks_keep_the_real_one(
    simulator: Simulator, receiver: Receiver
) -> None:
    moved = simulator.call("POST", "/_simulator/clock", json={"advance_seconds": 86_400}).json()["now"]
    simulator.client().v1.customers.create()
    wait_until(lambda: receiver.received != [], seconds=DELIVERY_SECONDS, what="a webhook")
    event = receiver.events()[0]
    assert moved <= event.created < moved + 60
    assert abs(int(receiver.received[0][1].split(",")[0].removeprefix("t=")) - time.time()) < 60
    simulator.stop()
    simulator.start()
    assert simulator.call("GET", "/_simulator/clock").json()["now"] >= moved


def test_a_draft_that_fell_due_while_nothing_ran_is_finalized_at_the_start(simulator: Simulator) -> None:
    client = simulator.client()
    invoice = draft(client, customer_with_card(client), 4900, auto_advance=True)
    simulator.stop()
    with contextlib.closing(sqlite3.connect(simulator.state / "state.sqlite3")) as state, state:
        state.execute("UPDATE agenda SET due_at = 0")
    simulator.start()
    wait_until(
        lambda: simulator.client().v1.invoices.retrieve(invoice.id).status == "paid", seconds=5, what="it is paid"
    )


# ---- the process


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STRIPE_SIMULATOR_ADDRESS", "0.0.0.0:0"),
        ("STRIPE_SIMULATOR_ADDRESS", "127.0.0.1"),
        ("STRIPE_SIMULATOR_API_KEY", "sk_live_real"),
        ("STRIPE_SIMULATOR_WEBHOOK_SECRET", ""),
    ],
    ids=["not_loopback", "no_port", "live_key", "no_secret"],
)
def test_bad_settings_are_named_and_refused(tmp_path: Path, variable: str, value: str) -> None:
    environment = Simulator(tmp_path, "http://127.0.0.1:1/webhooks").environment(**{variable: value})
    ended = subprocess.run(
        [sys.executable, "-m", "tools.stripe_simulator"], env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 2
    assert variable in ended.stderr.decode()
    assert "sk_live_real" not in ended.stderr.decode()


def test_a_second_simulator_on_the_same_state_does_not_start(simulator: Simulator) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.stripe_simulator"],
        env=simulator.environment(),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "another simulator" in ended.stderr.decode()


def test_a_call_that_hangs_does_not_keep_it_from_stopping(simulator: Simulator) -> None:
    simulator.inject(calls=[{"path": "/v1/customers", "kind": "slow", "seconds": 60}])

    def hang() -> None:
        with contextlib.suppress(stripe.StripeError):
            simulator.client().v1.customers.create()

    hanging = threading.Thread(target=hang)
    hanging.start()
    wait_until(
        lambda: simulator.call("GET", "/_simulator/faults").json()["calls"] == [],
        seconds=2,
        what="the slow call is under way",
    )
    assert simulator.stop() == 0
    hanging.join()


def test_ids_look_like_stripes() -> None:
    assert len(new_id("customer")) == len("cus_") + 14
    assert new_id("invoice").startswith("in_")
    assert new_id("line_item").startswith("il_")
    assert len({new_id("event") for _ in range(100)}) == 100


async def test_customers_have_the_card_on_file_that_the_simulator_was_told_of(tmp_path: Path) -> None:
    store = Store(tmp_path)
    app = make_app(store=store, clock=FakeClock(), api_key=SecretStr(API_KEY), card_on_file="pm_card_visa")
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://stripe.example", headers=headers
    ) as http:
        customer = (await http.post("/v1/customers", data={"name": "acme"})).json()
        chosen = (await http.post("/v1/customers", data={"payment_method": "pm_card_chargeCustomerFail"})).json()
    assert customer["invoice_settings"]["default_payment_method"].startswith("pm_")
    assert chosen["invoice_settings"]["default_payment_method"] is None
    store.close()
