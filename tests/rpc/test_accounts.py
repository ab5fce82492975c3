"""Accounts over gRPC on its shipped fakes: what a caller sends is checked before anything is asked of the store."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import grpc
import pytest

from kit.clock import SystemClock
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.servers import KnownKeys, serving
from services.accounts.adapters.memory import MemoryApiKeys, MemoryOrganizations
from services.accounts.application.api_keys import ManageApiKeys
from services.accounts.application.organizations import CreateOrganization, ReadOrganizations
from services.accounts.rpc.accounts_servicer import AccountsServicer
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc

ADMIN = (("authorization", "Bearer tb_admin_1"),)


@pytest.fixture
async def accounts() -> AsyncIterator[accounts_pb2_grpc.AccountsServiceAsyncStub]:
    async def prepare() -> None:
        return None

    organizations, clock = MemoryOrganizations(), SystemClock()
    servicer = AccountsServicer(
        create_organization=CreateOrganization(organizations, clock),
        organizations=ReadOrganizations(organizations),
        keys=ManageApiKeys(MemoryApiKeys(), clock),
    )
    authenticator = Authenticator(KnownKeys({"tb_admin_1": Principal(CallerKind.ADMIN, "admin")}), {})
    application = Application(authenticator=authenticator, servicers=[servicer], prepare=prepare)
    async with serving(application) as channel:
        stub: accounts_pb2_grpc.AccountsServiceAsyncStub = accounts_pb2_grpc.AccountsServiceStub(channel)
        for name in ("acme", "beta"):
            await stub.CreateOrganization(
                accounts_pb2.CreateOrganizationRequest(
                    request_id=name, organization=accounts_pb2.Organization(organization_id=name)
                ),
                metadata=ADMIN,
            )
        yield stub


async def refused_for(call: object) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return reason_of(caught.value), (caught.value.details() or "").partition(":")[0]


async def test_pages_follow_their_tokens(accounts: accounts_pb2_grpc.AccountsServiceAsyncStub) -> None:
    request = accounts_pb2.ListOrganizationsRequest(page_size=1)
    first = await accounts.ListOrganizations(request, metadata=ADMIN)
    request.page_token = first.next_page_token
    second = await accounts.ListOrganizations(request, metadata=ADMIN)
    assert [each.organizations[0].organization_id for each in (first, second)] == ["acme", "beta"]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    "token", ["!!!!", "é", "x", "AAAA", "/w==", base64.urlsafe_b64encode(b"No such").decode(), "a" * 100_000]
)
async def test_a_page_token_that_was_never_given_out_is_refused(
    accounts: accounts_pb2_grpc.AccountsServiceAsyncStub, token: str
) -> None:
    request = accounts_pb2.ListOrganizationsRequest(page_token=token)
    assert await refused_for(accounts.ListOrganizations(request, metadata=ADMIN)) == ("INVALID_FIELD", "page_token")


@pytest.mark.parametrize(
    ("size", "reason"), [(-1, "INVALID_FIELD"), (-(2**31), "INVALID_FIELD"), (1_001, "LIMIT_EXCEEDED")]
)
async def test_a_page_size_out_of_range_is_refused(
    accounts: accounts_pb2_grpc.AccountsServiceAsyncStub, size: int, reason: str
) -> None:
    request = accounts_pb2.ListOrganizationsRequest(page_size=size)
    assert await refused_for(accounts.ListOrganizations(request, metadata=ADMIN)) == (reason, "page_size")


@pytest.mark.parametrize("request_id", ["", "\x00", "a\nb", "x" * 129])
async def test_a_key_is_not_revoked_without_a_sound_request_id(
    accounts: accounts_pb2_grpc.AccountsServiceAsyncStub, request_id: str
) -> None:
    made = await accounts.CreateApiKey(
        accounts_pb2.CreateApiKeyRequest(request_id="1", api_key=accounts_pb2.ApiKey(organization_id="acme")),
        metadata=ADMIN,
    )
    request = accounts_pb2.RevokeApiKeyRequest(
        request_id=request_id, organization_id="acme", api_key_id=made.api_key.api_key_id
    )
    assert await refused_for(accounts.RevokeApiKey(request, metadata=ADMIN)) == ("INVALID_FIELD", "request_id")
    keys = await accounts.ListApiKeys(accounts_pb2.ListApiKeysRequest(organization_id="acme"), metadata=ADMIN)
    assert not keys.api_keys[0].HasField("revoke_time")
