"""Set a limit of an organization's own."""

from __future__ import annotations

import secrets
from dataclasses import replace

from kit.errors import InvalidField
from services.quota.application.ports import ChangeRequest, LimitRecord, MeterCatalog
from services.quota.application.put_in_force import PutInForce
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.limits import Limit
from services.quota.domain.own_limits import require_request_id, require_sound


class SetLimit:
    """Creates or replaces a limit."""

    def __init__(self, record: LimitRecord, meters: MeterCatalog, put_in_force: PutInForce) -> None:
        self._record = record
        self._meters = meters
        self._put_in_force = put_in_force

    async def __call__(self, organization_id: str, limit: Limit, request: ChangeRequest) -> Limit:
        """The limit, with the id that it was given if it had none; in force everywhere. The same request again answers
        the same and changes nothing. Raises InvalidField, UnknownMeter, LimitExceeded, RequestIdReused, and
        DependencyUnavailable: the same request again does what is left.
        """
        require_request_id(request.request_id)
        named = replace(limit, limit_id=limit.limit_id or f"lim_{secrets.token_hex(8)}")
        require_sound(named)
        for meter in await self._meters.unknown([named.meter]):
            raise UnknownMeter(meter=meter[:128])
        if named.meter not in await self._meters.measured([named.meter]):
            problem = "takes its value from provider calls, which quota does not count"
            raise InvalidField(field="limit.meter", problem=problem)
        recorded = await self._record.set(organization_id, named, request)
        await self._put_in_force(organization_id)
        return recorded
