from __future__ import annotations

import pytest

from cli.suite.errors import Refused
from cli.suite.outside import require_postgres, require_redis


@pytest.mark.parametrize(
    "url",
    [
        "postgres//owner:hunter2@db/tollbook",
        "postgresql://owner:hunter2 hunter2@db/tollbook",
        "postgresql://owner:hunter2%zz@db/tollbook",
    ],
)
async def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Refused, match="TOLLBOOK_POSTGRES_URL") as refused:
        await require_postgres(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis//:hunter2@db", "redis://:hunter2#2@db:1/0", "redis://:x@db:hunter2/0"])
async def test_a_redis_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Refused, match="TOLLBOOK_REDIS_URL") as refused:
        await require_redis(url)
    assert "hunter2" not in str(refused.value)
