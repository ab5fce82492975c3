"""WatchQuotas: who may watch, and what each watcher is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from kit.grpc.call import OrganizationExists, admit_again, organization_of
from kit.grpc.streams import LongCalls
from services.quota.application.list_quotas import Quotas
from services.quota.application.watch_quotas import WatchQuotas
from services.quota.domain.maxima import WATCHES_MAX, WATCHES_OF_ONE_MAX
from services.quota.rpc.convert import watched_to_pb
from tollbook.quota.v1 import quota_pb2


class QuotaWatches:
    """The watchers of this process."""

    def __init__(self, watch_quotas: WatchQuotas, exists: OrganizationExists) -> None:
        self._watch_quotas = watch_quotas
        self._exists = exists
        self._places = LongCalls("watchers of quotas", calls_max=WATCHES_MAX, calls_of_one_max=WATCHES_OF_ONE_MAX)

    async def watch(self, request: quota_pb2.WatchQuotasRequest) -> AsyncGenerator[quota_pb2.WatchQuotasResponse]:
        """As the proto says."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        given: Quotas | None = None
        with self._places.place():
            async with aclosing(self._watch_quotas(organization_id)) as looks:
                async for quotas in looks:
                    # At every look, so that a key that is revoked sees nothing of a second later.
                    await admit_again()
                    if quotas is None:
                        continue
                    if given is not None or quotas.token != request.resume_token:
                        yield watched_to_pb(quotas, given)
                    given = quotas
