"""Requests and responses of the admin API's inquiries: why a decision, and what was recorded."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from gateway.domain.audit.search import Proof
from gateway.domain.model import PERMISSIONS
from gateway.flow.admin.messages import (
    AdminRequest,
    AdminResponse,
    IssuerName,
    MissingCount,
    OverrideDetails,
    ServerName,
    Subject,
    Text,
    Timestamp,
)

_PERMISSIONS: Final = sorted(PERMISSIONS)
RECORDS_MAX: Final = 200
SEARCH_DAYS_DEFAULT: Final = 1


class ExplainRequest(AdminRequest, frozen=True):
    """Explain whether a person has a permission on a server, or in a project.

    Without `groups`, those of the person's newest token in the cache of any process are used.
    """

    issuer: IssuerName
    subject: Subject
    project: Annotated[Text, Meta(description="Project ID.")]
    server: Annotated[Text, Meta(description="Server ID. Default: the whole project.")] | None = (
        None
    )
    permission: Annotated[
        str,
        Meta(description="The permission.", extra_json_schema={"enum": _PERMISSIONS}),
    ] = "console:open"
    groups: (
        Annotated[
            list[Text],
            Meta(max_length=500, description="The person's groups, as tokens name them."),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        if self.permission not in PERMISSIONS:
            raise ValueError(f"permission must be one of: {', '.join(_PERMISSIONS)}")


class ExplainedRule(AdminResponse, frozen=True):
    label: Annotated[str, Meta(description="The rule in words.")]
    location: Annotated[
        str, Meta(description="File and line, or `request:ID` for an access request.")
    ]
    kind: Annotated[str, Meta(description="`grant` or `denial`.")]


class ExplainResponse(AdminResponse, frozen=True):
    allowed: Annotated[bool, Meta(description="The decision that the gateway would make now.")]
    rule: Annotated[
        ExplainedRule | None,
        Meta(description="The rule that decides where no lock does; none: no grant applies."),
    ]
    others: Annotated[
        list[ExplainedRule],
        Meta(description="Other rules about this question, also those not valid now."),
    ]
    locks: Annotated[list[OverrideDetails], Meta(description="Locks, which win over every rule.")]
    groups: Annotated[list[str], Meta(description="The groups that were used.")]
    groups_from: Annotated[
        str,
        Meta(description="`request`, `token` (newest one in any process), or `none` known."),
    ]
    attributes_known: Annotated[
        bool, Meta(description="Whether the inventory knows the attributes of the server now.")
    ]
    server_name: str
    policy: Annotated[str, Meta(description="Version of the policy.")]
    process: Annotated[
        str, Meta(description="The process that answered; its policy and inventory were used.")
    ]


class SearchAuditRequest(AdminRequest, frozen=True):
    """Search the audit log in the directory of this host, newest record first.

    A person is the caller, or the person that an administrator's request is about.
    """

    issuer: IssuerName | None = None
    subject: Subject | None = None
    server: ServerName | None = None
    request_id: Annotated[Text, Meta(description="`X-Request-Id` of the response.")] | None = None
    event: Annotated[Text, Meta(description="Such as `console_link_issued`.")] | None = None
    since: (
        Annotated[
            datetime,
            Meta(
                description=f"Default: {SEARCH_DAYS_DEFAULT} day before `until`.",
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | None
    ) = None
    until: (
        Annotated[
            datetime,
            Meta(description="Exclusive. Default: now.", extra_json_schema={"format": "date-time"}),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        for name, value in (("since", self.since), ("until", self.until)):
            if value is not None and value.tzinfo is None:
                raise ValueError(f"{name} requires a time zone, e.g. 2026-11-23T12:00:00Z")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since must be earlier than until")


class AuditEntry(AdminResponse, frozen=True):
    """A record; [Audit records](audit-records.md) describes its fields."""

    at: Timestamp
    event: str
    request_id: str
    issuer: str
    subject: str
    operation: str
    permission: str
    project: str
    servers: list[str]
    decision: str
    rule: str
    source: str
    session: str
    end: str
    outcome: str
    target: str
    client_address: str
    detail: str
    proof: Annotated[
        str,
        Meta(
            description="`signed`: a later checkpoint with this gateway's key proves the record."
            " `not_signed_yet`: none follows; the next one comes within `audit.checkpoint_s`, or"
            " when the process that wrote the record starts again. `unsigned`: the checkpoint has"
            " no signature. `unknown_key`: it is signed with another key; use `gateway audit verify"
            " --public-key`. `broken`: the record was changed, or the chain after it is broken.",
            extra_json_schema={"enum": [one.value for one in Proof]},
        ),
    ]


class SearchAuditResponse(AdminResponse, frozen=True):
    records: Annotated[
        list[AuditEntry], Meta(description=f"At most {RECORDS_MAX}, the newest first.")
    ]
    complete: Annotated[
        bool, Meta(description="False: there may be others; search a shorter time.")
    ]
    intact: Annotated[
        bool,
        Meta(
            description="Whether the hash chain of the lines that were read is unbroken, and each"
            " signature in them is valid. Only `gateway audit verify` checks the whole chain."
        ),
    ]
    hosts: Annotated[
        list[str],
        Meta(
            description="Hosts whose records were searched: this one, and those that share"
            " `audit.directory` with it."
        ),
    ]
    other_hosts: Annotated[
        list[str],
        Meta(
            description="Hosts of the gateway's other processes. Their records were not searched:"
            " search at their admin listener, or where the logs are collected."
        ),
    ]
    missing: MissingCount
