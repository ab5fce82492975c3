"""Legal entities in Postgres, and the series of numbers of each: the fleet role writes, the tenant role reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import NotFound
from kit.postgres.database import Database
from services.billing.adapters import operator_requests
from services.billing.domain.profile import LegalEntity, Party, changed_entities


class PostgresLegalEntities:
    """LegalEntities over the tenant and the fleet role."""

    def __init__(self, tenant: Database, fleet: Database) -> None:
        self._tenant = tenant
        self._fleet = fleet

    async def current(self) -> Sequence[LegalEntity]:
        """As LegalEntities."""
        async with self._tenant.transaction() as connection:
            return await _current(connection)

    async def at(self, legal_entity_id: str, moment: datetime) -> LegalEntity:
        """As LegalEntities."""
        names = {"legal_entity_id": legal_entity_id, "moment": moment}
        async with self._tenant.transaction() as connection:
            row = (await connection.execute(_AT, names)).one_or_none()
        if row is None:
            raise NotFound(what="legal entity", name=legal_entity_id[:64])
        return _entity_from_row(row)

    async def apply(
        self, entities: Sequence[LegalEntity], *, request_id: str, digest: bytes, actor: str
    ) -> Sequence[LegalEntity]:
        """As LegalEntities."""
        async with self._fleet.transaction() as connection:
            if not await operator_requests.was_done(connection, request_id, digest):
                history = [_entity_from_row(row) for row in await connection.execute(_ALL)]
                changed = changed_entities(entities, history)
                for entity in changed:
                    await _add(connection, entity)
                await operator_requests.remember(
                    connection,
                    request_id,
                    digest,
                    method="ApplyLegalEntities",
                    subject=" ".join(entity.legal_entity_id for entity in changed),
                    actor=actor,
                )
            return await _current(connection)


async def _current(connection: AsyncConnection) -> list[LegalEntity]:
    return [_entity_from_row(row) for row in await connection.execute(_CURRENT)]


async def _add(connection: AsyncConnection, entity: LegalEntity) -> None:
    names = {"legal_entity_id": entity.legal_entity_id, "version": entity.version, "content": _content_of(entity)}
    await connection.execute(_ADD, names)
    for statement, prefix in (
        (_INVOICE_SERIES, entity.invoice_prefix),
        (_CREDIT_NOTE_SERIES, entity.credit_note_prefix),
    ):
        await connection.execute(statement, {"legal_entity": entity.legal_entity_id, "prefix": prefix})


def _content_of(entity: LegalEntity) -> dict[str, object]:
    return {
        "legal_name": entity.party.legal_name,
        "address_lines": list(entity.party.address_lines),
        "country_code": entity.party.country_code,
        "tax_id": entity.party.tax_id,
        "mail": entity.party.mail,
        "invoice_prefix": entity.invoice_prefix,
        "credit_note_prefix": entity.credit_note_prefix,
        "bank_details": list(entity.bank_details),
    }


def _entity_from_row(row: Row[Any]) -> LegalEntity:
    content = row.content
    return LegalEntity(
        legal_entity_id=row.legal_entity_id,
        version=row.version,
        update_time=row.update_time,
        party=Party(
            legal_name=content["legal_name"],
            address_lines=tuple(content["address_lines"]),
            country_code=content["country_code"],
            tax_id=content["tax_id"],
            mail=content["mail"],
        ),
        invoice_prefix=content["invoice_prefix"],
        credit_note_prefix=content["credit_note_prefix"],
        bank_details=tuple(content["bank_details"]),
    )


_COLUMNS = "legal_entity_id, version, content, update_time"
_ALL = text(f"SELECT {_COLUMNS} FROM billing.legal_entities ORDER BY legal_entity_id, version")  # noqa: S608 - constants
_CURRENT = text(f"""
    SELECT DISTINCT ON (legal_entity_id) {_COLUMNS} FROM billing.legal_entities
    ORDER BY legal_entity_id, version DESC
""")  # noqa: S608 - constants
_AT = text(f"""
    SELECT {_COLUMNS} FROM billing.legal_entities WHERE legal_entity_id = :legal_entity_id
    ORDER BY update_time <= :moment DESC, CASE WHEN update_time <= :moment THEN version ELSE -version END DESC LIMIT 1
""")  # noqa: S608 - constants
_ADD = text("""
    INSERT INTO billing.legal_entities (legal_entity_id, version, content)
    VALUES (:legal_entity_id, :version, :content)
""").bindparams(bindparam("content", type_=JSONB))
_INVOICE_SERIES = text("""
    INSERT INTO billing.invoice_numbers (legal_entity, prefix, last_number) VALUES (:legal_entity, :prefix, 0)
    ON CONFLICT (legal_entity) DO UPDATE SET prefix = excluded.prefix
""")
_CREDIT_NOTE_SERIES = text("""
    INSERT INTO billing.credit_note_numbers (legal_entity, prefix, last_number) VALUES (:legal_entity, :prefix, 0)
    ON CONFLICT (legal_entity) DO UPDATE SET prefix = excluded.prefix
""")
