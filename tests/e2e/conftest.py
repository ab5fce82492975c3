from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.running_suite import RunningSuite, Tenant, running_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """The whole suite, up; started once, since that takes the longest."""
    with running_suite(tmp_path_factory.mktemp("suite") / "state") as running:
        yield running


@pytest.fixture
def tenant(suite: RunningSuite) -> Tenant:
    """A new organization on the plan free, and its key."""
    return suite.new_tenant()
