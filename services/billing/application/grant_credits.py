"""Grant credits: prepaid credits that the operator gives, or that a paid invoice was for."""

from __future__ import annotations

from datetime import datetime

from kit.clock import Clock, unix_microseconds
from kit.ids import new_id
from kit.money import Money
from services.billing.application.ports.books import Book, Books
from services.billing.application.tell_customers import tell_of_grant
from services.billing.domain import limits
from services.billing.domain.credits import CreditGrant, CreditSource, GrantStanding, require_grant
from services.billing.domain.requests import request_digest, require_request_id

_ACTOR = "service:billing"


class GrantCredits:
    """Gives credits."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        amount: Money,
        *,
        priority: int | None,
        expire_time: datetime | None,
        description: str,
        request_id: str,
        actor: str,
    ) -> GrantStanding:
        """The grant, and what is available of it; priority None means the default. Idempotent: the same request again
        answers the grant as it is then. Raises InvalidField and RequestIdReused.
        """
        require_request_id(request_id)
        expire_us = None if expire_time is None else unix_microseconds(expire_time)
        content = [amount.minor, amount.currency_code, priority, expire_us, description]
        digest = request_digest("GrantCredits", organization_id, content)
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                return await book.credits.get(made)
            grant = CreditGrant(
                grant_id=new_id("crg"),
                amount=amount,
                priority=limits.CREDIT_PRIORITY if priority is None else priority,
                grant_time=self._clock.now(),
                expire_time=expire_time,
                source=CreditSource.OPERATOR,
                description=description,
            )
            require_grant(grant)
            await book.requests.remember(request_id, digest, grant.grant_id)
            await tell_of_grant(book, grant, now=grant.grant_time)
            return await book.credits.grant(grant, actor=actor, request_id=request_id)


async def grant_for(
    book: Book,
    amount: Money,
    *,
    source: CreditSource,
    source_id: str,
    description: str,
    at: datetime,
    expire_time: datetime | None = None,
) -> None:
    """Grants what a credit note, an invoice below nothing or a purchase comes to, in the transaction of its cause.

    Once: when it led to a grant before, or comes to nothing, nothing is done. expire_time None: it never
    expires.
    """
    if amount.minor <= 0 or await book.credits.granted_for(source, source_id) is not None:
        return
    grant = CreditGrant(
        grant_id=new_id("crg"),
        amount=amount,
        priority=limits.CREDIT_PRIORITY,
        grant_time=at,
        expire_time=expire_time,
        source=source,
        source_id=source_id,
        description=description,
    )
    await book.credits.grant(grant, actor=_ACTOR, request_id="")
    await tell_of_grant(book, grant, now=at)
