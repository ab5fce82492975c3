"""What an invoice looks like: golden files, made by `python -m tests.fixtures.papers.make`, and what may be in it."""

from __future__ import annotations

import io
from dataclasses import replace

import pypdf
import pytest

from kit.money import Money
from services.billing.adapters.typst_papers.renderer import TypstPapers
from services.billing.domain.papers import Paper, PaperLine, printed
from services.billing.domain.profile import Party
from tests.fixtures.papers.samples import CREDIT_NOTE, FOLDER, INVOICE, LONG_INVOICE
from tests.papers import text_of_pdf

SAMPLES = {"invoice": INVOICE, "credit-note": CREDIT_NOTE, "long-invoice": LONG_INVOICE}


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_paper_is_byte_by_byte_what_it_was(name: str) -> None:
    assert await TypstPapers().render(SAMPLES[name]) == (FOLDER / f"{name}.pdf").read_bytes()


async def test_an_invoice_says_all_that_it_is_given() -> None:
    said = text_of_pdf(await TypstPapers().render(INVOICE))
    for each in (
        *(INVOICE.number, INVOICE.title, INVOICE.status, INVOICE.seller.tax_id, INVOICE.buyer.tax_id),
        *INVOICE.seller.address_lines,
        *INVOICE.buyer.address_lines,
        *(fact.value for fact in INVOICE.facts),
        *(line.amount for line in INVOICE.lines),
        *(total.amount for total in INVOICE.totals),
        *INVOICE.notes,
    ):
        assert " ".join(each.split()) in said


async def test_every_page_of_a_long_invoice_has_its_number_and_the_columns_heads() -> None:
    pages = pypdf.PdfReader(io.BytesIO(await TypstPapers().render(LONG_INVOICE))).pages
    assert len(pages) > 1
    for number, page in enumerate(pages, start=1):
        said = page.extract_text()
        assert f"{LONG_INVOICE.number} · Page {number} of {len(pages)}" in said
        assert "DESCRIPTION" in said


@pytest.mark.parametrize(
    "name",
    [
        '#read("/etc/passwd")',
        "$x^2$",
        "*bold* _it_ `raw` <label> @ref",
        "\\",
        '"',
        "// comment",
        "#import sys",
        "]}#{[",
    ],
)
async def test_what_customers_are_called_is_text_and_never_markup(name: str) -> None:
    paper = replace(INVOICE, buyer=Party(legal_name=name), lines=(PaperLine(description=name, amount="1.00"),))
    said = text_of_pdf(await TypstPapers().render(paper))
    assert said.count(name) == 2


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Money(0, "USD"), "0.00"),
        (Money(-123_456_789, "USD"), "\u22121\u202f234\u202f567.89"),
        (Money(1_234, "JPY"), "1\u202f234"),
        (Money(1_234_567, "KWD"), "1\u202f234.567"),
        (Money(-5, "USD"), "\u22120.05"),
    ],
)
def test_amounts_are_printed_with_the_decimals_of_their_currency(amount: Money, text: str) -> None:
    assert printed(amount) == text


async def test_the_file_says_what_it_is_and_nothing_of_the_machine() -> None:
    paper: Paper = INVOICE
    information = pypdf.PdfReader(io.BytesIO(await TypstPapers().render(paper))).metadata
    assert information is not None
    assert (information.title, information.author) == (f"{paper.title} {paper.number}", paper.seller.legal_name)
    assert information.creation_date == paper.issue_time
