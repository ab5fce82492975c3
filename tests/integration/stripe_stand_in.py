"""The Stripe stand-in inside the test's own process, on a clock of the test's own.

Every answer of Stripe's URLs and every event is held against Stripe's OpenAPI document on the way.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from kit.testing.clock import FakeClock
from tests.stripe_openapi import stripe_openapi
from tools.stripe_simulator.app import make_app
from tools.stripe_simulator.events import API_VERSION
from tools.stripe_simulator.registry import OPERATIONS
from tools.stripe_simulator.store import Store

API_KEY = "sk_test_stand_in"
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

_PATTERNS = [
    (operation, re.compile(re.sub(r"\{[^}]*\}", "[^/]+", operation.path.replace(".", r"\."))))
    for operation in OPERATIONS
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call; `template` is the operation's path, such as `/v1/invoices/{id}`."""

    method: str
    template: str
    path: str
    params: Mapping[str, Any]


class StandIn:
    """Plain calls in Stripe's form encoding: `await stripe.post("/v1/invoices", customer="cus_1")`."""

    def __init__(self, http: httpx.AsyncClient, clock: FakeClock) -> None:
        self._http = http
        self.clock = clock
        self.calls: list[Asked] = []
        """Every call of Stripe's URLs that was answered with success."""
        self.answers: list[Any] = []
        """What each of them was answered."""

    async def get(self, path: str, **params: Any) -> Any:
        return await self._succeed("GET", path, params)

    async def post(self, path: str, **params: Any) -> Any:
        return await self._succeed("POST", path, params)

    async def delete(self, path: str, **params: Any) -> Any:
        return await self._succeed("DELETE", path, params)

    async def refused(self, method: str, path: str, **params: Any) -> Any:
        """What a call that has to fail says, with its status."""
        answer = await self.send(method, path, params)
        assert answer.status_code >= 400, answer.text
        body = answer.json()
        assert stripe_openapi().error_problems(body) == [], path
        return body["error"] | {"status": answer.status_code}

    async def control(self, path: str, **settings: Any) -> Any:
        """One of the controls that take JSON."""
        answer = await self._http.post(f"/_simulator/{path}", json=settings)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def advance(self, by: timedelta) -> None:
        """Moves everybody's time; what fell due meanwhile is done."""
        await self.control("clock", advance_seconds=int(by.total_seconds()))

    async def events(self) -> list[Any]:
        """Everything that happened, the oldest first."""
        found: list[Any] = []
        page: dict[str, Any] = {"data": [], "has_more": True}
        while page["has_more"]:
            after = {"starting_after": found[-1]["id"]} if found else {}
            page = await self.get("/v1/events", limit=100, **after)
            found += page["data"]
        return found[::-1]

    async def event_types(self) -> list[str]:
        return [event["type"] for event in await self.events()]

    async def send(
        self, method: str, path: str, params: Mapping[str, Any], *, key: str | None = None
    ) -> httpx.Response:
        """The call as it is, under an idempotency key if there is one, its answer whatever it is."""
        fields = list(form_fields(params))
        if method == "POST":
            headers = {} if key is None else {"Idempotency-Key": key}
            return await self._http.post(path, data=dict(fields), headers=headers)
        return await self._http.request(method, path, params=dict(fields))

    async def _succeed(self, method: str, path: str, params: Mapping[str, Any]) -> Any:
        answer = await self.send(method, path, params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        for operation, pattern in _PATTERNS:
            if operation.method == method and pattern.fullmatch(path):
                self.calls.append(Asked(method=method, template=operation.path, path=path, params=params))
                self.answers.append(body)
                problems = stripe_openapi().answer_problems(method, operation.path, body)
                assert problems == [], f"{method} {path}: {problems}"
                break
        else:
            assert path.startswith("/_simulator/"), path
            assert stripe_openapi().object_problems(body) == [], path
        return body

    # ---- what most tests begin with

    async def customer(self, card: str | None = "pm_card_visa", **params: Any) -> Any:
        """A customer who is charged by the test card."""
        customer = await self.post("/v1/customers", name="Acme", email="billing@acme.example", **params)
        if card is None:
            return customer
        method = await self.post(f"/v1/payment_methods/{card}/attach", customer=customer["id"])
        settings = {"default_payment_method": method["id"]}
        return await self.post(f"/v1/customers/{customer['id']}", invoice_settings=settings)

    async def draft(self, customer: str, *amounts: int, **params: Any) -> Any:
        """A draft with one line per amount."""
        invoice = await self.post("/v1/invoices", customer=customer, currency="usd", **params)
        lines = [{"amount": amount, "description": f"line {amount}"} for amount in amounts]
        return await self.post(f"/v1/invoices/{invoice['id']}/add_lines", lines=lines) if lines else invoice

    async def open_invoice(self, customer: str, *amounts: int, **params: Any) -> Any:
        """A finalized invoice that nobody tried to collect."""
        invoice = await self.draft(customer, *amounts, auto_advance=False, **params)
        return await self.post(f"/v1/invoices/{invoice['id']}/finalize")

    async def paid_invoice(self, customer: str, *amounts: int, **params: Any) -> Any:
        invoice = await self.open_invoice(customer, *amounts, **params)
        return await self.post(f"/v1/invoices/{invoice['id']}/pay")

    async def charge_of(self, invoice: Any) -> Any:
        """The latest try to collect the invoice."""
        payments = await self.get("/v1/invoice_payments", invoice=invoice["id"])
        intent = await self.get(f"/v1/payment_intents/{payments['data'][0]['payment']['payment_intent']}")
        return await self.get(f"/v1/charges/{intent['latest_charge']}")


def form_fields(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`lines=[{"amount": 5}]` as `lines[0][amount]=5`."""
    for name, value in params.items():
        key = f"{prefix}[{name}]" if prefix else name
        if isinstance(value, list):
            yield from form_fields({str(index): item for index, item in enumerate(value)}, key)
        elif isinstance(value, dict):
            yield from form_fields(value, key)
        else:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.asynccontextmanager
async def running_stand_in(folder: Path) -> AsyncIterator[StandIn]:
    """A stand-in with nothing in it; at the end every event that it made is held against Stripe's document."""
    clock = FakeClock(START)
    store = Store(folder)
    app = make_app(store=store, clock=clock, api_key=SecretStr(API_KEY))
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://stripe.example",
            headers={"Authorization": f"Bearer {API_KEY}"},
        ) as http:
            stripe = StandIn(http, clock)
            yield stripe
            for event in await stripe.events():
                if event["api_version"] != API_VERSION:
                    continue
                problems = stripe_openapi().event_problems(event)
                assert problems == [], f"{event['type']}: {problems}"
    finally:
        store.close()
