"""Legal entities as people write them: who bills, and how its numbers begin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.seed_files.strict_yaml import Entry, FileRefused, read_yaml

_FIRST_ENTITY = "default"


class EntitiesError(Exception):
    """The entities cannot be applied; the message names the file and, where known, line, entity and field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LegalEntity:
    """One that bills. What is empty is not known."""

    legal_entity_id: str
    legal_name: str
    address_lines: tuple[str, ...]
    country_code: str
    tax_id: str
    mail: str
    invoice_prefix: str
    credit_note_prefix: str
    bank_details: tuple[str, ...]


def read_entities(path: Path) -> tuple[LegalEntity, ...]:
    """The legal entities in a file. Raises EntitiesError. Only billing says what a prefix or a text may be."""
    try:
        return _entities(read_yaml(path))
    except FileRefused as refusal:
        raise EntitiesError(str(refusal)) from None


def _entities(root: Entry) -> tuple[LegalEntity, ...]:
    entries = root.fields(required=("entities",))["entities"]
    found = tuple(_entity(name, entry.named(f"entity {name}")) for name, entry in entries.entries().items())
    if _FIRST_ENTITY not in {each.legal_entity_id for each in found}:
        raise entries.refused(f"{_FIRST_ENTITY!r} missing: customers begin with it")
    return found


def _entity(legal_entity_id: str, entry: Entry) -> LegalEntity:
    fields = entry.fields(
        required=("legal_name", "invoice_prefix", "credit_note_prefix"),
        optional=("address", "country", "tax_id", "mail", "bank_details"),
    )
    texts = {
        name: fields[name].text() if name in fields else ""
        for name in ("legal_name", "invoice_prefix", "credit_note_prefix", "country", "tax_id", "mail")
    }
    lines = {
        name: tuple(each.text() for each in fields[name].items()) if name in fields else ()
        for name in ("address", "bank_details")
    }
    return LegalEntity(
        legal_entity_id=legal_entity_id,
        legal_name=texts["legal_name"],
        address_lines=lines["address"],
        country_code=texts["country"],
        tax_id=texts["tax_id"],
        mail=texts["mail"],
        invoice_prefix=texts["invoice_prefix"],
        credit_note_prefix=texts["credit_note_prefix"],
        bank_details=lines["bank_details"],
    )
