"""Delete a limit of an organization's own."""

from __future__ import annotations

from services.quota.application.ports import ChangeRequest, LimitRecord
from services.quota.application.put_in_force import PutInForce
from services.quota.domain.own_limits import require_own_id, require_request_id


class DeleteLimit:
    """Removes a limit."""

    def __init__(self, record: LimitRecord, put_in_force: PutInForce) -> None:
        self._record = record
        self._put_in_force = put_in_force

    async def __call__(self, organization_id: str, limit_id: str, request: ChangeRequest) -> None:
        """Out of force everywhere when it returns. Raises InvalidField, NotFound, RequestIdReused, and
        DependencyUnavailable: the same request again does what is left.
        """
        require_request_id(request.request_id)
        require_own_id(limit_id)
        await self._record.delete(organization_id, limit_id, request)
        await self._put_in_force(organization_id)
