"""`tollbook entities apply` on the running suite."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.running_suite import CHECKOUT, RunningSuite, call, tollbook
from tollbook.billing.v1 import profile_pb2, profile_pb2_grpc

_SHIPPED = CHECKOUT / "deploy" / "entities.yaml"


def _default(suite: RunningSuite) -> profile_pb2.LegalEntity:
    stub = profile_pb2_grpc.LegalEntityServiceStub(suite.channel("billing"))
    listed = call(stub.ListLegalEntities, profile_pb2.ListLegalEntitiesRequest(), key=suite.admin_key)
    return next(each for each in listed.entities if each.legal_entity_id == "default")


def test_who_bills_is_what_the_file_says_and_the_same_file_again_is_no_version(suite: RunningSuite) -> None:
    for _ in range(2):
        done = tollbook("entities", "apply", _SHIPPED, "--state", suite.state_dir)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "default: Example Agents, Inc. (TB-…, CN-…), version 2\n"
    assert _default(suite).party.legal_name == "Example Agents, Inc."


def test_a_file_that_billing_refuses_is_refused_as_a_whole(suite: RunningSuite, tmp_path: Path) -> None:
    path = tmp_path / "entities.yaml"
    path.write_text(_SHIPPED.read_text(encoding="utf-8").replace("invoice_prefix: TB", "invoice_prefix: tb"))
    before = _default(suite)
    done = tollbook("entities", "apply", path, "--state", suite.state_dir)
    assert (done.returncode, done.stdout) == (2, "")
    assert "entities[default].invoice_prefix" in done.stderr
    assert _default(suite) == before
