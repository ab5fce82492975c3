"""Puts accounts together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack

from kit.clock import SystemClock
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.postgres.database import Database
from services.accounts.adapters.postgres_accounts import PostgresApiKeys, PostgresOrganizations
from services.accounts.application.api_keys import ManageApiKeys
from services.accounts.application.organizations import CreateOrganization, ReadOrganizations
from services.accounts.config import AccountsSettings
from services.accounts.rpc.accounts_servicer import AccountsServicer
from services.accounts.rpc.identity_servicer import IdentityServicer


async def bootstrap(settings: AccountsSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    tenant, fleet = Database(settings.postgres_tenant_url), Database(settings.postgres_fleet_url)
    for database in (tenant, fleet):
        resources.push_async_callback(database.close)
    clock = SystemClock()
    organizations = PostgresOrganizations(tenant, fleet)
    keys = ManageApiKeys(PostgresApiKeys(tenant, fleet), clock)
    accounts = AccountsServicer(
        create_organization=CreateOrganization(organizations, clock),
        organizations=ReadOrganizations(organizations),
        keys=keys,
    )
    identity = IdentityServicer(keys=keys, admin_key_sha256=bytes.fromhex(settings.admin_key_sha256))

    async def prepare() -> None:
        await tenant.assert_safe_role()
        await fleet.assert_safe_role()

    return Application(
        authenticator=Authenticator(identity, settings.service_key_hashes),
        servicers=[accounts, identity],
        prepare=prepare,
        ready=[tenant.ping, fleet.ping],
    )
