"""The keys and fields of an organization. Their bytes are pinned by a test: a change of them is a loss of the store."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from kit.errors import InvalidField
from kit.ids import is_organization_id
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import Counter, LevelMeter, Scope, ScopeKind
from services.quota.domain.windows import WindowCounter

# No braces, or an organization could choose its slot; no colons, or two could share a key.


class OrganizationKeys:
    """The keys of one organization. The braces make Redis Cluster hash the organization alone."""

    __slots__ = ("_prefix", "entitlement", "expiries", "held", "state", "tombstones")

    def __init__(self, organization_id: str) -> None:
        if not is_organization_id(organization_id):
            raise InvalidField(field="organization_id", problem="1 to 64 lower-case letters, digits, `_` or `-`")
        self._prefix = f"quota:{{{organization_id}}}"
        self.entitlement = f"{self._prefix}:entitlement"
        self.state = f"{self._prefix}:state"
        self.held = f"{self._prefix}:held"
        self.expiries = f"{self._prefix}:expiries"
        self.tombstones = f"{self._prefix}:tombstones"

    def used(self, period: Period) -> str:
        """What was used in a period."""
        return f"{self._prefix}:used:{period.start_us}"

    def staged(self, token: str) -> str:
        """What is to become `used`, while it is written."""
        return f"{self._prefix}:staged:{token}"

    def window(self, counter: WindowCounter) -> str:
        """What was admitted within a window: the quantity by number of slot."""
        window = counter.window
        return f"{self._prefix}:window:{window.slot_us}:{window.slots_counted}:{counter_field(counter.counter)}"

    def reservation(self, reservation_id: str) -> str:
        """One reservation, or one consumption that was made with a request_id."""
        return f"{self._prefix}:reservation:{reservation_id}"


@lru_cache(maxsize=10_000)
def keys_of(organization_id: str) -> OrganizationKeys:
    """The keys of an organization. Raises InvalidField for an id that is none."""
    return OrganizationKeys(organization_id)


@lru_cache(maxsize=10_000)
def counter_field(counter: Counter) -> str:
    """The field of a counter in `used` and `held`.

    Neither a kind nor an id contains a bar, so a meter may contain anything.
    """
    return scope_prefix(counter.scope) + counter.meter


def scope_prefix(scope: Scope) -> str:
    """What the fields of all counters of a scope begin with."""
    return f"{scope.kind.value}|{scope.id}|"


def counter_from_field(field: str) -> Counter:
    """The counter of a field."""
    kind, scope_id, meter = field.split("|", 2)
    return Counter(Scope(ScopeKind(kind), scope_id), meter)


def level_field(tracked: LevelMeter) -> str:
    """A level and a meter, as the scripts look for them among what is tracked."""
    return f"{tracked.level.value}|{tracked.meter}"


def tracked_to_text(tracked: Collection[LevelMeter]) -> str:
    """What is tracked, one to a line, with a newline before and after each: equal for equal sets."""
    return "".join(f"\n{field}" for field in sorted(map(level_field, tracked))) + "\n"


def tracked_from_text(text: str) -> frozenset[LevelMeter]:
    """The same again."""
    pairs = (line.split("|", 1) for line in text.split())
    return frozenset(LevelMeter(ScopeKind(level), meter) for level, meter in pairs)
