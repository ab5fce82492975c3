from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import RoleUrls
from tests.metering_process import Site, serving_accounts


@pytest.fixture
async def site(tmp_path: Path, migrated: Callable[[str], RoleUrls]) -> AsyncIterator[Site]:
    """What a metering process needs, on the Postgres of the whole run."""
    async with serving_accounts() as accounts_address:
        yield Site(urls=migrated("metering"), accounts_address=accounts_address, log_path=tmp_path / "metering.log")


@pytest.fixture
def organization_id() -> str:
    """An organization that no other test uses."""
    return f"org-{uuid4().hex}"
