"""What the use cases of quota need of the world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kit.errors import DependencyUnavailable, RequestIdReused
from kit.feed import Feed, Position
from services.quota.domain.checks import Check
from services.quota.domain.decisions import Decision
from services.quota.domain.entitlements import Entitlement, Period
from services.quota.domain.limits import Counter, LevelMeter, Limit, Usage
from services.quota.domain.reservations import Settlement
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import Tally, UsageEntry
from services.quota.domain.windows import WindowCounter


class StoreUnavailable(DependencyUnavailable):
    """{dependency} cannot be reached now; nothing was changed that a retry with the same ids would repeat."""


class CountersMissing(Exception):
    """Nothing usable is counted for these terms: the store was lost in whole or part, the period is a new one, or a
    limit looks at a level that was not counted so far.
    """


class CountersBehind(Exception):
    """The counters include less of the ledger than they were seen to: the store was taken back to an earlier state, or
    the ledger was.
    """


class TermsOutdated(Exception):
    """The terms that were sent are not those that the store keeps, or their period is over."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a check holds, and until when (Unix microseconds)."""

    reservation_id: str
    expire_us: int


@dataclass(frozen=True, slots=True)
class Instant:
    """When the store was asked, by the store's own clock, and when its next reservation of the organization ends."""

    now_us: int
    next_expiry_us: int | None

    @property
    def expiry_is_due(self) -> bool:
        """Whether a reservation's time has passed and its hold is still counted."""
        return self.next_expiry_us is not None and self.next_expiry_us <= self.now_us


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check is answered."""

    decision: Decision
    reservation: Reservation | None
    entitlement_version: int
    period: Period
    applied_sequence: int
    decided_us: int
    """When it was decided; for a repeated answer, when the first was."""
    instant: Instant
    degraded: bool = False
    """Whether it was decided without the store, by policy; then its counters are as last seen, and its times those of
    the process.
    """


@dataclass(frozen=True, slots=True)
class Grant:
    """What was allowed while the store was away: at least so much, to be held for what is left of its time."""

    check: Check
    """With RESERVE."""
    digest: str
    """Of what was asked with its request_id first; empty when that is not known: any retry gets the answer."""


@dataclass(frozen=True, slots=True)
class Extended:
    """What an extension is answered."""

    answer: Answer
    """As of a check for what the hold grows by."""
    restored: bool
    """Whether the reservation was made anew."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit is answered."""

    settlement: Settlement
    instant: Instant


@dataclass(frozen=True, slots=True)
class Rate:
    """What a window holds, and when all of it will have left (None: it is empty)."""

    quantity: int
    empty_us: int | None


@dataclass(frozen=True, slots=True)
class Readings:
    """What counters and windows say; counters at 0 may be left out."""

    usage: Mapping[Counter, Usage]
    rates: Mapping[WindowCounter, Rate]
    applied_sequence: int
    instant: Instant


@dataclass(frozen=True, slots=True)
class CounterState:
    """What an organization's counters are: an incarnation, the position of the ledger they include, the period, and
    of which levels below the organization which meters are counted.
    """

    epoch: str
    position: Position
    period: Period
    tracked: frozenset[LevelMeter] = frozenset()


@dataclass(frozen=True, slots=True)
class Overrun:
    """How many reservations a page of usage went beyond, or came after the end of."""

    beyond_count: int
    after_count: int


@dataclass(frozen=True, slots=True)
class Freed:
    """What became of reservations whose time had passed."""

    freed_count: int
    unmatched_count: int
    """Of those: committed, and not drawn in whole within the time to settle."""
    waiting_count: int
    """Due, but the counters have not yet reached the head that was seen."""
    instant: Instant


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals of a period, and the position of the ledger that they include."""

    used: Mapping[Counter, int]
    position: Position
    incomplete: Collection[LevelMeter] = ()
    """Of which there were too many totals: the smallest are missing."""


class Decides(Protocol):
    """Decides one check."""

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """Decides by `decide` and moves what is allowed (RESERVE holds and admits, CONSUME admits), in one atomic step.

        A hold belongs to its meter's counters of every scope of the subject, whether or not a limit applies. A denied
        check changes nothing. The request_id of a reservation that is open, or ended within the last hour, and that of
        a consumption of the last ten minutes, gets its first answer again, and changes nothing; RequestIdReused when
        the content differs. Otherwise raises TermsOutdated when the store keeps other terms or none, or its own clock
        is past the period (unless period_confirmed), and CountersMissing when there are no counters of the period, or
        of a level that a limit of the check looks at, and CountersBehind when less of the ledger is applied than a
        check or read of this process has seen, until `trust`. Raises StoreUnavailable when the store does not answer in
        time: the same check again finds out what happened.
        """
        ...


class Begins(Decides, Protocol):
    """Decides one check, and can be asked without being waited for."""

    def begin(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer | asyncio.Future[Answer]:
        """As `check`: the answer where it is at hand, else the future of it, which fails as `check` raises. Raises
        StoreUnavailable at once when the store is known to be away.
        """
        ...


class Repeats(Begins, Protocol):
    """Decides one check, and knows which answers can be given again."""

    def repeatable(self, check: Check, terms: Terms, answer: Answer) -> Callable[[], bool] | None:
        """Whether the answer that a check was given may be given again to the very same question, whatever its
        request_id. None: no. Else what says whether it still may, as long as the terms are the same.
        """
        ...


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """Checks of one organization that are decided by the same terms."""

    checks: Sequence[Check]
    terms: Terms
    period_confirmed: bool = field(default=False, kw_only=True)


class Counters(Decides, Protocol):
    """Decides and holds."""

    def refuse_while_away(self) -> None:
        """Raises StoreUnavailable when a check would be refused unasked, because the store is known to be away."""
        ...

    def trust(self, organization_id: str) -> None:
        """Takes the counters for what they are: they were followed up, and what was seen before no longer counts."""
        ...

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        """Many checks of one organization in one atomic step, decided one after the other as `check` would; each sees
        what those before it moved. Raises as `check`, for all of them.
        """
        ...

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        """Of each group, each of another organization, what `check_many` answers or raises: what is wrong with one says
        nothing of another. In one call where the store keeps them together. Raises StoreUnavailable for all of them.
        """
        ...

    async def check_all(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """Consumptions of one organization without ids, in one atomic step, all or none: as `decide_all` says. Raises
        as `check`.
        """
        ...

    async def read(
        self,
        terms: Terms,
        counters: Sequence[Counter],
        windows: Sequence[WindowCounter] = (),
        *,
        period_confirmed: bool = False,
    ) -> Readings:
        """What the counters and windows say, in one atomic step. Raises as `check`."""
        ...


class Reservations(Protocol):
    """Keeps, settles and ends what a check has reserved."""

    async def extend(self, target: Check, terms: Terms, *, period_confirmed: bool = False) -> Extended:
        """Holds at least the target from now on, for its `reserve_us`, in one atomic step: the open reservation of its
        request_id grows by what is missing, which is decided by `decide` with `growth_only`, and is admitted
        to windows. A target without consumptions grows nothing. Denied: nothing changes.

        One that is not known, or ended by time, is made anew as a check with RESERVE makes it, but holds the whole
        target, whatever events have drawn before; what they drew counts when it is committed. NotFound without
        consumptions. Raises ReservationEnded for one that is committed, released or ended otherwise, RequestIdReused
        when the subject is of other scopes, and as `Counters.check`.
        """
        ...

    async def register(
        self, grants: Sequence[Grant], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """Holds what was granted, in one atomic step, whatever the limits and the standing say; a retry of the request
        gets an answer that allows. What was drawn by usage that came before is not held again. An open reservation that
        is known holds what the grant is beyond what it was last granted, and lasts for the longer of both times; by
        another subject's grant it does not grow. One that ended by time is made anew, one that ended otherwise stays
        ended. Windows admit nothing: what was granted belongs to a time that is over. Without grants it changes
        nothing. Answers those that were made or grew, with the counters as they are now. Raises as `Counters.check`.
        """
        ...

    async def commit(self, organization_id: str, reservation_id: str, actuals: Mapping[str, int]) -> Committed:
        """Trims what is held to what `settle` keeps, in one atomic step, and gives usage a day to draw it; ends what
        holds nothing then. Again: the same. One that ended holds nothing. Raises NotFound and DependencyUnavailable.
        """
        ...

    async def release(self, organization_id: str, reservation_id: str) -> bool:
        """Makes the reservation due now. Whether it holds nothing any more. Again: the same. Raises NotFound and
        DependencyUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """The members of a level, by what they use of a meter and hold, or hold alone."""

    of: LevelMeter
    held_alone: bool = False


class Members(Protocol):
    """Knows whose counters there are."""

    async def rank(
        self, organization_id: str, period: Period, rankings: Collection[Ranking], *, at_most: int
    ) -> Mapping[Ranking, Sequence[str]]:
        """Of each ranking the ids of those that used or hold something, most first and equals by id; at most so many.

        What of counters changes meanwhile may be seen or not. Of more than 100 000 counters some are not found. Raises
        DependencyUnavailable.
        """
        ...


class CounterUpkeep(Protocol):
    """Keeps counters in step with the ledger."""

    async def state(self, organization_id: str) -> CounterState | None:
        """What is kept; None when nothing is."""
        ...

    async def reset(
        self,
        entitlement: Entitlement,
        *,
        expected: CounterState | None,
        position: Position,
        used: Mapping[Counter, int],
        tracked: frozenset[LevelMeter] = frozenset(),
        force: bool = False,
    ) -> bool:
        """Sets what was used in the entitlement's period, as of a position, and what is tracked, in one atomic step.

        Only if the state is still as expected and the entitlement is the one kept, and (unless force) only if they are
        not whole, or are of another position, period or tracked; else False, and nothing changes.
        What open reservations hold stays, unless their state was lost: then a new epoch begins, in which nothing is
        held and no earlier reservation is known.
        """
        ...

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        """Counts a page of the ledger and moves to its end, in one atomic step, if the state is as expected; else
        None, and nothing changes. A counter goes no lower than 0, whatever is taken back. A reservation named is drawn
        down: held loses what used gains, at most what the reservation still holds; a final draw frees the rest and ends
        it. Raises CountersMissing when a part of the state was lost; nothing changes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Holds:
    """What counters hold, and what the open reservations hold together; those at 0 may be left out."""

    kept: Mapping[Counter, int]
    by_reservations: Mapping[Counter, int]


@dataclass(frozen=True, slots=True)
class Recount:
    """Counters as they are, in one look."""

    state: CounterState
    used: Mapping[Counter, int]
    used_is_sample: bool
    """Whether there are more than AUDITED_COUNTERS_MAX, and these are some of them, drawn at random."""
    held: Holds | None
    """None when more than AUDITED_COUNTERS_MAX reservations are open, when they hold under more than AUDITED_HOLDS_MAX
    counters, or when they came, went and changed too fast.
    """


class CounterAudit(Protocol):
    """Shows counters to be checked."""

    async def recount(self, organization_id: str, *, repair_held: bool = False) -> Recount | None:
        """What is kept; None when nothing is. Raises CountersMissing when a part of it was lost. repair_held: makes
        what is held what the open reservations hold, if that could be added up, and if the counters that it sets did
        not move meanwhile.
        """
        ...


class Expiries(Protocol):
    """Ends reservations whose time has passed."""

    async def due(self, organization_id: str) -> Sequence[str]:
        """The ids of open reservations whose time has passed by the store's clock, oldest first; a limited number."""
        ...

    async def free(self, organization_id: str, reservation_ids: Sequence[str], *, head_sequence: int) -> Freed:
        """Ends those of the reservations that are due and open, in one atomic step.

        The first call notes the ledger head on each. A hold is freed once the applied position has reached the head
        noted, or the head given now when that is lower (the log was rewound); until then it waits.
        """
        ...


@dataclass(frozen=True, slots=True)
class InForce:
    """An entitlement, and how far billing's log of the organization reached when it was read. The log has other entries
    too, so this may be further than the entitlement's version.
    """

    entitlement: Entitlement
    position: Position


class EntitlementShelf(Protocol):
    """Keeps the entitlement that is in force, beside the counters."""

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        """What is kept; None when nothing is."""
        ...

    async def read_up_to(self, organization_id: str) -> Position | None:
        """The furthest position of billing's log at which an entitlement was put; None when nothing is kept."""
        ...

    async def put(self, found: InForce) -> Entitlement:
        """Keeps the entitlement if it supersedes what is kept, and the position if it is further and the version no
        lower than the one kept. Answers what is kept afterwards. Atomic.
        """
        ...

    async def replace(self, found: InForce, *, expected: Position) -> bool:
        """Keeps the entitlement and the position whatever is kept, in one atomic step, if the furthest position is
        still as expected; else False, and nothing changes. For a log that was rewound, whose versions count anew.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of an organization's terms; None: nothing."""

    entitlement: Entitlement | None
    own: OwnLimits | None


class LimitShelf(Protocol):
    """Keeps the limits of an organization's own that are in force, beside the counters."""

    async def limits_position(self, organization_id: str) -> Position | None:
        """The position of quota's change log that those kept are of; None when none are kept."""
        ...

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        """Keeps the limits if they are of a later entry than those kept. Answers what is kept afterwards. Atomic, and
        for a while also when no entitlement is kept.
        """
        ...

    async def replace_limits(self, own: OwnLimits, *, expected: Position) -> bool:
        """Keeps the limits whatever is kept, in one atomic step, if those kept are still of the expected position; else
        False, and nothing changes. For a log that was rewound.
        """
        ...


class TermsShelf(EntitlementShelf, LimitShelf, Protocol):
    """Keeps both parts of the terms."""

    async def kept(self, organization_id: str) -> Kept:
        """Both, in one look."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """Who asks for a change of limits, and under which id."""

    request_id: str
    digest: bytes
    """Of the whole request: the same id with another digest is a mistake of the caller."""
    actor: str


class LimitRecord(Protocol):
    """The record of the limits that organizations set. Changes of one organization take turns; each is an entry of the
    change log, in the transaction of its effect, that says what it was before, what it is now and who did it.
    """

    async def own_limits(self, organization_id: str) -> OwnLimits:
        """The limits as of the log's head, in one look. Raises DependencyUnavailable."""
        ...

    async def set(self, organization_id: str, limit: Limit, request: ChangeRequest) -> Limit:
        """Creates the limit, or replaces the one with its id. The same request again, within REQUESTS_REMEMBERED_DAYS
        and unless REQUESTS_REMEMBERED_MAX came since, changes nothing, and answers the limit as it was set then. Raises
        RequestIdReused, LimitExceeded (as domain.own_limits.require_room says) and DependencyUnavailable when the
        outcome is unknown: the same request again resolves it.
        """
        ...

    async def delete(self, organization_id: str, limit_id: str, request: ChangeRequest) -> None:
        """Removes the limit. The same request again changes nothing. Raises RequestIdReused, NotFound and
        DependencyUnavailable.
        """
        ...


class EntitlementSource(Protocol):
    """Knows what each organization is entitled to now."""

    async def in_force(self, organization_id: str) -> InForce:
        """The entitlement with the period that is current. Raises DependencyUnavailable."""
        ...


class Ledger(Feed[UsageEntry], Protocol):
    """The usage ledger of metering."""

    async def snapshot(
        self,
        organization_id: str,
        period: Period,
        tracked: Collection[LevelMeter] = (),
        *,
        as_of_sequence: int | None = None,
    ) -> Snapshot:
        """Totals of a period of event time, of each member of a tracked level too, up to an entry (None, or beyond the
        head: the head), and its position, in one look. Raises DependencyUnavailable.
        """
        ...

    async def head(self, organization_id: str) -> Position:
        """How far the ledger reaches now. Raises DependencyUnavailable."""
        ...


class MeterCatalog(Protocol):
    """Knows the meters."""

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """Those of the names that are no meters, by a list that is a few seconds old at most while metering can be
        reached, and the last one seen while it cannot. Raises DependencyUnavailable when none was ever seen.
        """
        ...

    def are_known(self, names: Collection[str]) -> bool:
        """Whether all of the names are meters by a list that is at hand and young enough; False: ask `unknown`."""
        ...

    async def measured(self, names: Collection[str]) -> Collection[str]:
        """Those of the names that are meters of measurements, which alone quota counts; by the same list."""
        ...
