"""What may enter the ledger through a door: in whose name a caller speaks, event by event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kit.errors import InvalidField, OrganizationNotFound, OrganizationRequired
from kit.grpc.call import CallerKind, OrganizationExists, current_principal, organization_of
from services.metering.domain.acceptance import Outcome, Status
from services.metering.domain.events import UsageEvent
from services.metering.domain.refusals import Refusal
from services.metering.domain.sources import is_anothers, is_reserved
from services.metering.rpc.convert import event_from_pb
from tollbook.metering.v1 import metering_pb2


@dataclass(frozen=True, slots=True)
class Admitted:
    """A batch of which the events are known that the caller may not send."""

    events: list[UsageEvent]
    """The others, in order."""
    refused: Mapping[int, Outcome]
    """What becomes of those that the caller may not send, by their places."""

    def outcomes(self, of_events: Iterable[Outcome]) -> list[Outcome]:
        """The outcome of each event of the batch, in order, given those of the admitted ones."""
        remaining = iter(of_events)
        count = len(self.events) + len(self.refused)
        return [self.refused[index] if index in self.refused else next(remaining) for index in range(count)]


async def admit(
    messages: Sequence[metering_pb2.UsageEvent], *, is_backfill: bool, exists: OrganizationExists
) -> Admitted:
    """The events of a batch, each for the organization that the call may act on. Raises OrganizationMismatch, and
    OrganizationNotFound when the batch names no organization that there is.
    """
    organizations = await _organizations({message.subject.organization_id for message in messages}, exists)
    events: list[UsageEvent] = []
    refused: dict[int, Outcome] = {}
    caller = current_principal()
    service = caller.name if caller.kind is CallerKind.SERVICE else None
    for index, message in enumerate(messages):
        organization_id = organizations[message.subject.organization_id]
        target = message.reversal_of.source
        if organization_id is None:
            refused[index] = _UNKNOWN_ORGANIZATION
        elif is_reserved(message.source, service=service) or is_anothers(target, service=service):
            refused[index] = _SPOOFED
        else:
            events.append(event_from_pb(message, organization_id, is_backfill=is_backfill))
    return Admitted(events, refused)


async def _organizations(names: Iterable[str], exists: OrganizationExists) -> dict[str, str | None]:
    """The organization that each name stands for; None: there is no such organization. One that is malformed or missing
    stays as it is and is refused with its event.
    """
    found: dict[str, str | None] = {}
    for named in names:
        try:
            found[named] = await organization_of(named, exists=exists)
        except (OrganizationRequired, InvalidField):
            found[named] = named
        except OrganizationNotFound:
            found[named] = None
    if set(found.values()) == {None}:
        raise OrganizationNotFound(organization_id=min(found))
    return found


_SPOOFED = Outcome(Status.REJECTED, refusal=Refusal("INVALID_FIELD", "source: reserved for a service of the suite"))
_UNKNOWN_ORGANIZATION = Outcome(
    Status.REJECTED, refusal=Refusal("ORGANIZATION_NOT_FOUND", "subject.organization_id: there is no such organization")
)
