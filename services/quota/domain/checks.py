"""What is asked of quota before work is done."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.enums import IdentityEnum
from kit.errors import InvalidField, LimitExceeded
from services.quota.domain.errors import InvalidQuantity
from services.quota.domain.limits import ORGANIZATION, Counter, Limit, Scope, ScopeKind
from services.quota.domain.maxima import CONSUMPTIONS_MAX, QUANTITY_MAX, RESERVE_US_MAX, RESERVE_US_MIN

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_SUBJECT_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
# All of a subject at once: one look instead of six on the path of every check.
_SUBJECT_IDS = re.compile(r"[A-Za-z0-9_.:@-]{0,128}(?: [A-Za-z0-9_.:@-]{0,128}){5}")
_DIGEST_BYTES = 16


class Mode(IdentityEnum):
    """What a check does besides answering."""

    DECIDE = "DECIDE"
    """It moves nothing."""
    RESERVE = "RESERVE"
    """It holds the quantities, and counts them within windows."""
    CONSUME = "CONSUME"
    """It counts the quantities within windows, and holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who wants to use: the organization and, as far as known, the part of it; empty means not known."""

    organization_id: str
    project_id: str = ""
    team_id: str = ""
    user_id: str = ""
    agent_id: str = ""
    task_id: str = ""
    session_id: str = ""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What it names of the tree, the widest first."""
        return (ORGANIZATION, *(Scope(kind, id_) for kind, id_ in self._parts if id_))

    @property
    def _parts(self) -> tuple[tuple[ScopeKind, str], ...]:
        return (
            (ScopeKind.PROJECT, self.project_id),
            (ScopeKind.TEAM, self.team_id),
            (ScopeKind.USER, self.user_id),
            (ScopeKind.AGENT, self.agent_id),
            (ScopeKind.TASK, self.task_id),
        )


@dataclass(frozen=True, slots=True)
class Consumption:
    """One meter and how much of it, in its base unit. None is a gate: allowed while anything is left."""

    meter: str
    quantity: int | None

    @property
    def needed(self) -> int:
        """What must be left of a limit. A gate needs one base unit and holds none."""
        return 1 if self.quantity is None else self.quantity

    @property
    def holdable(self) -> int:
        """What a reservation holds of it."""
        return self.quantity or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A question, and with RESERVE an order, about several meters at once."""

    request_id: str
    """The reservation's id, with RESERVE."""
    subject: Subject
    consumptions: tuple[Consumption, ...]
    """By meter."""
    mode: Mode
    reserve_us: int
    """How long a reservation holds, in microseconds; 0 without RESERVE."""
    owner: str = ""
    """Whose reservation it is: the id of the caller's key. It says whom to ask, and permits nothing."""
    brought: tuple[Limit, ...] = ()
    """Window limits that the check brings along: it is decided by them too, and nobody else is."""

    @property
    def organization_id(self) -> str:
        """Whose limits are asked about."""
        return self.subject.organization_id

    @property
    def counters(self) -> tuple[tuple[Counter, Consumption], ...]:
        """What it is counted under: each meter in each of the subject's scopes."""
        scopes = self.subject.scopes
        return tuple((Counter(scope, each.meter), each) for each in self.consumptions for scope in scopes)

    @property
    def counters_count(self) -> int:
        """How many `counters` has."""
        subject = self.subject
        parts = (subject.project_id, subject.team_id, subject.user_id, subject.agent_id, subject.task_id)
        return len(self.consumptions) * (1 + len(parts) - parts.count(""))

    def visible(self, parts: Sequence[str]) -> tuple[str, ...]:
        """The subject's ids of these parts. Checks of one organization and the same meters for which they are the same
        are decided by the same counters, if the parts are all that the limits are of.
        """
        subject = self.subject
        return tuple([getattr(subject, part) for part in parts])


def is_subject_id(text: str) -> bool:
    """Whether a part of a subject may be called so."""
    return _SUBJECT_ID.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Whether a request, and the reservation that it makes, may be called so."""
    return _REQUEST_ID.fullmatch(text) is not None


def validate(check: Check) -> None:
    """Raises InvalidField, LimitExceeded or InvalidQuantity unless the check is sound. Meters are looked up later."""
    if check.request_id and not is_request_id(check.request_id):
        raise InvalidField(field="request_id", problem="1 to 128 letters, digits or `_ - . :`")
    if check.mode is Mode.RESERVE:
        if not check.request_id:
            raise InvalidField(field="request_id", problem="required with CHECK_MODE_RESERVE")
        validate_reserve(check.reserve_us)
    validate_subject(check.subject)
    validate_consumptions(check.consumptions)


def validate_reserve(reserve_us: int) -> None:
    """Raises InvalidField unless something can be held so long."""
    if not RESERVE_US_MIN <= reserve_us <= RESERVE_US_MAX:
        raise InvalidField(field="reserve_duration", problem="not in 1 second to 24 hours")


def validate_subject(subject: Subject) -> None:
    """Raises InvalidField unless every part that is named may be called so."""
    parts = (
        f"{subject.project_id} {subject.team_id} {subject.user_id} {subject.agent_id} {subject.task_id}"
        f" {subject.session_id}"
    )
    if _SUBJECT_IDS.fullmatch(parts):
        return
    for name in ("project_id", "team_id", "user_id", "agent_id", "task_id", "session_id"):
        value = getattr(subject, name)
        if value and not is_subject_id(value):
            raise InvalidField(field=f"subject.{name}", problem="1 to 128 letters, digits or `_ - . : @`")


def validate_consumptions(consumptions: tuple[Consumption, ...]) -> None:
    """Raises InvalidField, LimitExceeded or InvalidQuantity unless there are some, each of another meter."""
    if not consumptions:
        raise InvalidField(field="consumptions", problem="at least one is needed")
    if len(consumptions) > CONSUMPTIONS_MAX:
        raise LimitExceeded(what="consumptions", actual=len(consumptions), maximum=CONSUMPTIONS_MAX)
    seen: set[str] = set()
    for consumption in consumptions:
        if consumption.meter in seen:
            raise InvalidField(field="consumptions", problem=f"meter {consumption.meter[:128]!r} appears twice")
        seen.add(consumption.meter)
        if consumption.quantity is not None and not 0 <= consumption.quantity <= QUANTITY_MAX:
            raise InvalidQuantity(quantity=consumption.quantity, meter=consumption.meter[:128])


@dataclass(frozen=True, slots=True)
class Applied:
    """A limit, and the counter that it compares for one subject."""

    limit: Limit
    counter: Counter


def matching(limits: Iterable[Limit], check: Check) -> tuple[Applied, ...]:
    """The limits that apply to the check, because it consumes their meter and its subject is of their scope, in the
    order they are reported.
    """
    meters = {consumption.meter for consumption in check.consumptions}
    scopes = {scope.kind: scope for scope in check.subject.scopes}
    applied = [
        Applied(limit, Counter(scope, limit.meter))
        for limit in (*limits, *check.brought)
        if limit.meter in meters and (scope := limit.scope.covered(scopes)) is not None
    ]
    return tuple(sorted(applied, key=lambda each: each.limit.order))


def require_plain_consumptions(checks: Iterable[Check]) -> None:
    """Raises AssertionError unless each is a consumption that leaves no record: no other is taken back together."""
    if any(check.mode is not Mode.CONSUME or check.request_id for check in checks):
        raise AssertionError("only consumptions without an id can be decided all or none")


def content_digest(check: Check) -> str:
    """128 bits of everything but the request_id, by which a retry is known from a request_id used twice."""
    subject = check.subject
    fields = (
        *(subject.organization_id, subject.project_id, subject.team_id, subject.user_id, subject.agent_id),
        *(subject.task_id, subject.session_id, check.mode.value, check.reserve_us),
        *[value for each in check.consumptions for value in (each.meter, each.quantity)],
    )
    # Texts are quoted and escaped in it, so no two different checks share their text.
    return hashlib.blake2b(repr(fields).encode(), digest_size=_DIGEST_BYTES).hexdigest()
