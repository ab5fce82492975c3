"""Apply legal entities: who bills."""

from __future__ import annotations

from collections.abc import Sequence

from services.billing.application.ports.profile import LegalEntities
from services.billing.domain.profile import LegalEntity, require_entities
from services.billing.domain.requests import request_digest, require_request_id


class ApplyLegalEntities:
    """Adds and changes legal entities."""

    def __init__(self, entities: LegalEntities) -> None:
        self._entities = entities

    async def __call__(self, entities: Sequence[LegalEntity], *, request_id: str, actor: str) -> Sequence[LegalEntity]:
        """All legal entities as they are then. Idempotent. Raises InvalidField or LimitExceeded with nothing applied,
        and RequestIdReused.
        """
        require_request_id(request_id)
        require_entities(entities)
        digest = request_digest("ApplyLegalEntities", [_content(each) for each in entities])
        return await self._entities.apply(entities, request_id=request_id, digest=digest, actor=actor)


def _content(entity: LegalEntity) -> list[object]:
    party = entity.party
    return [
        entity.legal_entity_id,
        [party.legal_name, list(party.address_lines), party.country_code, party.tax_id, party.mail],
        entity.invoice_prefix,
        entity.credit_note_prefix,
        list(entity.bank_details),
    ]
