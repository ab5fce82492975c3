from __future__ import annotations

import pytest

from kit.redis.cluster import is_cluster, node_url


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_cluster_is_named_by_any_of_its_nodes(scheme: str) -> None:
    assert is_cluster(f"{scheme}+cluster://:secret@node:7000")
    assert node_url(f"{scheme}+cluster://:secret@node:7000") == f"{scheme}://:secret@node:7000"


@pytest.mark.parametrize("url", ["redis://:secret@node:6379/0", "rediss://node", "unix:///run/redis"])
def test_any_other_url_names_one_server(url: str) -> None:
    assert not is_cluster(url)
    assert node_url(url) == url
