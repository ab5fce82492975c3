"""`tollbook catalog apply` on the running suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running_suite import CHECKOUT, RunningSuite, call, tollbook
from tollbook.billing.v1 import catalog_pb2, catalog_pb2_grpc

_SHIPPED = CHECKOUT / "deploy" / "plans.yaml"
_EXAMPLE = CHECKOUT / "deploy" / "examples" / "plans-all-prices.yaml"


def _plans(suite: RunningSuite) -> dict[str, catalog_pb2.Plan]:
    stub = catalog_pb2_grpc.CatalogServiceStub(suite.channel("billing"))
    listed = call(stub.ListPlans, catalog_pb2.ListPlansRequest(), key=suite.admin_key)
    return {plan.plan_id: plan for plan in listed.plans}


@pytest.fixture
def restored(suite: RunningSuite) -> Iterator[RunningSuite]:
    yield suite
    done = tollbook("catalog", "apply", _SHIPPED, "--state", suite.state_dir)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_shows_what_would_change_and_changes_nothing(suite: RunningSuite, tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(_SHIPPED.read_text(encoding="utf-8").replace("monthly_price: 49.00", "monthly_price: 59.00"))
    before = _plans(suite)
    done = tollbook("catalog", "apply", "--dry-run", path, "--state", suite.state_dir)
    assert done.returncode == 0, done.stderr
    version = before["starter"].version
    assert done.stdout.splitlines() == [
        f"starter: version {version} becomes {version + 1}; who has {version} keeps it",
        "  prices.USD.base  49.00 USD a month -> 59.00 USD a month",
        "not applied: this was a dry run",
    ]
    assert _plans(suite) == before


def test_the_example_of_all_prices_is_applied_and_told_in_full(restored: RunningSuite) -> None:
    before = _plans(restored)
    done = tollbook("catalog", "apply", _EXAMPLE, "--state", restored.state_dir)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "scale: new" in lines
    assert "pro: no longer sold; who has it keeps it" in lines
    assert lines[-1] == "applied; new versions of: scale"
    plans = _plans(restored)
    assert sorted(plans) == ["free", "scale"]
    assert plans["free"] == before["free"]
    assert [book.currency_code for book in plans["scale"].price_books] == ["USD", "JPY", "KWD"]
    again = tollbook("catalog", "apply", _EXAMPLE, "--state", restored.state_dir)
    assert (again.returncode, again.stdout) == (0, "nothing changed\n")
    back = tollbook("catalog", "apply", _SHIPPED, "--state", restored.state_dir)
    assert back.stdout.splitlines()[-1] == "applied; no new versions"
    assert _plans(restored) == before
