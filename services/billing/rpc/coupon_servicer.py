"""CouponService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.clock import Clock
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from services.billing.application.create_coupon import CreateCoupon
from services.billing.application.end_redemption import EndRedemption
from services.billing.application.ports.books import Books
from services.billing.application.ports.coupons import Coupons
from services.billing.application.redeem_coupon import RedeemCoupon
from services.billing.application.withdraw_coupon import WithdrawCoupon
from services.billing.domain import limits
from services.billing.rpc.convert_coupons import coupon_from_pb, coupon_to_pb, redemption_to_pb
from services.billing.rpc.page_tokens import page_size_of, parts_of, token_of
from tollbook.billing.v1 import coupons_pb2, coupons_pb2_grpc


class CouponServicer(coupons_pb2_grpc.CouponServiceServicer):
    """Coupons, and what an organization redeems of them."""

    service_name: ClassVar[str] = "tollbook.billing.v1.CouponService"

    def __init__(self, *, books: Books, coupons: Coupons, clock: Clock, exists: OrganizationExists) -> None:
        self._books = books
        self._coupons = coupons
        self._exists = exists
        self._create_coupon = CreateCoupon(coupons)
        self._withdraw_coupon = WithdrawCoupon(coupons)
        self._redeem_coupon = RedeemCoupon(books, coupons, clock)
        self._end_redemption = EndRedemption(books, clock)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        coupons_pb2_grpc.add_CouponServiceServicer_to_server(self, server)

    async def CreateCoupon(
        self, request: coupons_pb2.CreateCouponRequest, context: ServicerContext
    ) -> coupons_pb2.CreateCouponResponse:
        """See the proto."""
        coupon = coupon_from_pb(request.coupon)
        standing = await self._create_coupon(coupon, request_id=request.request_id, actor=current_actor())
        return coupons_pb2.CreateCouponResponse(coupon=coupon_to_pb(standing))

    async def GetCoupon(
        self, request: coupons_pb2.GetCouponRequest, context: ServicerContext
    ) -> coupons_pb2.GetCouponResponse:
        """See the proto."""
        return coupons_pb2.GetCouponResponse(coupon=coupon_to_pb(await self._coupons.get(request.coupon_id)))

    async def ListCoupons(
        self, request: coupons_pb2.ListCouponsRequest, context: ServicerContext
    ) -> coupons_pb2.ListCouponsResponse:
        """See the proto."""
        count = page_size_of(request.page_size, default=limits.PAGE_COUPONS, maximum=limits.PAGE_COUPONS_MAX)
        after = parts_of(request.page_token, 1)
        found = await self._coupons.by_id(after=after[0] if after else "", count=count + 1)
        token = token_of(found[count - 1].coupon.coupon_id) if len(found) > count else ""
        return coupons_pb2.ListCouponsResponse(coupons=map(coupon_to_pb, found[:count]), next_page_token=token)

    async def WithdrawCoupon(
        self, request: coupons_pb2.WithdrawCouponRequest, context: ServicerContext
    ) -> coupons_pb2.WithdrawCouponResponse:
        """See the proto."""
        standing = await self._withdraw_coupon(request.coupon_id, request_id=request.request_id, actor=current_actor())
        return coupons_pb2.WithdrawCouponResponse(coupon=coupon_to_pb(standing))

    async def RedeemCoupon(
        self, request: coupons_pb2.RedeemCouponRequest, context: ServicerContext
    ) -> coupons_pb2.RedeemCouponResponse:
        """See the proto."""
        redemption = await self._redeem_coupon(
            await organization_of(request.organization_id, exists=self._exists),
            request.coupon_id,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return coupons_pb2.RedeemCouponResponse(redemption=redemption_to_pb(redemption))

    async def ListRedemptions(
        self, request: coupons_pb2.ListRedemptionsRequest, context: ServicerContext
    ) -> coupons_pb2.ListRedemptionsResponse:
        """See the proto."""
        async with self._books.read(await organization_of(request.organization_id, exists=self._exists)) as book:
            redemptions = await book.coupons.redemptions()
        return coupons_pb2.ListRedemptionsResponse(redemptions=map(redemption_to_pb, redemptions))

    async def EndRedemption(
        self, request: coupons_pb2.EndRedemptionRequest, context: ServicerContext
    ) -> coupons_pb2.EndRedemptionResponse:
        """See the proto."""
        redemption = await self._end_redemption(
            await organization_of(request.organization_id, exists=self._exists),
            request.redemption_id,
            request_id=request.request_id,
            actor=current_actor(),
        )
        return coupons_pb2.EndRedemptionResponse(redemption=redemption_to_pb(redemption))
