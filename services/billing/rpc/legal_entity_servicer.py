"""LegalEntityService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import current_actor
from kit.grpc.context import ServicerContext
from services.billing.application.apply_legal_entities import ApplyLegalEntities
from services.billing.application.ports.profile import LegalEntities
from services.billing.rpc.convert_profile import entity_from_pb, entity_to_pb
from tollbook.billing.v1 import profile_pb2, profile_pb2_grpc


class LegalEntityServicer(profile_pb2_grpc.LegalEntityServiceServicer):
    """Who bills."""

    service_name: ClassVar[str] = "tollbook.billing.v1.LegalEntityService"

    def __init__(self, *, entities: LegalEntities) -> None:
        self._entities = entities
        self._apply_legal_entities = ApplyLegalEntities(entities)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        profile_pb2_grpc.add_LegalEntityServiceServicer_to_server(self, server)

    async def ListLegalEntities(
        self, request: profile_pb2.ListLegalEntitiesRequest, context: ServicerContext
    ) -> profile_pb2.ListLegalEntitiesResponse:
        """See the proto."""
        return profile_pb2.ListLegalEntitiesResponse(entities=map(entity_to_pb, await self._entities.current()))

    async def ApplyLegalEntities(
        self, request: profile_pb2.ApplyLegalEntitiesRequest, context: ServicerContext
    ) -> profile_pb2.ApplyLegalEntitiesResponse:
        """See the proto."""
        applied = await self._apply_legal_entities(
            [entity_from_pb(each) for each in request.entities],
            request_id=request.request_id,
            actor=current_actor(),
        )
        return profile_pb2.ApplyLegalEntitiesResponse(entities=map(entity_to_pb, applied))
