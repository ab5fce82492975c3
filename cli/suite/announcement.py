"""What `tollbook up` tells its user once the suite is healthy."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ADMIN_KEY_COMMAND = "python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[\"admin_key\"])'"


def announcement(addresses: Mapping[str, Any], *, state_dir: Path, seconds: float) -> str:
    """Return where everything is, where the admin key is kept (not the key), and what to try."""
    shown = [name for name, address in addresses.items() if isinstance(address, str) and "key" not in name]
    width = max(len(name) for name in shown)
    lines = [
        f"Tollbook is up, after {seconds:.1f} s.",
        *(f"  {name:<{width}}  {_without_password(addresses[name])}" for name in shown),
        f"  {'logs':<{width}}  {state_dir / 'logs'}",
        f"  {'admin key':<{width}}  in {state_dir / 'endpoints.json'}, field admin_key",
        "Try:",
        f"  ADMIN_KEY=$({_ADMIN_KEY_COMMAND} {shlex.quote(str(state_dir / 'endpoints.json'))})",
        f'  curl -s -H "authorization: Bearer $ADMIN_KEY" {addresses["gateway"]}/api/v1/organizations',
        f"  tollbook replay --trace TRACE.csv --state {shlex.quote(str(state_dir))} --json",
        f"  tollbook catalog apply PLANS.yaml --state {shlex.quote(str(state_dir))}",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def customers_commands(key: str, *, gateway_url: str) -> str:
    """Return a customer's key and what to try with it."""
    header = f"-H 'authorization: Bearer {key}'"
    return "\n".join(
        [
            "One of its customers' keys, and what that customer may see:",
            f"  {key}",
            f"  curl -s {header} '{gateway_url}/api/v1/quotas'",
            f"  curl -s {header} '{gateway_url}/api/v1/invoices:preview'",
        ]
    )


def _without_password(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
