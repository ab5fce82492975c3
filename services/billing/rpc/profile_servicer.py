"""BillingProfileService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.clock import Clock
from kit.errors import LimitExceeded
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from services.billing.application.ports.books import Books
from services.billing.application.set_billing_terms import SetBillingTerms
from services.billing.application.set_tax_rates import SetTaxRates
from services.billing.application.update_billing_profile import UpdateBillingProfile
from services.billing.domain import limits
from services.billing.domain.tax import rates_at
from services.billing.rpc.convert_profile import (
    party_from_pb,
    profile_to_pb,
    rate_from_pb,
    rate_to_pb,
    taxes_to_pb,
    terms_from_pb,
)
from tollbook.billing.v1 import profile_pb2, profile_pb2_grpc


class BillingProfileServicer(profile_pb2_grpc.BillingProfileServiceServicer):
    """Who an organization is to those who bill it."""

    service_name: ClassVar[str] = "tollbook.billing.v1.BillingProfileService"

    def __init__(self, *, books: Books, clock: Clock, exists: OrganizationExists) -> None:
        self._books = books
        self._clock = clock
        self._exists = exists
        self._update_billing_profile = UpdateBillingProfile(books, clock)
        self._set_billing_terms = SetBillingTerms(books, clock)
        self._set_tax_rates = SetTaxRates(books, clock)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        profile_pb2_grpc.add_BillingProfileServiceServicer_to_server(self, server)

    async def GetBillingProfile(
        self, request: profile_pb2.GetBillingProfileRequest, context: ServicerContext
    ) -> profile_pb2.GetBillingProfileResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        async with self._books.read(organization_id) as book:
            profile = await book.profile.current()
        return profile_pb2.GetBillingProfileResponse(profile=profile_to_pb(organization_id, profile))

    async def UpdateBillingProfile(
        self, request: profile_pb2.UpdateBillingProfileRequest, context: ServicerContext
    ) -> profile_pb2.UpdateBillingProfileResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        profile = await self._update_billing_profile(
            organization_id,
            party_from_pb(request.party),
            locale=request.locale,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return profile_pb2.UpdateBillingProfileResponse(profile=profile_to_pb(organization_id, profile))

    async def SetBillingTerms(
        self, request: profile_pb2.SetBillingTermsRequest, context: ServicerContext
    ) -> profile_pb2.SetBillingTermsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        profile = await self._set_billing_terms(
            organization_id, terms_from_pb(request.terms), request_id=request.request_id, actor=current_actor()
        )
        return profile_pb2.SetBillingTermsResponse(profile=profile_to_pb(organization_id, profile))

    async def SetTaxRates(
        self, request: profile_pb2.SetTaxRatesRequest, context: ServicerContext
    ) -> profile_pb2.SetTaxRatesResponse:
        """See the proto."""
        if len(request.rates) > limits.TAX_RATES_MAX:
            raise LimitExceeded(what="rates", actual=len(request.rates), maximum=limits.TAX_RATES_MAX)
        rates = [rate_from_pb(rate, f"rates[{position}]") for position, rate in enumerate(request.rates)]
        taxes = await self._set_tax_rates(
            await organization_of(request.organization_id, exists=self._exists),
            rates,
            start_time=moment_from_pb(request.start_time, "start_time") if request.HasField("start_time") else None,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return profile_pb2.SetTaxRatesResponse(taxes=taxes_to_pb(taxes))

    async def ListTaxRates(
        self, request: profile_pb2.ListTaxRatesRequest, context: ServicerContext
    ) -> profile_pb2.ListTaxRatesResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        async with self._books.read(organization_id) as book:
            history = await book.profile.tax_history()
        return profile_pb2.ListTaxRatesResponse(
            current=map(rate_to_pb, rates_at(history, self._clock.now())), history=map(taxes_to_pb, history)
        )
