"""What is the operator's, in memory: coupons, legal entities, and the lists of money that workers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from kit.errors import AlreadyExists, NotFound, RequestIdReused
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.world import World
from services.billing.application.ports.credit_notes import DueCreditNote
from services.billing.domain import limits
from services.billing.domain.coupons import Coupon, CouponStanding
from services.billing.domain.credits import available_by_grant
from services.billing.domain.profile import LegalEntity, changed_entities


class MemoryCoupons:
    """Coupons over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def get(self, coupon_id: str) -> CouponStanding:
        """As Coupons."""
        async with self._books.everything() as world:
            return _coupon(world, coupon_id)

    async def by_id(self, *, after: str, count: int) -> Sequence[CouponStanding]:
        """As Coupons."""
        async with self._books.everything() as world:
            return [world.coupons[coupon_id] for coupon_id in sorted(world.coupons) if coupon_id > after][:count]

    async def create(self, coupon: Coupon, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:  # noqa: ARG002
        """As Coupons."""
        async with self._books.everything() as world:
            if not _asked_before(world, request_id, digest):
                if coupon.coupon_id in world.coupons:
                    raise AlreadyExists(what="coupon", name=coupon.coupon_id)
                world.coupons[coupon.coupon_id] = CouponStanding(coupon=coupon, redemption_count=0, is_withdrawn=False)
                world.operator_requests[request_id] = digest
            return _coupon(world, coupon.coupon_id)

    async def withdraw(self, coupon_id: str, *, request_id: str, digest: bytes, actor: str) -> CouponStanding:  # noqa: ARG002
        """As Coupons."""
        async with self._books.everything() as world:
            if not _asked_before(world, request_id, digest):
                world.coupons[coupon_id] = replace(_coupon(world, coupon_id), is_withdrawn=True)
                world.operator_requests[request_id] = digest
            return _coupon(world, coupon_id)


class MemoryLegalEntities:
    """LegalEntities over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def current(self) -> Sequence[LegalEntity]:
        """As LegalEntities."""
        async with self._books.everything() as world:
            return _current(world)

    async def at(self, legal_entity_id: str, moment: datetime) -> LegalEntity:
        """As LegalEntities."""
        async with self._books.everything() as world:
            versions = [each for each in world.legal_entities if each.legal_entity_id == legal_entity_id]
            then = [each for each in versions if each.update_time is not None and each.update_time <= moment]
            if not versions:
                raise NotFound(what="legal entity", name=legal_entity_id[:64])
            return then[-1] if then else versions[0]

    async def apply(
        self,
        entities: Sequence[LegalEntity],
        *,
        request_id: str,
        digest: bytes,
        actor: str,  # noqa: ARG002
    ) -> Sequence[LegalEntity]:
        """As LegalEntities."""
        async with self._books.everything() as world:
            if not _asked_before(world, request_id, digest):
                for each in changed_entities(entities, world.legal_entities):
                    world.legal_entities.append(replace(each, update_time=datetime.now(UTC)))
                world.operator_requests[request_id] = digest
            return _current(world)


class MemoryExpiryList:
    """ExpiryList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def due(self, *, now: datetime, count: int) -> Sequence[str]:
        """As ExpiryList."""
        async with self._books.everything() as world:
            over = [
                (grant.expire_time, organization_id)
                for organization_id, pages in world.pages.items()
                for grant in pages.grants.values()
                if grant.expire_time is not None
                and grant.expire_time <= now
                and available_by_grant(pages.journal)[grant.grant_id] > 0
            ]
            return list(dict.fromkeys(organization_id for _, organization_id in sorted(over)))[:count]


class MemoryCreditNoteList:
    """CreditNoteList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueCreditNote]:
        """As CreditNoteList."""
        async with self._books.everything() as world:
            ready = [
                each
                for each in world.due_credit_notes.values()
                if not each.parked_reason and each.next_attempt_time <= now
            ]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [each.due for each in chosen]

    async def retry(self, due: DueCreditNote, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As CreditNoteList."""
        async with self._books.everything() as world:
            held = world.due_credit_notes.get((due.organization_id, due.credit_note_id))
            if held is not None and held.due == due:
                held.next_attempt_time = at

    async def park(self, due: DueCreditNote, *, reason: str) -> None:
        """As CreditNoteList."""
        async with self._books.everything() as world:
            held = world.due_credit_notes.get((due.organization_id, due.credit_note_id))
            if held is not None and held.due == due:
                held.parked_reason = reason


def _asked_before(world: World, request_id: str, digest: bytes) -> bool:
    before = world.operator_requests.get(request_id)
    if before is not None and before != digest:
        raise RequestIdReused(request_id=request_id)
    return before is not None


def _coupon(world: World, coupon_id: str) -> CouponStanding:
    if coupon_id not in world.coupons:
        raise NotFound(what="coupon", name=coupon_id[:64])
    return world.coupons[coupon_id]


def _current(world: World) -> list[LegalEntity]:
    newest = {each.legal_entity_id: each for each in world.legal_entities}
    return [newest[legal_entity_id] for legal_entity_id in sorted(newest)]
