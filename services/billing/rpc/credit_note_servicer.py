"""CreditNoteService."""

from __future__ import annotations

from typing import ClassVar

import grpc
from google.api.httpbody_pb2 import HttpBody

from kit.clock import Clock, from_unix_microseconds, unix_microseconds
from kit.errors import LimitExceeded
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.ports.books import Books
from services.billing.application.ports.credit_notes import CreditNoteKey
from services.billing.application.print_papers import PrintPapers
from services.billing.domain import limits
from services.billing.domain.credit_notes import CitedLine
from services.billing.rpc.convert_amounts import money_from_pb
from services.billing.rpc.convert_credit_notes import credit_note_to_pb, destination_from_pb, reason_from_pb
from services.billing.rpc.convert_papers import file_to_pb
from services.billing.rpc.page_tokens import invalid_token, page_size_of, parts_of, token_of
from tollbook.billing.v1 import credit_notes_pb2, credit_notes_pb2_grpc


class CreditNoteServicer(credit_notes_pb2_grpc.CreditNoteServiceServicer):
    """Credit notes of one organization."""

    service_name: ClassVar[str] = "tollbook.billing.v1.CreditNoteService"

    def __init__(self, *, books: Books, print_papers: PrintPapers, clock: Clock, exists: OrganizationExists) -> None:
        self._books = books
        self._exists = exists
        self._print_papers = print_papers
        self._create_credit_note = CreateCreditNote(books, clock)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        credit_notes_pb2_grpc.add_CreditNoteServiceServicer_to_server(self, server)

    async def CreateCreditNote(
        self, request: credit_notes_pb2.CreateCreditNoteRequest, context: ServicerContext
    ) -> credit_notes_pb2.CreateCreditNoteResponse:
        """See the proto."""
        if len(request.lines) > limits.CREDIT_NOTE_LINES_MAX:
            raise LimitExceeded(what="lines", actual=len(request.lines), maximum=limits.CREDIT_NOTE_LINES_MAX)
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        note = await self._create_credit_note(
            organization_id,
            request.invoice_id,
            await self._cited(organization_id, request),
            reason=reason_from_pb(request.reason),
            memo=request.memo,
            destination=destination_from_pb(request.destination),
            request_id=request.request_id,
            actor=current_actor(),
        )
        return credit_notes_pb2.CreateCreditNoteResponse(credit_note=credit_note_to_pb(note))

    async def GetCreditNote(
        self, request: credit_notes_pb2.GetCreditNoteRequest, context: ServicerContext
    ) -> credit_notes_pb2.GetCreditNoteResponse:
        """See the proto."""
        async with self._books.read(await organization_of(request.organization_id, exists=self._exists)) as book:
            note = await book.credit_notes.get(request.credit_note_id)
        return credit_notes_pb2.GetCreditNoteResponse(credit_note=credit_note_to_pb(note))

    async def GetCreditNotePdf(
        self, request: credit_notes_pb2.GetCreditNotePdfRequest, context: ServicerContext
    ) -> HttpBody:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return file_to_pb(await self._print_papers.credit_note(organization_id, request.credit_note_id))

    async def ListCreditNotes(
        self, request: credit_notes_pb2.ListCreditNotesRequest, context: ServicerContext
    ) -> credit_notes_pb2.ListCreditNotesResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        count = page_size_of(request.page_size, default=limits.PAGE_CREDIT_NOTES, maximum=limits.PAGE_CREDIT_NOTES_MAX)
        before = _key_of(request.page_token)
        async with self._books.read(organization_id) as book:
            found = await book.credit_notes.newest_first(before=before, count=count + 1)
        token = ""
        if len(found) > count:
            last = found[count - 1]
            token = token_of(str(unix_microseconds(last.create_time)), last.credit_note_id)
        return credit_notes_pb2.ListCreditNotesResponse(
            credit_notes=map(credit_note_to_pb, found[:count]), next_page_token=token
        )

    async def _cited(self, organization_id: str, request: credit_notes_pb2.CreateCreditNoteRequest) -> list[CitedLine]:
        # An amount is in the currency of its invoice, which the request does not repeat.
        async with self._books.read(organization_id) as book:
            currency_code = (await book.invoices.get(request.invoice_id)).total.currency_code
        return [
            CitedLine(
                line_number=line.line_number,
                amount=money_from_pb(line.amount, currency_code, f"lines[{position}].amount") if line.amount else None,
            )
            for position, line in enumerate(request.lines)
        ]


def _key_of(token: str) -> CreditNoteKey | None:
    parts = parts_of(token, 2)
    if parts is None:
        return None
    try:
        return CreditNoteKey(from_unix_microseconds(int(parts[0])), parts[1])
    except (ValueError, OverflowError):
        raise invalid_token() from None
