"""`tollbook up`: the whole suite on this machine, in the foreground."""

import argparse
import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.replaying.naming import new_run_id, organization_id_of
from cli.suite.announcement import announcement, customers_commands
from cli.suite.console import Console
from cli.suite.errors import Refused
from cli.suite.foreground import Blueprint, exit_code_of, in_daemon_thread, run_suite
from cli.suite.outside import require_postgres, require_redis
from cli.suite.parts import Program, ProgramSpec
from cli.suite.ports import SERVICES, Ports
from cli.suite.replay import customers_key, replay, replay_in_words
from cli.suite.secrets import Secrets, load_or_create_secrets
from cli.suite.seeds import apply_plans, apply_prices, refuse_bad_plans, refuse_bad_prices
from cli.suite.services import (
    CHECKOUT,
    GATEWAY_BINARY,
    Site,
    StripeAccess,
    gateway_spec,
    service_specs,
    stand_in_spec,
)
from cli.suite.supervisor import Group
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.redis.embedded import EmbeddedRedis

_BASE_PORT = 7600

# Their sum stays below the 20 s that a stop may take. The gateway and the stand-in only finish requests, the
# services drain streams and flush, the stores write a last time.
_GATEWAY_STOP_SECONDS = 3.0
_SERVICES_STOP_SECONDS = 8.0
_STAND_IN_STOP_SECONDS = 1.5
_REDIS_STOP_SECONDS = 2.0
_POSTGRES_STOP_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class _Outside:
    """What the environment names for us to use instead of our own; an empty variable names nothing."""

    postgres_url: str | None
    redis_url: str | None
    stripe_api_key: str | None
    stripe_webhook_secret: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "_Outside":
        return cls(
            postgres_url=environment.get("TOLLBOOK_POSTGRES_URL") or None,
            redis_url=environment.get("TOLLBOOK_REDIS_URL") or None,
            stripe_api_key=environment.get("STRIPE_API_KEY") or None,
            stripe_webhook_secret=environment.get("STRIPE_WEBHOOK_SECRET", ""),
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `tollbook up` takes."""
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument(
        "--base-port",
        type=int,
        default=_BASE_PORT,
        metavar="N",
        help="the first of twenty ports (%(default)s)",
    )
    parser.add_argument("--replay", type=Path, metavar="TRACE", help="a trace to replay once the suite is up")
    parser.add_argument("--plans", type=Path, default=CHECKOUT / "deploy" / "plans.yaml", metavar="FILE")
    parser.add_argument("--prices", type=Path, default=CHECKOUT / "deploy" / "prices.yaml", metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the suite until told to stop: 0 after an orderly stop, 1 when it fails to start, 2 when refused."""
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    ports = Ports(base=arguments.base_port)
    outside = _Outside.of(os.environ)
    _refuse_missing_files(arguments)
    own_stores = {
        "postgres": outside.postgres_url,
        "redis": outside.redis_url,
        "stripe": outside.stripe_api_key,
    }
    run_suite(
        state_dir=arguments.state.resolve(),
        ports=ports,
        names=(
            *("gateway", *SERVICES),
            *(f"{name} metrics" for name in ("gateway", *SERVICES)),
            *(name for name, replacement in own_stores.items() if replacement is None),
        ),
        draw=functools.partial(_blueprint, arguments, ports, outside),
    )


def _refuse_missing_files(arguments: argparse.Namespace) -> None:
    refuse_bad_plans(arguments.plans)
    refuse_bad_prices(arguments.prices)
    if arguments.replay is not None and not arguments.replay.is_file():
        raise Refused(f"--replay {arguments.replay}: no such file")
    if not GATEWAY_BINARY.is_file():
        raise Refused(f"the gateway is not built: run `make {GATEWAY_BINARY.relative_to(CHECKOUT)}` first")


def _blueprint(
    arguments: argparse.Namespace, ports: Ports, outside: _Outside, state_dir: Path, console: Console
) -> Blueprint:
    started_at = time.monotonic()
    logs = state_dir / "logs"
    secrets = load_or_create_secrets(state_dir / "secrets.json")
    postgres = EmbeddedPostgres(state_dir / "postgres", ports.number("postgres"), log_path=logs / "postgres.log")
    redis = EmbeddedRedis(state_dir / "redis", ports.number("redis"), log_path=logs / "redis.log")
    site = Site(
        ports=ports,
        secrets=secrets,
        state_dir=state_dir,
        postgres_url=outside.postgres_url or postgres.url,
        redis_url=outside.redis_url or redis.url,
        stripe=_stripe_access(ports, outside, secrets),
    )
    addresses = _addresses(site)

    def program(spec: ProgramSpec) -> Program:
        return Program(spec, log_path=logs / f"{spec.name}.log")

    async def prepare() -> None:
        await _require_outside_stores(outside)
        await _migrate(site, console)

    async def seed() -> None:
        await apply_plans(
            arguments.plans,
            billing_address=ports.address("billing"),
            metering_address=ports.address("metering"),
            admin_key=secrets.admin_key,
        )
        await apply_prices(arguments.prices, analytics_address=ports.address("analytics"), admin_key=secrets.admin_key)

    async def afterwards() -> None:
        seconds = time.monotonic() - started_at
        print(announcement(addresses, state_dir=state_dir, seconds=seconds), flush=True)
        if arguments.replay is not None:
            run_id = new_run_id()
            found = await replay(arguments.replay.absolute(), state_dir, run_id=run_id, working_folder=CHECKOUT)
            print(replay_in_words(found), flush=True)
            customer = organization_id_of(run_id, "A")
            key = await customers_key(customer, gateway_url=site.gateway_url, admin_key=secrets.admin_key)
            print(customers_commands(key, gateway_url=site.gateway_url), flush=True)

    stores = []
    if outside.postgres_url is None:
        stores.append(Group(parts=[postgres], stop_seconds=_POSTGRES_STOP_SECONDS))
    if outside.redis_url is None:
        stores.append(Group(parts=[redis], stop_seconds=_REDIS_STOP_SECONDS))
    programs = []
    if outside.stripe_api_key is None:
        programs.append(Group(parts=[program(stand_in_spec(site))], stop_seconds=_STAND_IN_STOP_SECONDS))
    programs += [
        Group(parts=[program(spec) for spec in service_specs(site)], stop_seconds=_SERVICES_STOP_SECONDS),
        Group(parts=[program(gateway_spec(site))], stop_seconds=_GATEWAY_STOP_SECONDS),
    ]
    return Blueprint(
        stores=stores,
        programs=programs,
        addresses=addresses,
        prepare=prepare,
        seed=seed,
        afterwards=afterwards,
    )


def _stripe_access(ports: Ports, outside: _Outside, secrets: Secrets) -> StripeAccess:
    if outside.stripe_api_key is not None:
        return StripeAccess(api_key=outside.stripe_api_key, api_base=None, webhook_secret=outside.stripe_webhook_secret)
    return StripeAccess(
        api_key=secrets.stripe_api_key,
        api_base=f"http://{ports.address('stripe')}",
        webhook_secret=secrets.stripe_webhook_secret,
    )


def _addresses(site: Site) -> dict[str, object]:
    addresses: dict[str, object] = {
        "gateway": site.gateway_url,
        **{name: site.ports.address(name) for name in SERVICES},
        "admin_key": site.secrets.admin_key,
        "postgres": site.postgres_url,
        "redis": site.redis_url,
        "metrics": {name: f"http://{site.ports.address(f'{name} metrics')}/metrics" for name in ("gateway", *SERVICES)},
    }
    if site.stripe.api_base is not None:
        addresses["stripe"] = site.stripe.api_base
    return addresses


async def _require_outside_stores(outside: _Outside) -> None:
    if outside.postgres_url is not None:
        await require_postgres(outside.postgres_url)
    if outside.redis_url is not None:
        await require_redis(outside.redis_url)


async def _migrate(site: Site, console: Console) -> None:
    def migrate_all() -> None:
        for service in SERVICES:
            try:
                migrate(site.postgres_url, service, site.secrets.role_passwords(service))
            except Exception as error:
                error.add_note(f"in the migrations of {service}")
                raise

    console.say("migrating the services' schemas")
    await in_daemon_thread(migrate_all)
