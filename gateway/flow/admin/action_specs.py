"""The actions of the admin API: paths, types, audit events and commands.

The handler, the OpenAPI document and docs/reference/admin-api.md are generated from this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.domain.admin_permissions import AdminPermission
from gateway.flow.admin.inquiry_messages import (
    ExplainRequest,
    ExplainResponse,
    SearchAuditRequest,
    SearchAuditResponse,
)
from gateway.flow.admin.login_messages import (
    EndedLoginsResponse,
    EndLoginsRequest,
    LoginsRequest,
    LoginsResponse,
)
from gateway.flow.admin.messages import (
    AccessRequestsRequest,
    AccessRequestsResponse,
    AdminRequest,
    AdminResponse,
    ClearOverrideRequest,
    ConsolesRequest,
    ConsolesResponse,
    DeadNoticesRequest,
    DeadNoticesResponse,
    DropLinksRequest,
    EmptyRequest,
    EndAccessRequestRequest,
    EndConsolesRequest,
    EndedAccessRequestResponse,
    EndedConsolesResponse,
    LockRequest,
    OverrideResponse,
    OverridesResponse,
    PolicyResponse,
    QueueResponse,
    ReplayedNoticesResponse,
    ReplayNoticesRequest,
    RevokeRequest,
    SessionsRequest,
    SessionsResponse,
    SetLogLevelsRequest,
    SetRateCeilingRequest,
    UnlockRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    name: str
    method: str
    path: str
    """Below the prefix of the admin API."""
    summary: str
    command: str
    """The command of `gateway admin` that calls it."""
    permissions: tuple[AdminPermission, ...]
    """An administrator needs one of them. The plan of an action with several says which one."""
    request_type: type[AdminRequest] = EmptyRequest
    response_type: type[AdminResponse] = OverrideResponse
    event: str = "admin_action"
    """The audit event of a permitted request."""
    rejected_if: tuple[str, ...] = ()
    """Causes of CGW.4000 besides the bounds of the fields."""

    @property
    def is_read(self) -> bool:
        """The action only reads: its response is its effect."""
        return self.method == "GET" or self.permissions == ("read",)


_ISSUER_UNKNOWN: Final = "`issuer` is not configured"
_NO_LOGINS: Final = "the listener has no login"
_NO_LIVE_CONSOLES: Final = "no account delivers live consoles"
_SERVER_MALFORMED: Final = "`server` is not a UUID"

ACTION_SPECS: Final[Mapping[str, ActionSpec]] = {
    spec.name: spec
    for spec in (
        ActionSpec(
            name="ListOverrides",
            method="GET",
            path="/overrides",
            summary="List the overrides in force.",
            command="overrides",
            permissions=("read",),
            response_type=OverridesResponse,
        ),
        ActionSpec(
            name="ClearOverride",
            method="POST",
            path="/overrides/clear",
            summary="Clear an override before it expires. A revocation requires `revoke`, any other"
            " override `override`.",
            command="clear ID",
            permissions=("override", "revoke"),
            request_type=ClearOverrideRequest,
            rejected_if=("no override with this `id` is in force", "it is a lock: use `Unlock`"),
        ),
        ActionSpec(
            name="Revoke",
            method="POST",
            path="/revocations",
            summary="Revoke a token, a person's tokens, or all tokens issued up to a time. Tokens"
            " issued later are valid: see `Lock`.",
            command="revoke",
            permissions=("revoke",),
            request_type=RevokeRequest,
            event="revoked",
            rejected_if=(
                _ISSUER_UNKNOWN,
                "`token_id` is combined with `subject` or `before`, or all three are missing",
                "`before` has no time zone, is before 1970 or is in the future",
            ),
        ),
        ActionSpec(
            name="Lock",
            method="POST",
            path="/locks",
            summary="Lock a person, a group, a server or a project, also for tokens issued later.",
            command="lock",
            permissions=("lock",),
            request_type=LockRequest,
            event="lock_set",
            rejected_if=(
                "not exactly one of `subject`, `group`, `server` and `project` is set",
                "`issuer` is set without `subject` or `group`, or is `certificate` with `group`",
                "no token can contain the `subject` or `group`, such as the group `ext-*`",
                "`group` is an alias of the policy: lock the group as tokens name it",
                _ISSUER_UNKNOWN,
                "`project` is not configured",
                _SERVER_MALFORMED,
                "the lock would cover the administrator who sets it",
                "the limit of locks is reached",
            ),
        ),
        ActionSpec(
            name="ListLocks",
            method="GET",
            path="/locks",
            summary="List the locks in force.",
            command="locks",
            permissions=("read",),
            response_type=OverridesResponse,
        ),
        ActionSpec(
            name="Unlock",
            method="POST",
            path="/locks/lift",
            summary="Lift a lock. An administrator cannot lift a lock on themselves.",
            command="unlock ID",
            permissions=("lock",),
            request_type=UnlockRequest,
            event="lock_lifted",
            rejected_if=("no lock with this `id` is in force",),
        ),
        ActionSpec(
            name="DropLinks",
            method="POST",
            path="/links/drop",
            summary="Drop cached links; the cloud may still accept a link that a person has.",
            command="drop-links",
            permissions=("override",),
            request_type=DropLinksRequest,
            event="links_dropped",
            rejected_if=(
                "neither `all` nor one of `project`, `server` and `subject` is set, or both are",
                "only one of `issuer` and `subject` is set",
                _ISSUER_UNKNOWN,
                "`project` is not configured",
                _SERVER_MALFORMED,
            ),
        ),
        ActionSpec(
            name="SetRateCeiling",
            method="POST",
            path="/rate-ceilings",
            summary="Change the rate ceiling of an account's budget for a time.",
            command="rate-ceiling ACCOUNT CALLS_PER_SECOND",
            permissions=("override",),
            request_type=SetRateCeilingRequest,
            rejected_if=("`account` is not configured",),
        ),
        ActionSpec(
            name="SetLogLevels",
            method="POST",
            path="/log-levels",
            summary="Change log levels for a time.",
            command="log-level LOGGER=LEVEL",
            permissions=("override",),
            request_type=SetLogLevelsRequest,
        ),
        ActionSpec(
            name="ListSessions",
            method="GET",
            path="/sessions",
            summary="List the tokens and links in the caches of all processes.",
            command="sessions",
            permissions=("read",),
            request_type=SessionsRequest,
            response_type=SessionsResponse,
            rejected_if=(_ISSUER_UNKNOWN, _SERVER_MALFORMED),
        ),
        ActionSpec(
            name="ListConsoles",
            method="GET",
            path="/consoles",
            summary="List the live consoles of all processes.",
            command="consoles",
            permissions=("read",),
            request_type=ConsolesRequest,
            response_type=ConsolesResponse,
            rejected_if=(_NO_LIVE_CONSOLES, _ISSUER_UNKNOWN, _SERVER_MALFORMED),
        ),
        ActionSpec(
            name="EndConsoles",
            method="POST",
            path="/consoles/end",
            summary="End live consoles. Without Redis, those of this process end, and the answer is"
            " 503. The person can open a new one: see `Lock`.",
            command="consoles end",
            permissions=("consoles",),
            request_type=EndConsolesRequest,
            response_type=EndedConsolesResponse,
            rejected_if=(
                _NO_LIVE_CONSOLES,
                "not exactly one of `id`, `subject` and `server` is set",
                "no live console has this `id`",
                _ISSUER_UNKNOWN,
                _SERVER_MALFORMED,
            ),
        ),
        ActionSpec(
            name="ListLogins",
            method="GET",
            path="/logins",
            summary="List the logins of browsers at the pages of a listener, 200 at a time.",
            command="logins",
            permissions=("read",),
            request_type=LoginsRequest,
            response_type=LoginsResponse,
            rejected_if=(_NO_LOGINS, _ISSUER_UNKNOWN),
        ),
        ActionSpec(
            name="EndLogins",
            method="POST",
            path="/logins/end",
            summary="End logins of browsers, and the live consoles that were opened in them. The"
            " person can log in again: see `Lock`.",
            command="logins end",
            permissions=("revoke",),
            request_type=EndLoginsRequest,
            response_type=EndedLoginsResponse,
            rejected_if=(
                _NO_LOGINS,
                "not exactly one of `id` and `subject` is set",
                "no login has this `id`",
                _ISSUER_UNKNOWN,
            ),
        ),
        ActionSpec(
            name="ListAccessRequests",
            method="GET",
            path="/requests",
            summary="List access requests, by default those that are pending or active.",
            command="requests",
            permissions=("requests",),
            request_type=AccessRequestsRequest,
            response_type=AccessRequestsResponse,
            rejected_if=(_ISSUER_UNKNOWN,),
        ),
        ActionSpec(
            name="EndAccessRequest",
            method="POST",
            path="/requests/end",
            summary="End a pending or active access request, and the live consoles that need it.",
            command="requests end ID",
            permissions=("requests",),
            request_type=EndAccessRequestRequest,
            response_type=EndedAccessRequestResponse,
            event="access_request_ended",
            rejected_if=("no open access request has this `id`",),
        ),
        ActionSpec(
            name="ListDeadNotices",
            method="GET",
            path="/webhooks/dead",
            summary="List the notices about access requests that their webhooks did not get.",
            command="webhooks",
            permissions=("read",),
            request_type=DeadNoticesRequest,
            response_type=DeadNoticesResponse,
        ),
        ActionSpec(
            name="ReplayNotices",
            method="POST",
            path="/webhooks/replay",
            summary="Try dead notices again. A receiver recognizes one that it has by its ID.",
            command="webhooks replay ID",
            permissions=("requests",),
            request_type=ReplayNoticesRequest,
            response_type=ReplayedNoticesResponse,
            rejected_if=(
                "not exactly one of `id` and `webhook` is set",
                "no dead notice matches",
            ),
        ),
        ActionSpec(
            name="ShowQueue",
            method="GET",
            path="/queue",
            summary="Show the accounts' budgets and the calls that wait for them.",
            command="queue",
            permissions=("read",),
            response_type=QueueResponse,
        ),
        ActionSpec(
            name="ShowPolicy",
            method="GET",
            path="/policy",
            summary="Show the policy in force and when it was loaded.",
            command="policy",
            permissions=("read",),
            response_type=PolicyResponse,
        ),
        ActionSpec(
            name="ReloadPolicy",
            method="POST",
            path="/policy/reload",
            summary="Reload the policy file in every process.",
            command="policy --reload",
            permissions=("override",),
            response_type=PolicyResponse,
        ),
        ActionSpec(
            name="Explain",
            method="POST",
            path="/policy/explain",
            summary="Explain which lock or rule decides on a person, a permission and a server."
            " Nothing is changed.",
            command="explain PROJECT/SERVER",
            permissions=("read",),
            request_type=ExplainRequest,
            response_type=ExplainResponse,
            rejected_if=(
                _ISSUER_UNKNOWN,
                "`project` is not configured",
                _SERVER_MALFORMED,
                "the policy has no permission of this name",
            ),
        ),
        ActionSpec(
            name="SearchAudit",
            method="GET",
            path="/audit",
            summary="Search the audit log in the files of this host: at most 32 MiB of its newest"
            " lines in the time that is named, each with its proof.",
            command="audit",
            permissions=("audit",),
            request_type=SearchAuditRequest,
            response_type=SearchAuditResponse,
            rejected_if=(
                _ISSUER_UNKNOWN,
                "the config has no `audit.directory`",
                "`since` or `until` has no time zone, or `since` is not before `until`",
            ),
        ),
    )
}
"""The actions by name."""
