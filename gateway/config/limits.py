"""Config sections `request`, `caller_limits`, `fairness`, `lists` and `cache`: bounds."""

from typing import Annotated

from pydantic import Field

from gateway.config.values import GroupName, Integer, Number, Seconds, Section


class RequestLimits(Section):
    """Time limits of requests and of shutdown."""

    deadline_s: Seconds = 30.0
    """Seconds within which every request is answered. `Prefer: wait=N` can only shorten it."""
    drain_s: Seconds = 20.0
    """Seconds that running requests may take to finish during shutdown."""
    drain_delay_s: Annotated[Number, Field(ge=0, le=300)] = 0.0
    """Seconds at the start of a shutdown in which `/readyz` reports not ready while requests are
    still accepted, so that load balancers notice."""
    signature_skew_s: Annotated[Number, Field(gt=0, le=900)] = 900.0
    """Largest difference in seconds between the clock of a client that signs requests and the
    gateway's. The cloud accepts 15 minutes."""


class CallerLimitSettings(Section):
    """Rate limit per person over all replicas. Cached responses count as well.

    Tickets and WebSockets of live consoles count per client address.
    """

    requests: Annotated[Number, Field(ge=0.001)] = 120
    """Requests per `per_s` seconds. A request beyond it is answered 429."""
    per_s: Seconds = 60.0
    """Period in seconds."""
    burst: Annotated[Integer, Field(ge=1)] = 40
    """Requests that may come at once after an idle period."""


class FairnessSettings(Section):
    """Fair-share weights: how callers share a budget that is too small for all."""

    group_weights: dict[GroupName, Annotated[Number, Field(ge=0.01, le=100)]] = Field(default={})
    """Weight by group of any issuer: weight 2 gets twice the calls of weight 1. The largest
    weight of a person's groups applies; without one it is 1."""


class ListSettings(Section):
    """Lists that are read whole from the cloud and filtered for each caller."""

    reuse_s: Annotated[Number, Field(ge=0, le=300)] = 5.0
    """Seconds for which a list is cached for all callers; `Cache-Control: no-cache` reads it
    again. 0 disables the cache."""
    pages_max: Annotated[Integer, Field(ge=1, le=1000)] = 50
    """Largest number of pages of a list, each of up to 1000 entries. A longer list is answered
    502."""
    bytes_max: Annotated[Integer, Field(ge=65_536, le=1_073_741_824)] = 67_108_864
    """Largest size in bytes of one list, and of all cached lists of a process."""
    gzip: bool = True
    """Compress lists of 1 KiB or more for callers that accept gzip."""


class CacheSizes(Section):
    """Entries that a process caches. The oldest entry is dropped for a new one."""

    tokens_max: Annotated[Integer, Field(ge=1)] = 20_000
    """Verified tokens."""
    links_max: Annotated[Integer, Field(ge=1)] = 20_000
    """Console links."""
