"""Quota's service over a house of tests: what every test of its contract serves."""

from __future__ import annotations

from services.quota.rpc.quota_servicer import QuotaServicer
from tests.unit.quota.house import House


def servicer_of(house: House) -> QuotaServicer:
    """The servicer; of organizations there is `acme` alone."""

    async def exists(organization_id: str) -> bool:
        return organization_id == "acme"

    return QuotaServicer(
        check_quota=house.check,
        list_quotas=house.list,
        extend_reservation=house.extend,
        commit_reservation=house.commit,
        release_reservation=house.release,
        set_limit=house.set_limit,
        list_limits=house.list_limits,
        delete_limit=house.delete_limit,
        exists=exists,
    )
