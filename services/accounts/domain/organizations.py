"""Organizations: the customers of the platform."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import available_timezones

from kit.errors import InvalidField
from kit.ids import ORGANIZATION_ID_RULE, is_organization_id
from services.accounts.domain import limits

_TIME_ZONES = available_timezones()


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A customer of the platform."""

    organization_id: str
    display_name: str
    time_zone: str
    create_time: datetime


def new_organization(
    *, request_id: str, organization_id: str, display_name: str, time_zone: str, now: datetime
) -> Organization:
    """A sound organization. Without an id it gets one that follows from the request_id, so that a retry names the
    same organization. Raises InvalidField.
    """
    check_request_id(request_id)
    if organization_id and not is_organization_id(organization_id):
        raise InvalidField(field="organization.organization_id", problem=ORGANIZATION_ID_RULE)
    if not display_name.isprintable() or len(display_name.encode()) > limits.NAME_BYTES_MAX:
        problem = f"at most {limits.NAME_BYTES_MAX} bytes of printable text"
        raise InvalidField(field="organization.display_name", problem=problem)
    if time_zone and time_zone not in _TIME_ZONES:
        raise InvalidField(field="organization.time_zone", problem=f"{time_zone!r} is not an IANA time zone")
    return Organization(
        organization_id=organization_id or f"org_{digest_of(request_id)[:20]}",
        display_name=display_name,
        time_zone=time_zone or "UTC",
        create_time=now,
    )


def check_request_id(request_id: str) -> None:
    """Raises InvalidField unless it is 1 to 128 bytes of printable text."""
    if not request_id or not request_id.isprintable() or len(request_id.encode()) > limits.REQUEST_ID_BYTES_MAX:
        problem = f"required: 1 to {limits.REQUEST_ID_BYTES_MAX} bytes of printable text"
        raise InvalidField(field="request_id", problem=problem)


def digest_of(*parts: str) -> str:
    """A hex digest of a list of texts; no two different lists share their bytes."""
    encoded = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hashlib.sha256(encoded).hexdigest()
