"""Where Stripe's pages may send a customer back to: nowhere but to hosts that the operator named.

Otherwise a link of ours could lead, by way of Stripe's page, anywhere (an open redirect).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from kit.errors import InvalidField, InvalidState
from services.billing.domain import limits

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def return_hosts(text: str) -> frozenset[str]:
    """The hosts of the setting, such as `app.example.com,localhost:3000`."""
    return frozenset(host for part in text.split(",") if (host := part.strip().lower()))


def require_return_url(field: str, url: str, hosts: Collection[str]) -> None:
    """Raises InvalidField unless it is a URL of one of the hosts: https, or http on loopback; no credentials in it, and
    nothing that browsers read otherwise than we do. Raises InvalidState when no host was named at all.
    """
    if not hosts:
        raise InvalidState(problem="No host to come back to is configured: set TOLLBOOK_RETURN_HOSTS.")
    if not 1 <= len(url.encode()) <= limits.RETURN_URL_BYTES_MAX:
        raise InvalidField(field=field, problem=f"1 to {limits.RETURN_URL_BYTES_MAX} bytes")
    # A backslash is a slash to browsers, and white space is left out by some of them.
    if not url.isascii() or not url.isprintable() or any(each in url for each in ' \\"<>'):
        raise InvalidField(field=field, problem="characters that a URL has not")
    try:
        parts = urlsplit(url)
        place = parts.netloc.lower()
        name = place.rpartition(":")[0] if parts.port is not None else place
    except ValueError:
        raise InvalidField(field=field, problem="not a URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and name in _LOOPBACK):
        raise InvalidField(field=field, problem="not https")
    if place not in hosts:
        raise InvalidField(field=field, problem="not on a host that TOLLBOOK_RETURN_HOSTS names")
