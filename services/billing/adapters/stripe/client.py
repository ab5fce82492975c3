"""The way to Stripe: one client, at its pace, with its errors sorted and its calls keyed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import stripe
import structlog

from kit.errors import DependencyUnavailable
from services.billing.adapters.stripe.pace import Pace
from services.billing.domain.errors import CollectionRefused

log = structlog.get_logger()

TIMEOUT_SECONDS = 20
NETWORK_RETRIES = 2
PAGE_SIZE = 100
PAGES_MAX = 100
"""Of one list: ten thousand objects of one customer."""
# Stripe keeps a failure of its own under the key and answers it again; so after some attempts the key changes. Not at
# each attempt: under the same key Stripe repeats an answer that was lost on its way to us.
_ATTEMPTS_PER_KEY = 3
_CONFLICT = 409
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Missing(CollectionRefused):
    """Stripe has no such object."""


class StripeApi:
    """Stripe's API with a key of ours. Every call raises DependencyUnavailable when trying again later may help,
    Missing where an object is not there, and CollectionRefused for everything else that will not change by itself.
    """

    def __init__(
        self,
        api_key: str,
        api_base: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        pace: Pace | None = None,
    ) -> None:
        self._http = stripe.HTTPXClient(timeout=timeout_seconds)
        self._pace = pace or Pace()
        client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            http_client=self._http,
            max_network_retries=NETWORK_RETRIES,
        )
        self.v1 = client.v1

    async def __call__(self, call: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The answer to one call."""
        async with self._pace.turn():
            try:
                answer = await call(*args, **kwargs)
            except stripe.RateLimitError as error:
                self._pace.refused()
                log.warning("stripe_too_many_calls", error=str(error))
                raise DependencyUnavailable(dependency="Stripe") from error
            except stripe.StripeError as error:
                self._pace.answered()
                raise _sorted(error) from error
        self._pace.answered()
        return answer

    async def all_of(
        self, fetch: Callable[[Any], Awaitable[Any]], params: Mapping[str, Any]
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Every object of a list, over its pages: Stripe's are of ten unless asked otherwise, of a hundred at most."""
        after: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            page = await self(fetch, {**params, "limit": PAGE_SIZE, **after})
            for each in page.data:
                yield each.to_dict()
            if not page.has_more or not page.data:
                return
            after = {"starting_after": page.data[-1].id}
        raise CollectionRefused(f"more than {PAGES_MAX * PAGE_SIZE} objects in one list at Stripe")

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the one method that Stripe left untyped


def keyed(what: str, row_id: str, attempt_count: int) -> stripe.RequestOptions:
    """The idempotency key of what is done for a row of ours. Stripe forgets a key after a day and repeats a failure of
    its own under it; whoever acts at a later attempt therefore looks first at what is there.
    """
    return {"idempotency_key": f"tollbook-{what}-{row_id}-{(attempt_count - 1) // _ATTEMPTS_PER_KEY}"}


def _sorted(error: stripe.StripeError) -> Exception:
    """What trying again may cure, or what it cannot."""
    # A key that was used with other parameters is cured by the key of a later attempt, which looks first.
    permanent = isinstance(error, stripe.InvalidRequestError | stripe.CardError) and error.http_status != _CONFLICT
    if not permanent:
        log.warning("stripe_failed", error=str(error), status=error.http_status)
        return DependencyUnavailable(dependency="Stripe")
    return (Missing if error.code == "resource_missing" else CollectionRefused)(str(error))
