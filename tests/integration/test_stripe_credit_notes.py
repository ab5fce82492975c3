"""Our credit notes at the Stripe stand-in."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.money import Money
from kit.process import ChildProcess
from kit.testing.stores import free_port
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.credit_notes import StripeCreditNotes
from services.billing.domain.credit_notes import (
    CreditNote,
    CreditNoteLine,
    CreditNoteReason,
    CreditSplit,
    LineRole,
)
from services.billing.domain.errors import CollectionRefused

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

API_KEY = "sk_test_credit_notes"


@dataclass
class Stripe:
    """The stand-in, with an invoice of 54.00, and our way to it."""

    url: str
    notes: StripeCreditNotes
    invoice_id: str = ""

    def call(self, method: str, path: str, **data: Any) -> Any:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, data=data, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def begin(self) -> None:
        customer = self.call("POST", "/v1/customers", payment_method="pm_card_visa")["id"]
        method = self.call("GET", f"/v1/customers/{customer}/payment_methods")["data"][0]["id"]
        self.call("POST", f"/v1/customers/{customer}", **{"invoice_settings[default_payment_method]": method})
        invoice = self.call("POST", "/v1/invoices", customer=customer, currency="usd", auto_advance="false")
        self.invoice_id = invoice["id"]
        line = {"lines[0][amount]": "5400", "lines[0][description]": "Starter"}
        self.call("POST", f"/v1/invoices/{self.invoice_id}/add_lines", **line)
        self.call("POST", f"/v1/invoices/{self.invoice_id}/finalize", auto_advance="false")

    def pay(self) -> None:
        self.call("POST", f"/v1/invoices/{self.invoice_id}/pay")

    def invoice(self) -> Any:
        return self.call("GET", f"/v1/invoices/{self.invoice_id}")

    def refunded(self) -> int:
        return sum(int(each["amount"]) for each in self.call("GET", "/v1/refunds")["data"])


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[Stripe]:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "STRIPE_SIMULATOR_ADDRESS": f"127.0.0.1:{port}",
        "STRIPE_SIMULATOR_STATE": str(tmp_path / "stripe"),
        "STRIPE_SIMULATOR_API_KEY": API_KEY,
    }
    command = [sys.executable, "-m", "tools.stripe_simulator"]
    process = ChildProcess(command, environment=environment, log_path=tmp_path / "stripe.log")
    await process.start()
    api = StripeApi(API_KEY, f"http://127.0.0.1:{port}", timeout_seconds=5)
    try:
        transport = httpx.AsyncHTTPTransport(retries=8)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
        found = Stripe(f"http://127.0.0.1:{port}", StripeCreditNotes(api))
        found.begin()
        yield found
    finally:
        await api.close()
        await process.stop(signal.SIGTERM, 5)


def note(*, reduced: int = 0, credited: int = 0, refunded: int = 0) -> CreditNote:
    total = Money(reduced + credited + refunded, "USD")
    return CreditNote(
        credit_note_id="crn_1",
        number="CN-000001",
        organization_id="acme",
        invoice_id="inv_1",
        invoice_number="TB-000001",
        legal_entity_id="default",
        lines=(CreditNoteLine(line_number=1, role=LineRole.CHARGE, description="Starter", amount=total),),
        total=total,
        split=CreditSplit(
            reduced=Money(reduced, "USD"), credited=Money(credited, "USD"), refunded=Money(refunded, "USD")
        ),
        reason=CreditNoteReason.BILLING_ERROR,
        memo="",
        create_time=datetime(2026, 11, 25, tzinfo=UTC),
    )


async def test_an_open_invoice_asks_for_less(stripe: Stripe) -> None:
    await stripe.notes.take_back(note(reduced=400, credited=100), stripe.invoice_id, attempt_count=1)
    assert stripe.invoice()["amount_remaining"] == 5000
    assert stripe.refunded() == 0


async def test_what_was_paid_is_paid_back_to_the_card(stripe: Stripe) -> None:
    stripe.pay()
    await stripe.notes.take_back(note(refunded=400), stripe.invoice_id, attempt_count=1)
    assert stripe.refunded() == 400


async def test_what_was_paid_before_its_reduction_arrived_is_paid_back(stripe: Stripe) -> None:
    stripe.pay()
    await stripe.notes.take_back(note(reduced=400), stripe.invoice_id, attempt_count=1)
    assert stripe.refunded() == 400


async def test_handing_over_again_takes_nothing_back_twice(stripe: Stripe) -> None:
    first = await stripe.notes.take_back(note(reduced=5000), stripe.invoice_id, attempt_count=1)
    stripe.pay()
    for attempt_count in (2, 5):
        again = await stripe.notes.take_back(note(reduced=5000), stripe.invoice_id, attempt_count=attempt_count)
        assert again == first
    assert stripe.refunded() == 0
    assert stripe.invoice()["amount_paid"] == 400


async def test_what_stripe_will_not_take_back_is_refused_for_good(stripe: Stripe) -> None:
    stripe.pay()
    with pytest.raises(CollectionRefused):
        await stripe.notes.take_back(note(refunded=5401), stripe.invoice_id, attempt_count=1)
