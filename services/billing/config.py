"""What billing reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from kit.grpc.server import ServerSettings
from services.billing.domain import limits
from services.billing.domain.dunning import DunningPolicy, dunning_policy
from services.billing.domain.smtp_servers import SmtpServer, sender_of


class BillingSettings(ServerSettings):
    """Besides what every server needs: the store, the peers, and Stripe under the names that Stripe gives them."""

    postgres_tenant_url: str
    """Role that reads and writes one organization's books."""
    postgres_fleet_url: str
    """Role that keeps the catalog and reads the narrow lists that span organizations."""
    metering_address: str
    """Who knows meters and usage."""
    accounts_address: str
    """Who knows keys and organizations."""
    stripe_api_key: str = Field(validation_alias="STRIPE_API_KEY", min_length=1)
    """Our key at Stripe."""
    stripe_api_base: str = Field("", validation_alias="STRIPE_API_BASE")
    """Where Stripe's API answers instead of at Stripe, for the stand-in; empty: at Stripe."""
    stripe_webhook_secret: str = Field("", validation_alias="STRIPE_WEBHOOK_SECRET")
    """The webhook's signing secrets, separated by commas while one replaces another; empty: the webhook is off."""

    dunning_reminder_days: str = "0,3,7"
    """On which days after a payment failed its customer is written, separated by commas; empty: never."""
    dunning_suspension_day: int = 14
    """On which day the subscription is suspended; after the last reminder."""
    dunning_uncollectible_day: int = 60
    """On which day the invoice is given up; after the suspension."""
    purchased_credits_days: int = Field(default=0, ge=0, le=limits.PURCHASED_CREDITS_DAYS_MAX)
    """For how many days credits pay that are bought, from their payment on; 0: for ever."""
    return_hosts: str = ""
    """Where checkout and portal may send a customer back to: host or host:port, separated by commas. Empty: neither is
    offered.
    """

    invoice_fonts: str = ""
    """Folders with fonts for invoices, separated by colons; fonts with Latin, Greek and Cyrillic are there without."""

    smtp_url: str = ""
    """Where mails are handed over: `smtp://[user:password@]host[:port][?tls=require]` or `smtps://…`; empty: no mail is
    sent.
    """
    mail_from: str = Field("", validate_default=True)
    """Who mails are from, such as `Acme Billing <billing@acme.example>`; needed to send any."""
    mail_templates: str = ""
    """A folder with templates that go before ours; empty: ours."""

    @field_validator("smtp_url")
    @classmethod
    def _is_a_mail_server(cls, value: str) -> str:
        if value:
            SmtpServer.from_url(value)
        return value

    @field_validator("mail_from")
    @classmethod
    def _is_a_sender(cls, value: str, others: ValidationInfo) -> str:
        if value or others.data.get("smtp_url"):
            sender_of(value)
        return value

    @property
    def mail_folder(self) -> Path | None:
        """Where the operator's templates are; None: there are none."""
        return Path(self.mail_templates) if self.mail_templates else None

    @property
    def dunning_policy(self) -> DunningPolicy:
        """The days, if they make sense together."""
        return dunning_policy(self.dunning_reminder_days, self.dunning_suspension_day, self.dunning_uncollectible_day)

    @property
    def invoice_font_paths(self) -> tuple[Path, ...]:
        """Each folder of the list."""
        return tuple(Path(part) for part in self.invoice_fonts.split(":") if part)

    @property
    def stripe_webhook_secrets(self) -> tuple[str, ...]:
        """Each secret of the list."""
        return tuple(secret for part in self.stripe_webhook_secret.split(",") if (secret := part.strip()))
