"""The bytes under which an organization is kept. A change of them is a loss of every counter and hold."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from kit.errors import InvalidField
from services.quota.adapters.redis_counters.keys import counter_field, keys_of
from services.quota.domain.entitlements import Period
from tests.unit.quota.samples import MINUTES, counter


def test_the_bytes_of_every_key() -> None:
    keys = keys_of("acme-1")
    assert [
        keys.entitlement,
        keys.state,
        keys.used(Period(1_767_225_600_000_000, 1_769_904_000_000_000)),
        keys.held,
        keys.expiries,
        keys.tombstones,
        keys.staged("ab12"),
        keys.reservation("task:42"),
    ] == [
        "quota:{acme-1}:entitlement",
        "quota:{acme-1}:state",
        "quota:{acme-1}:used:1767225600000000",
        "quota:{acme-1}:held",
        "quota:{acme-1}:expiries",
        "quota:{acme-1}:tombstones",
        "quota:{acme-1}:staged:ab12",
        "quota:{acme-1}:reservation:task:42",
    ]


def test_the_bytes_of_a_counter() -> None:
    assert counter_field(counter(MINUTES)) == "organization||agent_minutes"


def test_all_keys_of_an_organization_are_in_one_slot() -> None:
    keys = keys_of("acme-1")
    names = [keys.entitlement, keys.state, keys.used(Period(1, 2)), keys.held, keys.expiries, keys.reservation("r:{x}")]
    names += [keys.tombstones, keys.staged("ab12")]
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"acme-1")}


@pytest.mark.parametrize("organization_id", ["", "a}b", "a{b", "a:b", "A", "a" * 65])
def test_what_could_leave_its_slot_or_share_a_key_is_no_organization(organization_id: str) -> None:
    with pytest.raises(InvalidField):
        keys_of(organization_id)
