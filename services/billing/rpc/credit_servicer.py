"""CreditService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.clock import Clock
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.grant_credits import GrantCredits
from services.billing.application.ports.books import Books
from services.billing.application.revoke_credits import RevokeCredits
from services.billing.domain import limits
from services.billing.domain.credits import in_order_of_use
from services.billing.rpc.convert import invoice_to_pb
from services.billing.rpc.convert_amounts import money_from_pb
from services.billing.rpc.convert_credits import balance_to_pb, entry_to_pb, grant_to_pb
from services.billing.rpc.page_tokens import invalid_token, page_size_of, parts_of, token_of
from tollbook.billing.v1 import credits_pb2, credits_pb2_grpc

_NUMBER_MAX = 2**63 - 1


class CreditServicer(credits_pb2_grpc.CreditServiceServicer):
    """Prepaid credits of one organization."""

    service_name: ClassVar[str] = "tollbook.billing.v1.CreditService"

    def __init__(self, *, books: Books, buy_credits: BuyCredits, clock: Clock, exists: OrganizationExists) -> None:
        self._buy_credits = buy_credits
        self._books = books
        self._exists = exists
        self._grant_credits = GrantCredits(books, clock)
        self._revoke_credits = RevokeCredits(books, clock)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        credits_pb2_grpc.add_CreditServiceServicer_to_server(self, server)

    async def GrantCredits(
        self, request: credits_pb2.GrantCreditsRequest, context: ServicerContext
    ) -> credits_pb2.GrantCreditsResponse:
        """See the proto."""
        wanted = request.grant
        has_expiry = wanted.HasField("expire_time")
        standing = await self._grant_credits(
            await organization_of(request.organization_id, exists=self._exists),
            money_from_pb(wanted.amount, wanted.currency_code, "grant.amount"),
            priority=wanted.priority if wanted.HasField("priority") else None,
            expire_time=moment_from_pb(wanted.expire_time, "grant.expire_time") if has_expiry else None,
            description=wanted.description,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return credits_pb2.GrantCreditsResponse(grant=grant_to_pb(standing))

    async def BuyCredits(
        self, request: credits_pb2.BuyCreditsRequest, context: ServicerContext
    ) -> credits_pb2.BuyCreditsResponse:
        """See the proto."""
        invoice = await self._buy_credits(
            await organization_of(request.organization_id, exists=self._exists),
            money_from_pb(request.amount, request.currency_code, "amount"),
            request_id=request.request_id,
            actor=current_actor(),
        )
        return credits_pb2.BuyCreditsResponse(invoice=invoice_to_pb(invoice))

    async def RevokeCredits(
        self, request: credits_pb2.RevokeCreditsRequest, context: ServicerContext
    ) -> credits_pb2.RevokeCreditsResponse:
        """See the proto."""
        standing = await self._revoke_credits(
            await organization_of(request.organization_id, exists=self._exists),
            request.grant_id,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return credits_pb2.RevokeCreditsResponse(grant=grant_to_pb(standing))

    async def ListCredits(
        self, request: credits_pb2.ListCreditsRequest, context: ServicerContext
    ) -> credits_pb2.ListCreditsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        async with self._books.read(organization_id) as book:
            balances = await book.credits.balances()
            standings = await book.credits.standings()
        return credits_pb2.ListCreditsResponse(
            balances=[balance_to_pb(code, balances[code]) for code in sorted(balances)],
            grants=map(grant_to_pb, in_order_of_use(standings)),
        )

    async def ListCreditEntries(
        self, request: credits_pb2.ListCreditEntriesRequest, context: ServicerContext
    ) -> credits_pb2.ListCreditEntriesResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        count = page_size_of(
            request.page_size, default=limits.CREDIT_ENTRIES_PAGE, maximum=limits.CREDIT_ENTRIES_PAGE_MAX
        )
        before = _number_of(request.page_token)
        async with self._books.read(organization_id) as book:
            found = await book.credits.journal(before=before, count=count + 1)
        token = token_of(str(found[count - 1].number)) if len(found) > count else ""
        return credits_pb2.ListCreditEntriesResponse(entries=map(entry_to_pb, found[:count]), next_page_token=token)


def _number_of(token: str) -> int | None:
    parts = parts_of(token, 1)
    if parts is None:
        return None
    if not (parts[0].isascii() and parts[0].isdigit() and int(parts[0]) <= _NUMBER_MAX):
        raise invalid_token()
    return int(parts[0])
