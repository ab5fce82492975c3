"""The secrets that a suite on one machine makes for itself, once."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.suite.errors import Refused
from cli.suite.ports import SERVICES
from kit.private_files import write_private_file

ROLE_KINDS = ("tenant", "writer", "fleet")

# 256 bits, 43 characters.
_SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What `secrets.json` holds: by name, each a text that is safe in URLs, headers and environments."""

    values: Mapping[str, str]

    @property
    def admin_key(self) -> str:
        """The operator's key."""
        return self.values["admin_key"]

    @property
    def stripe_api_key(self) -> str:
        """The API key that the Stripe stand-in takes."""
        return self.values["stripe_api_key"]

    @property
    def stripe_webhook_secret(self) -> str:
        """The secret with which the Stripe stand-in signs."""
        return self.values["stripe_webhook_secret"]

    def service_key(self, name: str) -> str:
        """Return the key with which a service, or the gateway, shows itself to the others."""
        return self.values[f"service_key.{name}"]

    def service_key_hashes(self) -> dict[str, str]:
        """Return SHA-256, in hex, of every service's key by its name: what the others need to know it."""
        return {name: sha256_hex(self.service_key(name)) for name in (*SERVICES, "gateway")}

    def role_passwords(self, service: str) -> dict[str, str]:
        """Return the passwords of a service's database roles by the role's kind: tenant, writer, fleet."""
        return {kind: self.values[f"role_password.{service}.{kind}"] for kind in ROLE_KINDS}


def load_or_create_secrets(path: Path) -> Secrets:
    """Read the secrets; make and keep, mode 0600, those that the file does not have yet."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = {}
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read: {error}"
        raise Refused(message) from None
    if not isinstance(kept, dict):
        message = f"{path} is not a JSON object: restore it, or remove it to make new secrets"
        raise Refused(message)
    values = {name: kept.get(name) or make() for name, make in _makers().items()}
    if values != kept:
        write_private_file(path, json.dumps(values, indent=2) + "\n")
    return Secrets(values=values)


def sha256_hex(secret: str) -> str:
    """Return the form in which a secret is stored where it is only compared."""
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _makers() -> dict[str, Callable[[], str]]:
    def with_prefix(prefix: str) -> Callable[[], str]:
        return lambda: prefix + secrets.token_urlsafe(_SECRET_BYTES)

    return {
        "admin_key": with_prefix("tb_admin_"),
        "stripe_api_key": with_prefix("sk_test_"),
        "stripe_webhook_secret": with_prefix("whsec_"),
        **{f"service_key.{name}": with_prefix("tb_service_") for name in (*SERVICES, "gateway")},
        **{f"role_password.{name}.{kind}": with_prefix("") for name in SERVICES for kind in ROLE_KINDS},
    }
