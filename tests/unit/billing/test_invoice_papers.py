"""What of an invoice stands on paper."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kit.money import Money
from services.billing.adapters.typst_papers.renderer import TypstPapers
from services.billing.domain.closing import CutKind
from services.billing.domain.invoice_papers import due_time, invoice_paper
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind, total_of
from services.billing.domain.papers import Paper
from services.billing.domain.periods import Period
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, LegalEntity, Party
from tests.papers import text_of_pdf
from tests.unit.billing.plans import METERS, MINUTE

ISSUED = datetime(2026, 11, 20, 12, 30, 15, 123_456, tzinfo=UTC)
PERIOD = Period(datetime(2026, 10, 20, 12, tzinfo=UTC), datetime(2026, 11, 20, 12, tzinfo=UTC))
SELLER = LegalEntity(
    legal_entity_id="default",
    version=1,
    party=Party(legal_name="Tollbook GmbH", address_lines=("1010 Wien",), country_code="AT", tax_id="ATU1"),
    invoice_prefix="TB",
    credit_note_prefix="CN",
    bank_details=("IBAN AT61 1904 3002 3457 3201", "BIC ABCDATWW"),
)
BUYER = BillingProfile(party=Party(legal_name="Acme Corp.", country_code="US"))
BY_TRANSFER = replace(BUYER, terms=BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=30))


def line(kind: LineKind, minor: int, text: str = "", *, code: str = "USD") -> Line:
    return Line(kind=kind, description=text or kind.value, amount=Money(minor, code), period=PERIOD)


USAGE = replace(
    line(LineKind.OVERAGE, 499, "Agent minutes beyond 1 000 included: 99.8 at $0.05 per minute"),
    meter="agent_minutes",
    used_quantity=1_099_800 * MINUTE // 1000,
    included_quantity=1_000 * MINUTE,
    charged_quantity=99_800 * MINUTE // 1000,
    unit_price=Decimal("0.05"),
    first_sequence=0,
    last_sequence=5146,
)


def invoice(*lines: Line, state: InvoiceState = InvoiceState.FINALIZED, code: str = "USD") -> Invoice:
    return Invoice(
        organization_id="acme",
        subscription_id="sub_1",
        plan_id="starter",
        plan_version=1,
        state=state,
        total=total_of(lines, code),
        lines=lines,
        period=PERIOD,
        closed_through_sequence=5146,
        cut=CutKind.PERIOD,
        invoice_id="inv_1",
        number="TB-000042",
        finalize_time=ISSUED,
    )


def paper_of(made: Invoice, *, buyer: BillingProfile = BUYER) -> Paper:
    return invoice_paper(made, meters=METERS, seller=SELLER, buyer=buyer)


def test_usage_says_how_much_at_which_price_and_where_it_is_recorded() -> None:
    [shown] = paper_of(invoice(USAGE)).lines
    assert (shown.quantity, shown.unit_price, shown.amount) == ("99.8", "$0.05", "4.99")
    assert shown.detail == "20 Oct 2026 to 20 Nov 2026 · 1 099.8 used · ledger events 1 to 5146"


def test_a_correction_shows_its_difference_and_no_quantity_times_a_price() -> None:
    corrected = replace(
        USAGE, kind=LineKind.ADJUSTMENT, amount=Money(-20, "USD"), first_sequence=5146, last_sequence=5200
    )
    [shown] = paper_of(invoice(corrected)).lines
    assert (shown.quantity, shown.unit_price, shown.amount) == ("", "", "\u22120.20")
    assert "ledger events 5147 to 5200" in shown.detail


@pytest.mark.parametrize("code", ["USD", "JPY", "KWD"])
def test_taxes_and_credits_stand_below_the_subtotal_and_everything_adds_up(code: str) -> None:
    lines = (
        line(LineKind.BASE_FEE, 49_000, code=code),
        line(LineKind.DISCOUNT, -24_500, code=code),
        line(LineKind.TAX, 4_900, "VAT 20% (AT)", code=code),
        line(LineKind.CREDIT, -10_000, "Prepaid credits", code=code),
        line(LineKind.ROUNDING, 10, "Rounding", code=code),
    )
    paper = paper_of(invoice(*lines, code=code))
    assert len(paper.lines) == 2
    names = ["Subtotal", "VAT 20% (AT)", "Prepaid credits", "Rounding", f"Total {code}"]
    assert [total.name for total in paper.totals] == names

    def minor(text: str) -> int:
        return int(text.replace("\u202f", "").replace("\u2212", "-").replace(".", ""))

    *parts, total = (minor(each.amount) for each in paper.totals)
    assert sum(parts) == total == sum(each.amount.minor for each in lines)
    assert sum(minor(each.amount) for each in paper.lines) == parts[0]


def test_an_invoice_without_taxes_and_credits_has_its_total_alone() -> None:
    assert [total.name for total in paper_of(invoice(USAGE)).totals] == ["Total USD"]


@pytest.mark.parametrize(
    ("state", "stamp"),
    [
        (InvoiceState.FINALIZED, ""),
        (InvoiceState.PAID, "PAID"),
        (InvoiceState.PAST_DUE, "PAST DUE"),
        (InvoiceState.VOID, "VOID"),
        (InvoiceState.UNCOLLECTIBLE, ""),
    ],
)
async def test_a_paper_is_stamped_with_where_the_invoice_stands(state: InvoiceState, stamp: str) -> None:
    paper = paper_of(invoice(USAGE, state=state))
    assert paper.status == stamp
    assert stamp in text_of_pdf(await TypstPapers().render(paper))


def test_who_is_charged_has_nothing_to_do_and_who_transfers_is_told_how() -> None:
    assert paper_of(invoice(USAGE)).notes == ("Charged to the payment method on file. Nothing needs to be done.",)
    asked, where = paper_of(invoice(USAGE), buyer=BY_TRANSFER).notes
    assert asked == "Please transfer 4.99 USD by 20 Dec 2026, stating TB-000042."
    assert where == "IBAN AT61 1904 3002 3457 3201\nBIC ABCDATWW"


def test_an_invoice_is_due_at_once_by_card_and_after_the_term_by_transfer() -> None:
    assert (due_time(ISSUED, BUYER), due_time(ISSUED, BY_TRANSFER)) == (ISSUED, ISSUED + timedelta(days=30))


def test_an_organization_that_never_said_who_it_is_is_named_by_its_id() -> None:
    assert paper_of(invoice(USAGE), buyer=BillingProfile()).buyer.legal_name == "acme"


def test_a_preview_has_no_number_and_says_what_it_is() -> None:
    draft = replace(invoice(USAGE, state=InvoiceState.DRAFT), number="", invoice_id="", finalize_time=None)
    paper = invoice_paper(draft, meters=METERS, seller=SELLER, buyer=BUYER, previewed_at=ISSUED)
    assert "Number" not in [fact.name for fact in paper.facts]
    assert paper.notes[0].startswith("A preview")


async def test_bank_details_stand_below_each_other() -> None:
    said = text_of_pdf(await TypstPapers().render(paper_of(invoice(USAGE), buyer=BY_TRANSFER)))
    assert "IBAN AT61 1904 3002 3457 3201 BIC ABCDATWW" in said
