"""Stripe's lists: pages between cursors, newest first."""

import itertools
import operator
from collections.abc import Callable, Iterator

from tools.stripe_simulator.errors import parameter_invalid, resource_missing
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

PAGE_SIZE = 10
_PAGE_SIZE_MAX = 100

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def page(
    call: Call,
    kind: str,
    *,
    url: str,
    owner: str | None = None,
    keep: Callable[[StripeObject], bool] = lambda _: True,
    oldest_first: bool = False,
) -> StripeObject:
    """Reads `limit`, `starting_after` and `ending_before`, and finishes the call's parameters.

    Answers the page of objects of this kind (and owner) that `keep` lets through. `has_more` is about the
    direction of travel, as at Stripe: more after the page, or with `ending_before` more before it.
    """
    limit = _limit(call.params)
    starting_after = call.params.text("starting_after")
    ending_before = call.params.text("ending_before")
    call.params.finish()
    if starting_after and ending_before:
        message = "You may only specify one of these parameters: starting_after, ending_before."
        raise parameter_invalid("ending_before", message, code="parameters_exclusive")

    backwards = bool(ending_before)
    cursor = _cursor(call, kind, starting_after=starting_after, ending_before=ending_before)
    found: Iterator[StripeObject]
    if oldest_first != backwards:
        found = call.store.oldest_first(kind, owner=owner, after=cursor or 0)
    else:
        found = call.store.newest_first(kind, owner=owner, before=cursor)
    kept = list(itertools.islice(filter(keep, found), limit + 1))
    data = kept[:limit]
    if backwards:
        data.reverse()
    return {"object": "list", "data": data, "has_more": len(kept) > limit, "url": url}


def time_filter(params: Params, name: str) -> Callable[[int | None], bool]:
    """Reads a range of times in seconds: one moment, or any of gt, gte, lt and lte.

    Answers whether a time lies in it; no time at all does so only where no range was asked for.
    """
    if params.is_text(name):
        moment = params.integer(name)
        return lambda value: value == moment
    group = params.group(name)
    bounds = [
        (compare, bound)
        for bound_name, compare in _COMPARISONS.items()
        if group is not None and (bound := group.integer(bound_name)) is not None
    ]
    return lambda value: all(value is not None and compare(value, bound) for compare, bound in bounds)


def _limit(params: Params) -> int:
    limit = params.integer("limit")
    if limit is None:
        return PAGE_SIZE
    if not 1 <= limit <= _PAGE_SIZE_MAX:
        raise parameter_invalid("limit", f"Invalid limit: {limit} is not between 1 and {_PAGE_SIZE_MAX}.")
    return limit


def _cursor(call: Call, kind: str, *, starting_after: str | None, ending_before: str | None) -> int | None:
    param = "ending_before" if ending_before else "starting_after"
    identifier = ending_before or starting_after
    if not identifier:
        return None
    body = call.store.get(identifier)
    position = call.store.position(identifier)
    if body is None or body["object"] != kind or position is None:
        raise resource_missing(kind, identifier, param=param)
    return position
