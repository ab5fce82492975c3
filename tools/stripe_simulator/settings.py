"""What the simulator is told by its environment."""

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, HttpUrl, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PORT_MAX = 65_535


def _loopback(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        message = "the host has to be a loopback address, such as 127.0.0.1: nothing here is fit for other eyes"
        raise ValueError(message)
    if not port.isdecimal() or int(port) > _PORT_MAX:
        message = "write it as 127.0.0.1:port (port 0 takes a free one)"
        raise ValueError(message)
    return address


def _test_key(key: SecretStr) -> SecretStr:
    if not key.get_secret_value().startswith("sk_test_"):
        message = "a test key begins with sk_test_; a live key has no place here"
        raise ValueError(message)
    return key


class SimulatorSettings(BaseSettings):
    """Read from STRIPE_SIMULATOR_* variables. Without a webhook URL events are stored and not delivered."""

    model_config = SettingsConfigDict(env_prefix="STRIPE_SIMULATOR_", frozen=True, extra="ignore")

    address: Annotated[str, AfterValidator(_loopback)]
    state: Path
    api_key: Annotated[SecretStr, AfterValidator(_test_key)]
    webhook_url: HttpUrl | None = None
    webhook_secret: SecretStr = SecretStr("")
    card_on_file: str = ""
    """The test card, such as `pm_card_visa`, that every new customer has without being asked for one; empty: none."""

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        if self.webhook_url is not None and not self.webhook_secret.get_secret_value():
            message = "STRIPE_SIMULATOR_WEBHOOK_URL needs STRIPE_SIMULATOR_WEBHOOK_SECRET to sign with"
            raise ValueError(message)
        return self

    @property
    def host(self) -> str:
        """The loopback address to listen on."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0 takes a free one."""
        return int(self.address.rpartition(":")[2])
