from __future__ import annotations

import pytest

from kit.errors import InvalidField, InvalidState
from services.billing.domain.return_urls import require_return_url, return_hosts

HOSTS = return_hosts("app.example.com, LOCALHOST:3000 ,[::1]:8080,")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.com",
        "https://app.example.com/billing?session={CHECKOUT_SESSION_ID}#done",
        "https://APP.example.com/",
        "http://localhost:3000/billing",
        "http://[::1]:8080/",
    ],
)
def test_a_url_of_an_allowed_host_is_good(url: str) -> None:
    require_return_url("success_url", url, HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/billing",
        "//app.example.com/",
        "http://app.example.com/",
        "https://evil.example/",
        "https://app.example.com.evil.example/",
        "https://evil.example/?x=app.example.com",
        "https://app.example.com@evil.example/",
        "https://evil.example#@app.example.com/",
        "https://user:password@app.example.com/",
        "https://app.example.com:444/",
        "https://app.example.com\\@evil.example/",
        "https:\\\\app.example.com/",
        "https://app.example.com/\nx",
        "https://app.example.com/ x",
        "https://äpp.example.com/",
        "javascript:alert(1)//app.example.com",
        "data:text/html,app.example.com",
        "ftp://app.example.com/",
        "https://[::1/",
        "https://app.example.com:port/",
        "https://app.example.com/" + "a" * 2048,
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidField, match="success_url"):
        require_return_url("success_url", url, HOSTS)


def test_without_a_configured_host_there_is_nowhere_to_come_back_to() -> None:
    with pytest.raises(InvalidState, match="TOLLBOOK_RETURN_HOSTS"):
        require_return_url("success_url", "https://app.example.com/", return_hosts(""))
