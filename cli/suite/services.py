"""The table of the suite's own processes: what each is called, how it is run, what its environment says."""

import json
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cli.suite.errors import Refused
from cli.suite.parts import ProgramSpec, grpc_probe, http_probe
from cli.suite.ports import SERVICES, Ports
from cli.suite.secrets import ROLE_KINDS, Secrets, sha256_hex

CHECKOUT = Path(__file__).resolve().parents[2]

GATEWAY_BINARY = CHECKOUT / ".build" / "tollbook-gateway"

# All that a process inherits. Anything else in the caller's environment (a proxy, a PGHOST) is not meant for
# it.
_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "TOLLBOOK_LOG_LEVEL"})
_PASSED_ON_PREFIXES = ("OTEL_", "SSL_")

# The settings that are the operator's to choose, by service. All others follow from the site; a test holds the two
# together against every service's config.py, so that none is dropped without a word.
_OPERATORS_SETTINGS: Mapping[str, frozenset[str]] = {
    "billing": frozenset(
        {
            "TOLLBOOK_DUNNING_REMINDER_DAYS",
            "TOLLBOOK_DUNNING_SUSPENSION_DAY",
            "TOLLBOOK_DUNNING_UNCOLLECTIBLE_DAY",
            "TOLLBOOK_INVOICE_FONTS",
            "TOLLBOOK_MAIL_FROM",
            "TOLLBOOK_MAIL_TEMPLATES",
            "TOLLBOOK_PURCHASED_CREDITS_DAYS",
            "TOLLBOOK_RETURN_HOSTS",
            "TOLLBOOK_SMTP_URL",
        }
    ),
    "metering": frozenset(
        {
            "TOLLBOOK_ARCHIVE_DIR",
            "TOLLBOOK_CLOUDEVENT_METERS",
            "TOLLBOOK_COMMIT_TRANSACTIONS",
            "TOLLBOOK_LABEL_KEYS",
            "TOLLBOOK_RETENTION_DAYS",
            "TOLLBOOK_RETENTION_FOLLOWERS",
        }
    ),
    "quota": frozenset(
        {
            "TOLLBOOK_CHECKS_TOGETHER_MAX",
            "TOLLBOOK_CHECKS_WINDOW_MICROSECONDS",
            "TOLLBOOK_REDIS_CHECK_MILLISECONDS",
            "TOLLBOOK_REDIS_UPKEEP_MILLISECONDS",
        }
    ),
}

_QUOTA_PROCESSES = "TOLLBOOK_QUOTA_PROCESSES"
_QUOTA_PROCESSES_MAX = 64


@dataclass(frozen=True, kw_only=True)
class StripeAccess:
    """How billing reaches Stripe: the real one (no API base), or the stand-in at `api_base`."""

    api_key: str
    api_base: str | None
    webhook_secret: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the environments of all processes are made of."""

    ports: Ports
    secrets: Secrets
    state_dir: Path
    postgres_url: str
    redis_url: str
    stripe: StripeAccess

    @property
    def gateway_url(self) -> str:
        """Where the REST interface answers."""
        return f"http://{self.ports.address('gateway')}"


def service_specs(site: Site) -> list[ProgramSpec]:
    """Return the five services; they may start in any order, and at once. Raises Refused for a number of processes that
    is none.
    """
    specs = [_service_spec(site, name) for name in SERVICES]
    quota = specs[SERVICES.index("quota")]
    for number in range(2, _quota_processes() + 1):
        # The port is shared; the one of the metrics cannot be, for each process has its own to tell.
        environment = {**quota.environment, "TOLLBOOK_METRICS_ADDRESS": "127.0.0.1:0"}
        specs.append(replace(quota, name=f"quota-{number}", environment=environment))
    return specs


def _service_spec(site: Site, name: str) -> ProgramSpec:
    return ProgramSpec(
        name=name,
        command=(sys.executable, "-m", f"services.{name}"),
        environment={
            **inherited_environment(),
            **_service_environment(site, name),
            **_of_environment(_OPERATORS_SETTINGS.get(name, frozenset())),
        },
        working_folder=CHECKOUT,
        probe=grpc_probe(site.ports.address(name)),
    )


def _quota_processes() -> int:
    text = os.environ.get(_QUOTA_PROCESSES, "1")
    if not text.isdecimal() or not 1 <= int(text) <= _QUOTA_PROCESSES_MAX:
        raise Refused(f"{_QUOTA_PROCESSES}: {text!r} is not in 1 to {_QUOTA_PROCESSES_MAX}")
    return int(text)


def gateway_spec(site: Site) -> ProgramSpec:
    """Return the gateway, a binary that the build has made."""
    address = site.ports.address("gateway")
    return ProgramSpec(
        name="gateway",
        command=(str(GATEWAY_BINARY),),
        environment={
            **inherited_environment(),
            "TOLLBOOK_GATEWAY_ADDRESS": address,
            **_peers(site, "gateway"),
        },
        working_folder=CHECKOUT,
        probe=http_probe(f"http://{address}/readyz"),
    )


def stand_in_spec(site: Site) -> ProgramSpec:
    """Return the Stripe stand-in, which delivers its webhooks through the gateway as the real one does."""
    address = site.ports.address("stripe")
    return ProgramSpec(
        name="stripe",
        command=(sys.executable, "-m", "tools.stripe_simulator"),
        environment={
            **inherited_environment(),
            "STRIPE_SIMULATOR_ADDRESS": address,
            "STRIPE_SIMULATOR_STATE": str(site.state_dir / "stripe"),
            "STRIPE_SIMULATOR_API_KEY": site.secrets.stripe_api_key,
            "STRIPE_SIMULATOR_WEBHOOK_URL": f"{site.gateway_url}/api/webhooks/stripe",
            "STRIPE_SIMULATOR_WEBHOOK_SECRET": site.secrets.stripe_webhook_secret,
            # Nobody signs up here: without a card, every invoice of a suite that is only tried out would be past due.
            "STRIPE_SIMULATOR_CARD_ON_FILE": "pm_card_visa",
        },
        working_folder=CHECKOUT,
        probe=http_probe(f"http://{address}/healthz"),
    )


# A Redis that syncs every write to a small disk sometimes takes longer than the 20 ms that quota allows by itself.
_REDIS_CHECK_MILLISECONDS = 250


def role_url(owner_url: str, role: str, password: str) -> str:
    """Return the URL of the same database for another role; hosts, database and other parameters stay."""
    parts = urlsplit(owner_url)
    hosts = parts.netloc.rpartition("@")[2]
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"user", "password"}]
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{hosts}", query=urlencode(kept)))


def inherited_environment() -> dict[str, str]:
    """Return what every process inherits."""
    return _of_environment(_PASSED_ON) | {
        name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON_PREFIXES)
    }


def _of_environment(names: Collection[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _service_environment(site: Site, name: str) -> dict[str, str]:
    environment = {
        "TOLLBOOK_LISTEN_ADDRESS": site.ports.address(name),
        **_peers(site, name),
        **_database_urls(site, name),
        "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps(site.secrets.service_key_hashes()),
    }
    match name:
        case "quota":
            environment["TOLLBOOK_REDIS_URL"] = site.redis_url
            environment["TOLLBOOK_REDIS_CHECK_MILLISECONDS"] = str(_REDIS_CHECK_MILLISECONDS)
        case "metering":
            environment["TOLLBOOK_ARCHIVE_DIR"] = str(site.state_dir / "archive")
        case "accounts":
            environment["TOLLBOOK_ADMIN_KEY_SHA256"] = sha256_hex(site.secrets.admin_key)
        case "billing":
            environment |= _stripe_environment(site.stripe)
    return environment


def _peers(site: Site, name: str) -> dict[str, str]:
    return {
        "TOLLBOOK_METRICS_ADDRESS": site.ports.address(f"{name} metrics"),
        "TOLLBOOK_SERVICE_KEY": site.secrets.service_key(name),
        **{f"TOLLBOOK_{peer.upper()}_ADDRESS": site.ports.address(peer) for peer in SERVICES},
    }


def _database_urls(site: Site, name: str) -> dict[str, str]:
    passwords = site.secrets.role_passwords(name)
    return {
        f"TOLLBOOK_POSTGRES_{kind.upper()}_URL": role_url(site.postgres_url, f"tollbook_{name}_{kind}", passwords[kind])
        for kind in ROLE_KINDS
    }


def _stripe_environment(stripe: StripeAccess) -> Mapping[str, str]:
    environment = {"STRIPE_API_KEY": stripe.api_key, "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret}
    if stripe.api_base is not None:
        environment["STRIPE_API_BASE"] = stripe.api_base
    return environment
