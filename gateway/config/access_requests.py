"""Config section `requests`: access requests, whose rules are in the policy."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gateway.config.files import FileInDirectory
from gateway.config.secrets import SecretValue
from gateway.config.values import Integer, Name, Seconds, Section, check_webhook_url
from gateway.domain.model import Secret
from gateway.domain.requests.notices import secret_bytes


class WebhookSettings(Section):
    """A receiver that is notified about each step of an access request."""

    name: Name
    """Unique; a label of metrics and logs."""
    url: SecretValue
    """Address of the receiver: https, or http on loopback. A secret, because the addresses of Slack
    and Teams are. A private address must be in `console.private_networks`."""
    secrets: Annotated[tuple[SecretValue, ...], Field(min_length=1, max_length=2)]
    """Secrets that sign each delivery (Standard Webhooks): `whsec_` and 24 to 64 bytes in base64.
    With two of them, during a rotation, there are two signatures."""
    format: Literal["json", "slack", "teams"] = "json"
    """`json`: all facts, for programs; `slack` and `teams`: a text for an incoming webhook."""

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: Secret) -> Secret:
        check_webhook_url(url.reveal())
        return url

    @field_validator("secrets")
    @classmethod
    def _can_sign(cls, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
        for one in secrets:
            secret_bytes(one)
        return secrets


class AccessRequestSettings(Section):
    """Access requests: bounds and retention. Their rules are in the policy."""

    file: FileInDirectory | None = None
    """Snapshot of all access requests, encrypted with `store.seal_keys`: approved access goes on
    after a start while Redis is unavailable, and a Redis that lost its data gets them back. Unset:
    no snapshot."""
    person_claim: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Claim that identifies a person over all issuers, such as `email`; dots lead into objects. If
    both people have it, it must differ between the person who requests and the one who approves.
    An approver of another issuer needs it. Unset: people approve within their issuer only."""
    pending_s: Seconds = 86_400.0
    """Seconds after which a request without a decision expires."""
    keep_s: Annotated[Seconds, Field(ge=86_400)] = 2_592_000.0
    """Seconds for which a finished request is listed. The audit log has its own retention."""
    person_pending_max: Annotated[Integer, Field(ge=1, le=1_000)] = 10
    """Largest number of pending requests of one person."""
    stored_max: Annotated[Integer, Field(ge=10, le=20_000)] = 5_000
    """Largest number of stored requests, finished ones included. One person may make a quarter of
    them, besides break-glass."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Receivers of notices. A notice opens nothing: a person decides in the page or by command."""
