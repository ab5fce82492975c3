"""Create, read and list organizations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kit.clock import Clock
from kit.errors import AlreadyExists, InvalidField, LimitExceeded, OrganizationNotFound, RequestIdReused
from services.accounts.application.ports import Organizations
from services.accounts.domain import limits
from services.accounts.domain.organizations import Organization, new_organization


class CreateOrganization:
    """Makes an organization."""

    def __init__(self, organizations: Organizations, clock: Clock) -> None:
        self._organizations = organizations
        self._clock = clock

    async def __call__(
        self, *, request_id: str, organization_id: str, display_name: str, time_zone: str
    ) -> Organization:
        """The organization; repeating the request answers it again. Raises InvalidField, AlreadyExists when the id is
        taken by an organization that differs, and RequestIdReused when the id follows from a request that differs.
        """
        wanted = new_organization(
            request_id=request_id,
            organization_id=organization_id,
            display_name=display_name,
            time_zone=time_zone,
            now=self._clock.now(),
        )
        kept = await self._organizations.add(wanted)
        if replace(kept, create_time=wanted.create_time) != wanted:
            if not organization_id:
                raise RequestIdReused(request_id=request_id)
            raise AlreadyExists(what="organization", name=wanted.organization_id)
        return kept


class ReadOrganizations:
    """Reads organizations."""

    def __init__(self, organizations: Organizations) -> None:
        self._organizations = organizations

    async def get(self, organization_id: str) -> Organization:
        """The organization. Raises OrganizationNotFound."""
        organization = await self._organizations.get(organization_id)
        if organization is None:
            raise OrganizationNotFound(organization_id=organization_id)
        return organization

    async def page(self, after: str, *, size: int) -> tuple[Sequence[Organization], str]:
        """A page by id after the organization `after`, and the id to go on from (empty: the last page).
        Raises InvalidField and LimitExceeded.
        """
        if size < 0:
            raise InvalidField(field="page_size", problem="negative")
        if size > limits.PAGE_ORGANIZATIONS_MAX:
            raise LimitExceeded(what="page_size", actual=size, maximum=limits.PAGE_ORGANIZATIONS_MAX)
        count = size or limits.PAGE_ORGANIZATIONS_DEFAULT
        found = await self._organizations.list_after(after, count=count + 1)
        page = found[:count]
        return page, page[-1].organization_id if len(found) > count else ""
