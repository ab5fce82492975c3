"""The file that says who bills."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.entities import entity_to_pb
from cli.seed_files.entities import EntitiesError, read_entities

_SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "entities.yaml"
_FULL = """
entities:
  default: {legal_name: Acme Inc., invoice_prefix: A, credit_note_prefix: B}
  gmbh:
    legal_name: Acme GmbH
    address: [Am Tor 1, 10115 Berlin]
    country: DE
    tax_id: DE123456789
    mail: billing@acme.example
    invoice_prefix: DE
    credit_note_prefix: GS
    bank_details: [IBAN DE00, BIC X]
"""


def test_the_shipped_file_has_the_entity_that_customers_begin_with() -> None:
    (default,) = read_entities(_SHIPPED)
    assert (default.legal_entity_id, default.invoice_prefix, default.credit_note_prefix) == ("default", "TB", "CN")


def test_everything_that_is_written_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "entities.yaml"
    path.write_text(_FULL, encoding="utf-8")
    default, gmbh = map(entity_to_pb, read_entities(path))
    assert (default.party.legal_name, default.party.country_code, list(default.bank_details)) == ("Acme Inc.", "", [])
    assert (gmbh.legal_entity_id, gmbh.invoice_prefix, gmbh.credit_note_prefix) == ("gmbh", "DE", "GS")
    assert list(gmbh.party.address_lines) == ["Am Tor 1", "10115 Berlin"]
    assert (gmbh.party.tax_id, gmbh.party.mail) == ("DE123456789", "billing@acme.example")
    assert list(gmbh.bank_details) == ["IBAN DE00", "BIC X"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (("default:", "acme:"), "'default' missing: customers begin with it"),
        (("tax_id", "vat_id"), ": entity gmbh: unknown key 'vat_id'"),
        (("    legal_name: Acme GmbH\n", ""), ":5: entity gmbh: legal_name missing"),
        (("country: DE", "country:"), "country: is empty"),
        (("[Am Tor 1, 10115 Berlin]", "Am Tor 1"), "address: must be a list"),
        (("gmbh:", "default:"), "the key 'default' is there twice"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_its_place(
    tmp_path: Path, changed: tuple[str, str], problem: str
) -> None:
    path = tmp_path / "entities.yaml"
    path.write_text(_FULL.replace(*changed), encoding="utf-8")
    with pytest.raises(EntitiesError, match=r"entities\.yaml") as refused:
        read_entities(path)
    assert problem in str(refused.value)
