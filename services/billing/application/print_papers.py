"""Print papers: invoices and credit notes as files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.application.ports.papers import Papers
from services.billing.application.ports.profile import LegalEntities
from services.billing.application.ports.usage import Usage
from services.billing.domain.invoice_papers import credit_note_paper, invoice_paper
from services.billing.domain.invoices import Invoice


@dataclass(frozen=True, slots=True)
class File:
    """A file to hand over."""

    name: str
    content: bytes


class PrintPapers:
    """Prints what was issued, with who sold and who bought as they were then."""

    def __init__(
        self,
        *,
        books: Books,
        entities: LegalEntities,
        usage: Usage,
        preview_invoice: Callable[[str], Awaitable[Invoice]],
        papers: Papers,
        clock: Clock,
    ) -> None:
        self._books = books
        self._entities = entities
        self._usage = usage
        self._preview_invoice = preview_invoice
        self._papers = papers
        self._clock = clock

    async def invoice(self, organization_id: str, invoice_id: str) -> File:
        """An invoice. Raises NotFound and DependencyUnavailable."""
        async with self._books.read(organization_id) as book:
            invoice = await book.invoices.get(invoice_id)
            issued = invoice.finalize_time or self._clock.now()
            buyer = await book.profile.at(issued)
        seller = await self._entities.at(invoice.legal_entity_id, issued)
        paper = invoice_paper(invoice, meters=await self._usage.meters(), seller=seller, buyer=buyer)
        return File(f"{invoice.number}.pdf", await self._papers.render(paper))

    async def preview(self, organization_id: str) -> File:
        """The preview of the next invoice. Raises OrganizationNotFound and DependencyUnavailable."""
        now = self._clock.now()
        draft = await self._preview_invoice(organization_id)
        async with self._books.read(organization_id) as book:
            buyer = await book.profile.current()
        seller = await self._entities.at(draft.legal_entity_id, now)
        meters = await self._usage.meters()
        paper = invoice_paper(draft, meters=meters, seller=seller, buyer=buyer, previewed_at=now)
        return File("preview.pdf", await self._papers.render(paper))

    async def credit_note(self, organization_id: str, credit_note_id: str) -> File:
        """A credit note. Raises NotFound and DependencyUnavailable."""
        async with self._books.read(organization_id) as book:
            note = await book.credit_notes.get(credit_note_id)
            buyer = await book.profile.at(note.create_time)
        seller = await self._entities.at(note.legal_entity_id, note.create_time)
        paper = credit_note_paper(note, seller=seller, buyer=buyer)
        return File(f"{note.number}.pdf", await self._papers.render(paper))
