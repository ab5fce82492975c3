"""`tollbook entities apply`: a YAML file says who bills."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.endpoints import SuiteNotUp, add_state_argument, read_endpoints
from cli.rpc import CallFailed, call
from cli.seed_files.entities import EntitiesError, LegalEntity, read_entities
from kit.grpc.client import connect
from kit.ids import new_id
from tollbook.billing.v1 import profile_pb2, profile_pb2_grpc

_DONE, _REFUSED = 0, 2
_PATIENCE_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `tollbook entities` takes."""
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    apply = verbs.add_parser("apply", help="keep the legal entities of a file; those left out stay as they are")
    apply.add_argument("file", type=Path, metavar="FILE", help="the legal entities, as deploy/entities.yaml")
    add_state_argument(apply)


def run(args: argparse.Namespace) -> int:
    """Applies the file and prints every legal entity that there is: 0 when done, 2 when refused as a whole."""
    try:
        entities = read_entities(args.file)
        endpoints = read_endpoints(args.state)
        applied = asyncio.run(
            apply_entities(entities, billing_address=endpoints.addresses["billing"], admin_key=endpoints.admin_key)
        )
    except (EntitiesError, SuiteNotUp) as refusal:
        print(f"tollbook entities: {refusal}", file=sys.stderr)
        return _REFUSED
    for each in applied:
        numbers = f"{each.invoice_prefix}-…, {each.credit_note_prefix}-…"
        print(f"{each.legal_entity_id}: {each.party.legal_name} ({numbers}), version {each.version}")
    return _DONE


async def apply_entities(
    entities: Sequence[LegalEntity], *, billing_address: str, admin_key: str
) -> Sequence[profile_pb2.LegalEntity]:
    """All legal entities as they are then. Applies all or, with EntitiesError, nothing; again it changes nothing."""
    request = profile_pb2.ApplyLegalEntitiesRequest(request_id=new_id("req"), entities=map(entity_to_pb, entities))
    try:
        async with connect(billing_address, admin_key) as billing:
            answer = await call(
                profile_pb2_grpc.LegalEntityServiceStub(billing).ApplyLegalEntities,
                request,
                patience_seconds=_PATIENCE_SECONDS,
            )
    except CallFailed as failure:
        raise EntitiesError(str(failure)) from None
    return answer.entities


def entity_to_pb(entity: LegalEntity) -> profile_pb2.LegalEntity:
    """The same on the wire."""
    return profile_pb2.LegalEntity(
        legal_entity_id=entity.legal_entity_id,
        party=profile_pb2.Party(
            legal_name=entity.legal_name,
            address_lines=entity.address_lines,
            country_code=entity.country_code,
            tax_id=entity.tax_id,
            mail=entity.mail,
        ),
        invoice_prefix=entity.invoice_prefix,
        credit_note_prefix=entity.credit_note_prefix,
        bank_details=entity.bank_details,
    )
