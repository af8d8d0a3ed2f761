"""Requests and responses of the admin API; its OpenAPI document is generated from them.

Checks that need neither the config nor the overrides are made here.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, get_args

from msgspec import Meta, Struct, structs

from gateway.domain.model import BudgetClass, Logger, LogLevel
from gateway.domain.overrides import DroppedLinks, Effect, Override
from gateway.domain.requests.model import State

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Duration = Annotated[float, Meta(gt=0, le=2_592_000)]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
IssuerName = Annotated[Text, Meta(description="Name of the issuer in the config.")]
Subject = Annotated[Text, Meta(description="The person, as in the token's subject claim.")]
ServerName = Annotated[Text, Meta(description="Server ID.")]

# Strings for msgspec: its error for a wrong Literal does not name the valid values.
_LOGGERS: Final[Sequence[str]] = get_args(Logger)
_LEVELS: Final[Sequence[str]] = get_args(LogLevel)
_BUDGETS: Final[Sequence[str]] = [one.value for one in BudgetClass]
_REQUEST_STATES: Final[Sequence[str]] = get_args(State)
_YEAR_9999: Final = 253_402_300_799.0


class AdminRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    reason: Annotated[str, Meta(max_length=500, description="Recorded in the audit log.")] = ""


class EmptyRequest(AdminRequest, frozen=True):
    pass


class RevokeRequest(AdminRequest, frozen=True):
    """Revoke one token (`token_id`), the tokens of a person (`subject`), or all tokens.

    With `subject` or `before`, tokens issued up to `before` are revoked, plus the leeway for the
    issuer's clock. For all tokens, `before` is required.
    """

    issuer: IssuerName
    token_id: Annotated[Text, Meta(description="Token ID, by default the `jti`.")] | None = None
    subject: Subject | None = None
    before: (
        Annotated[
            datetime,
            Meta(
                description="Default with `subject`: the time of the request.",
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        is_token = self.token_id is not None
        if is_token == (self.subject is not None or self.before is not None):
            raise ValueError("specify either token_id, or subject, before or both")
        if self.before is not None and self.before.tzinfo is None:
            raise ValueError("before requires a time zone, e.g. 2026-11-23T12:00:00Z")


class LockRequest(AdminRequest, frozen=True):
    """Lock a person (`subject`), a group, a server or a project, for a time or until `Unlock`.

    Without `issuer`, a lock on a person or group applies to every issuer.
    """

    issuer: (
        Annotated[Text, Meta(description="Name of the issuer in the config, or `certificate`.")]
        | None
    ) = None
    subject: Subject | None = None
    group: (
        Annotated[Text, Meta(description="The group, as in the token's groups claim.")] | None
    ) = None
    server: ServerName | None = None
    project: Annotated[Text, Meta(description="Project ID.")] | None = None
    duration_s: (
        Annotated[float, Meta(gt=0, le=31_536_000, description="Default: until it is unlocked.")]
        | None
    ) = None

    def __post_init__(self) -> None:
        targets = (self.subject, self.group, self.server, self.project)
        if sum(target is not None for target in targets) != 1:
            raise ValueError("specify exactly one of subject, group, server and project")
        if self.issuer is not None and self.subject is None and self.group is None:
            raise ValueError("issuer requires subject or group")


class UnlockRequest(AdminRequest, frozen=True):
    id: Annotated[Text, Meta(description="ID of a lock in force.")]


class DropLinksRequest(AdminRequest, frozen=True):
    """Drop the links of a project, of a server, or of a person (`issuer` and `subject`), or all."""

    all: Annotated[bool, Meta(description="Drop every link. Excludes the other fields.")] = False
    project: Annotated[Text, Meta(description="Project ID.")] | None = None
    server: ServerName | None = None
    issuer: IssuerName | None = None
    subject: Subject | None = None

    def __post_init__(self) -> None:
        if (self.issuer is None) != (self.subject is None):
            raise ValueError("a person requires both issuer and subject")
        if self.all == any((self.project, self.server, self.subject)):
            raise ValueError("specify project, server or subject, or all: true")


class SessionsRequest(AdminRequest, frozen=True):
    """Filter by person, or by server (links only); without a filter, return all."""

    issuer: IssuerName | None = None
    subject: Subject | None = None
    server: ServerName | None = None


class ConsolesRequest(AdminRequest, frozen=True):
    """Filter by person or by server; without a filter, return all."""

    issuer: IssuerName | None = None
    subject: Subject | None = None
    server: ServerName | None = None


class EndConsolesRequest(AdminRequest, frozen=True):
    """End one live console (`id`), those of a person (`subject`), or those on a server."""

    id: Annotated[Text, Meta(description="ID of a live console.")] | None = None
    issuer: IssuerName | None = None
    subject: Subject | None = None
    server: ServerName | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.id, self.subject, self.server)) != 1:
            raise ValueError("specify exactly one of id, subject and server")
        if self.issuer is not None and self.subject is None:
            raise ValueError("issuer requires subject")


class AccessRequestsRequest(AdminRequest, frozen=True):
    """List access requests: the pending and active ones, or those in one state; of one person."""

    issuer: IssuerName | None = None
    subject: Subject | None = None
    state: (
        Annotated[
            str,
            Meta(
                description="Default: `pending` and `active`.",
                extra_json_schema={"enum": _REQUEST_STATES},
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        if self.state is not None:
            _require_among(_REQUEST_STATES, [self.state], "state")
        if self.issuer is not None and self.subject is None:
            raise ValueError("issuer requires subject")


class EndAccessRequestRequest(AdminRequest, frozen=True):
    """End one pending or active access request."""

    id: Annotated[Text, Meta(description="ID of the request.")]


class DeadNoticesRequest(AdminRequest, frozen=True):
    """List notices that were given up: after a day of attempts, or because the receiver is gone."""

    webhook: Annotated[Text | None, Meta(description="Name of the webhook in the config.")] = None


class ReplayNoticesRequest(AdminRequest, frozen=True):
    """Try one notice again, or all of a webhook."""

    id: Annotated[Text | None, Meta(description="ID of the notice.")] = None
    webhook: Annotated[Text | None, Meta(description="Name of the webhook in the config.")] = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.webhook is None):
            raise ValueError("specify exactly one of id and webhook")


class SetRateCeilingRequest(AdminRequest, frozen=True):
    account: Annotated[Text, Meta(description="Name of the account in the config.")]
    rate_per_s: Annotated[
        float,
        Meta(ge=0.001, le=100_000, description="Upstream calls per second over all replicas."),
    ]
    budget: Annotated[
        str,
        Meta(
            description="The budget that the ceiling applies to.",
            extra_json_schema={"enum": _BUDGETS},
        ),
    ] = "console"
    duration_s: Annotated[
        Duration, Meta(description="The config's ceiling applies after this.")
    ] = 86_400.0

    def __post_init__(self) -> None:
        _require_among(_BUDGETS, [self.budget], "budget")


class SetLogLevelsRequest(AdminRequest, frozen=True):
    levels: Annotated[
        dict[str, Annotated[str, Meta(extra_json_schema={"enum": _LEVELS})]],
        Meta(
            min_length=1,
            description="Level by logger.",
            extra_json_schema={"propertyNames": {"enum": _LOGGERS}},
        ),
    ]
    duration_s: Annotated[Duration, Meta(description="The config's levels apply after this.")] = (
        3_600.0
    )

    def __post_init__(self) -> None:
        _require_among(_LOGGERS, self.levels, "each logger in levels")
        _require_among(_LEVELS, self.levels.values(), "each level in levels")


class ClearOverrideRequest(AdminRequest, frozen=True):
    id: Annotated[Text, Meta(description="ID of an override in force.")]


def _require_among(valid: Sequence[str], values: Iterable[str], field: str) -> None:
    if not set(valid).issuperset(values):
        raise ValueError(f"{field} must be one of: {', '.join(valid)}")


class AdminResponse(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class OverrideDetails(AdminResponse, frozen=True):
    id: Annotated[str, Meta(description="The ID, for `ClearOverride`.")]
    created_at: Timestamp
    expires_at: Annotated[Timestamp, Meta(description="When the override ends by itself.")]
    created_by: Annotated[str, Meta(description="The administrator, as issuer:subject.")]
    reason: Annotated[str, Meta(description="As given in the request.")]
    effect: Annotated[Effect, Meta(description="What the override does.")]


_Complete = Annotated[
    bool, Meta(description="False: without Redis, changes by other replicas may be missing.")
]


class OverridesResponse(AdminResponse, frozen=True):
    loaded: Annotated[
        bool,
        Meta(description="Whether this process has loaded all overrides from Redis or its file."),
    ]
    overrides: Annotated[
        list[OverrideDetails], Meta(description="The overrides in force, oldest first.")
    ]
    complete: _Complete


class OverrideResponse(AdminResponse, frozen=True):
    override: Annotated[OverrideDetails, Meta(description="The override that was created.")]
    all_replicas_notified: Annotated[
        bool,
        Meta(description="False if Redis is unavailable; the others apply it when it recovers."),
    ]
    note: Annotated[str, Meta(description="A remark for the administrator, or empty.")]


ProcessName = Annotated[str, Meta(description="Host name and process ID.")]


class TokenEntry(AdminResponse, frozen=True):
    issuer: str
    subject: str
    token_id: Annotated[str | None, Meta(description="The token's ID, if it has one.")]
    issued_at: Annotated[Timestamp, Meta(description="The token's `iat`.")]
    expires_at: Annotated[Timestamp, Meta(description="The token's `exp`.")]


class LinkEntry(AdminResponse, frozen=True):
    account: str
    project: str
    server: str
    person: Annotated[str, Meta(description="As issuer:subject; empty if the link is shared.")]
    seconds_left: Annotated[int, Meta(description="Remaining lifetime of the link.")]
    fingerprint: Annotated[str, Meta(description="As `link_fingerprint` in the audit log.")]


class ProcessSessions(AdminResponse, frozen=True):
    process: ProcessName
    tokens: Annotated[list[TokenEntry], Meta(description="Cached tokens, latest first.")]
    links: Annotated[list[LinkEntry], Meta(description="Cached links, latest first.")]
    truncated: Annotated[int, Meta(description="Number of entries omitted from both lists.")]


_BY_PROCESS: Final = Meta(description="One entry per process that responded.")
ProcessCount = Annotated[int, Meta(description="Number of processes known to Redis.")]
MissingCount = Annotated[int, Meta(description="Processes that did not respond in time.")]


class SessionsResponse(AdminResponse, frozen=True):
    processes: Annotated[list[ProcessSessions], _BY_PROCESS]
    total: ProcessCount
    missing: MissingCount


class ConsoleEntry(AdminResponse, frozen=True):
    id: Annotated[str, Meta(description="The ID, for `EndConsoles`.")]
    issuer: str
    subject: str
    account: str
    project: str
    server: str
    mode: Annotated[str, Meta(description="`control` or `view`.")]
    started_at: Timestamp
    client_address: Annotated[str, Meta(description="The address that opened it.")]
    process: Annotated[
        str, Meta(description="Host name and process ID; empty while the page reconnects.")
    ]


class ConsolesResponse(AdminResponse, frozen=True):
    consoles: Annotated[list[ConsoleEntry], Meta(description="Live consoles, oldest first.")]
    complete: Annotated[
        bool, Meta(description="False: without Redis, those of other processes are missing.")
    ]


class EndedConsolesResponse(AdminResponse, frozen=True):
    ended: Annotated[list[ConsoleEntry], Meta(description="The live consoles that end now.")]


class AccessRequestEntry(AdminResponse, frozen=True):
    id: Annotated[str, Meta(description="The ID, for `EndAccessRequest`.")]
    state: str
    issuer: str
    subject: str
    rule: Annotated[str, Meta(description="Name of the rule of the policy.")]
    role: str
    project: str
    servers: list[str]
    duration_s: float
    reason: str
    ticket: str
    break_glass: bool
    created_at: Timestamp
    ends_at: Annotated[Timestamp | None, Meta(description="None before the approval.")]
    approved_by: Annotated[list[str], Meta(description="As issuer:subject.")]
    in_force: Annotated[
        bool, Meta(description="It is a grant now: a rule in force allows it. Locks are not seen.")
    ]


class AccessRequestsResponse(AdminResponse, frozen=True):
    requests: Annotated[list[AccessRequestEntry], Meta(description="The newest first.")]
    complete: _Complete


class EndedAccessRequestResponse(AdminResponse, frozen=True):
    id: str
    all_replicas_notified: Annotated[
        bool,
        Meta(description="False if Redis is unavailable; the others end it when it recovers."),
    ]


class DeadNoticeEntry(AdminResponse, frozen=True):
    id: Annotated[str, Meta(description="The ID, as in the header `webhook-id`.")]
    webhook: str
    event: Annotated[str, Meta(description="As in the notice, without `access_request.`.")]
    request: Annotated[str, Meta(description="ID of the access request.")]
    at: Annotated[Timestamp, Meta(description="When the event was.")]
    given_up_at: Timestamp
    attempts: int
    error: Annotated[str, Meta(description="Why the last attempt failed.")]


class DeadNoticesResponse(AdminResponse, frozen=True):
    notices: Annotated[
        list[DeadNoticeEntry], Meta(description="The oldest first; the latest 1,000 are stored.")
    ]


class ReplayedNoticesResponse(AdminResponse, frozen=True):
    replayed: Annotated[list[str], Meta(description="IDs of the notices.")]


class BudgetEntry(AdminResponse, frozen=True):
    account: str
    budget: str
    ceiling_per_s: Annotated[float, Meta(description="The rate ceiling in force.")]
    rate_per_s: Annotated[float, Meta(description="The rate learned from the cloud's 429s.")]
    pause_s: Annotated[float, Meta(description="Remaining pause after a 429.")]
    standalone: Annotated[
        bool, Meta(description="Redis is unavailable: this process uses its share of the budget.")
    ]
    waiting: Annotated[int, Meta(description="Calls waiting, over all replicas that are visible.")]
    waiting_by_caller: Annotated[
        dict[str, int], Meta(description="Calls waiting in this process, by issuer:subject.")
    ]


class ProcessQueue(AdminResponse, frozen=True):
    process: ProcessName
    budgets: Annotated[list[BudgetEntry], Meta(description="One entry per account and budget.")]


class QueueResponse(AdminResponse, frozen=True):
    processes: Annotated[list[ProcessQueue], _BY_PROCESS]
    total: ProcessCount
    missing: MissingCount


class ProcessPolicy(AdminResponse, frozen=True):
    process: ProcessName
    version: Annotated[str, Meta(description="Hash of the policy in force.")]
    rules: Annotated[int, Meta(description="Number of grants and denials in force.")]
    loaded_at: Timestamp
    file_rejected: Annotated[
        bool, Meta(description="The file is invalid; the policy loaded before stays in force.")
    ]
    error: Annotated[str, Meta(description="The first error in the rejected file.")] = ""


class PolicyResponse(AdminResponse, frozen=True):
    processes: Annotated[list[ProcessPolicy], _BY_PROCESS]
    total: ProcessCount
    missing: MissingCount


def timestamp(seconds: float) -> Timestamp:
    """Return the ISO 8601 form of `seconds` since the epoch, limited to 1970 to 9999."""
    seconds = min(max(0.0, seconds), _YEAR_9999)
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def override_details(override: Override) -> OverrideDetails:
    """Return an override as responses show it."""
    effect = override.effect
    if isinstance(effect, DroppedLinks) and effect.person:
        # As issuer:subject, without the length that begins the key of a principal.
        effect = structs.replace(effect, person=effect.person.partition(":")[2])
    return OverrideDetails(
        override.id,
        timestamp(override.created_at),
        timestamp(override.expires_at),
        override.created_by,
        override.reason,
        effect,
    )
