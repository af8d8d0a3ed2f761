"""Config section `requests`: access requests, whose rules are in the policy."""

from typing import Annotated

from pydantic import Field

from gateway.config.files import FileInDirectory
from gateway.config.values import Integer, Seconds, Section


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
    """Largest number of stored requests, finished ones included."""
