"""Every event of the audit log: when it is written and which fields it fills. Pure."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.audit.chain import (
    CHAIN_OPENED,
    CHECKPOINT,
    SEGMENT_OPENED,
    SEGMENTS_REMOVED,
)

LINE_FIELDS: Final = ("chain", "seq", "prev", "event", "at")
"""Fields of every line of a chain; lines on stdout have only `event` and `at` of them."""
_CALLER = (
    "request_id",
    "trace_id",
    "issuer",
    "subject",
    "groups",
    "operation",
    "permission",
    "project",
    "servers",
    "client_address",
    "access_key",
    "token_id",
)
_DECISION = ("decision", "rule", "policy_version")
_ADMINISTRATOR = (
    "request_id",
    "issuer",
    "subject",
    "groups",
    "operation",
    "permission",
    "client_address",
    "decision",
    "rule",
    "detail",
)
_TARGET = ("target", "project", "servers")
_SESSION = ("session", "mode", "started_at", "ticket_address")
_PERSON = (
    "request_id",
    "issuer",
    "subject",
    "groups",
    "project",
    "servers",
    "client_address",
    "token_id",
)
_BROWSER = ("request_id", "issuer", "subject", "groups", "client_address", "token_id")
_NEIGHBOURS = ("neighbours", "keep_s")
_GROUPS = {
    "caller": _CALLER,
    "decision": _DECISION,
    "administrator": _ADMINISTRATOR,
    "session": _SESSION,
    "person": _PERSON,
}
"""Groups of fields that the page names instead of listing them in each row."""

FIELDS: Final[dict[str, tuple[str, str]]] = {
    "chain": ("string", "ID of the hash chain"),
    "seq": ("integer", "number of the line in its chain, from 1"),
    "prev": ("string", "SHA-256 of the previous line of the chain, newline included"),
    "event": ("string", "name of the event"),
    "at": ("number", "time of the record, in seconds since the epoch"),
    "request_id": ("string", "`X-Request-Id` of the request"),
    "trace_id": ("string", "ID of the request's trace; empty if it is not traced"),
    "issuer": ("string", "name of the caller's issuer in the config"),
    "subject": ("string", "the caller, as the issuer names them"),
    "groups": ("list of strings", "groups of the caller"),
    "operation": ("string", "operation of the catalogue, or of the admin API"),
    "permission": (
        "string",
        "permission that the operation or the admin action requires",
    ),
    "project": ("string", "project ID"),
    "servers": ("list of strings", "IDs of the servers that the request touches"),
    "client_address": ("string", "address of the client; see `listen.trusted_proxies`"),
    "access_key": (
        "string",
        "access key of the key pair that was issued, or that signed the request; absent if none",
    ),
    "token_id": ("string", "ID of the caller's token; absent if it has none"),
    "decision": ("string", "`allowed` or `denied`"),
    "rule": (
        "string",
        (
            "file and line of the grant or denial that decided; `admin.api` for an administrator;"
            " empty if no rule matched"
        ),
    ),
    "policy_version": ("string", "version of the policy that decided"),
    "source": (
        "string",
        (
            "where the link is from: `local` (this process's cache), `redis` (the shared cache),"
            " `coalesced` (another request's call), `upstream` (a new call) or `ticket` (no call)"
        ),
    ),
    "link_fingerprint": (
        "string",
        "keyed hash of the link or ticket; equal ones have equal fingerprints",
    ),
    "session": ("string", "ID of the live console"),
    "mode": ("string", "`control` (keyboard and mouse) or `view`"),
    "started_at": ("number", "when the ticket was redeemed, in seconds since the epoch"),
    "ticket_address": ("string", "address of the client that requested the ticket"),
    "end": ("string", "name of the end, see the table of ends"),
    "expires_at": ("number", "latest end of the credential, in seconds since the epoch"),
    "outcome": (
        "string",
        (
            "`success` (the cloud accepted it), `failure` (the cloud rejected it), `not_sent`, or"
            " `unknown` (no response, or a server error)"
        ),
    ),
    "status": ("integer", "HTTP status of the cloud; 0 if it did not answer"),
    "permitted_at": ("number", "`at` of the `write_permitted` record"),
    "target": ("string", "person that the request is about, as `issuer:subject`"),
    "detail": ("string", "reason, error, or an administrator's request as JSON"),
    "neighbours": (
        "list of objects",
        "other chains in the directory: `chain`, `seq`, `hash`, `at`",
    ),
    "keep_s": ("number", "`audit.keep_days` in seconds; with `neighbours` only"),
    "segment": ("integer", "number of the segment, from 1"),
    "key": ("string", "ID of the signing key; empty without `audit.signing_key`"),
    "signature": ("string", "Ed25519 signature in hexadecimal; empty without `audit.signing_key`"),
    "next_within_s": ("number", "time within which the next checkpoint is promised, in seconds"),
    "of_chain": ("string", "ID of the chain of the removed segment"),
    "removed_through": ("integer", "number of the removed segment; earlier ones are removed too"),
    "last_seq": ("integer", "number of the removed segment's last line"),
    "last_hash": ("string", "SHA-256 of the removed segment's last line"),
    "expired_before": ("number", "segments that ended before this time were due for removal"),
}
"""Type and meaning of each field."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    name: str
    written: str
    """When a record of it is written."""
    fields: tuple[str, ...]
    """Fields beside `LINE_FIELDS` that may have a value."""


RECORDS: Final = (
    AuditEvent(
        "console_link_issued",
        "before each response with a console link",
        (*_CALLER, *_DECISION, "source", "link_fingerprint", "detail"),
    ),
    AuditEvent(
        "console_ticket_issued",
        "before each response with a one-time address of a live console",
        (*_CALLER, *_DECISION, "source", "link_fingerprint", "mode"),
    ),
    AuditEvent(
        "console_ticket_rejected",
        "once for each reason for which a genuine ticket is rejected: spent, expired, without"
        " permission, sent by a page of another site, by a form, malformed, or in a path; without"
        " the person if the ticket is spent or expired",
        (*_PERSON, "decision", "rule", "link_fingerprint", "ticket_address", "detail"),
    ),
    AuditEvent(
        "console_session_started",
        "before the first screen byte of a live console",
        (*_PERSON, "operation", "permission", *_DECISION, "link_fingerprint", *_SESSION),
    ),
    AuditEvent(
        "console_taken_over",
        "before a person takes a live console over; `target` is the person who had it",
        (*_PERSON, "target", *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_resume_rejected",
        "once for a live console whose cookie came without the current resume key: a second tab, or"
        " a copied cookie",
        (*_PERSON, "decision", *_SESSION),
    ),
    AuditEvent(
        "console_request_rejected",
        "once for a live console and each reason for which a request with its genuine cookie is"
        " rejected: a page of another site or port sent it, it is for another console, or the"
        " WebSocket began with a message that is not the page's",
        (*_PERSON, "decision", *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_address_changed",
        "when the page of a live console connects from another address than the one that redeemed"
        " its ticket, which is in `detail`",
        (*_PERSON, *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_mode_changed",
        "when a live console becomes view-only because `console:open` has ended",
        (*_PERSON, *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_power_permitted",
        "before a power operation of a live console (`shutdown`, `reboot` or `reset`, in `detail`)"
        " passes to the server",
        (*_PERSON, "permission", *_DECISION, *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_power_rejected",
        "once for a live console that sends a power operation without `server:power`, or view-only,"
        " and once for one above the person's rate limit",
        (*_PERSON, "permission", "decision", "rule", *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_power_not_sent",
        "when the power operation of a `console_power_permitted` record did not pass to the server:"
        " the right, the keyboard or the session ended while the record was written",
        (*_PERSON, *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_recording_failed",
        "when a live console goes on without its recording (`accounts[].console.recording:"
        " when_possible`)",
        (*_PERSON, *_SESSION, "detail"),
    ),
    AuditEvent(
        "console_session_ended",
        "when a live console has ended; `target` is the person who ended it, if another did",
        (*_PERSON, "target", *_SESSION, "end", "detail"),
    ),
    AuditEvent(
        "console_ticket_parked",
        "when a ticket is spent and waits for the login of its person",
        (*_PERSON, "ticket_address", "link_fingerprint"),
    ),
    AuditEvent(
        "login",
        "before a browser gets the session of a person; `detail` has the session: an"
        " `admin session` is one of the admin listener",
        (*_BROWSER, "decision", "detail"),
    ),
    AuditEvent(
        "login_rejected",
        "when a login failed that this browser had begun; `detail` is the reason (logins.md)",
        (*_BROWSER, "decision", "detail"),
    ),
    AuditEvent(
        "logout",
        "when the session of a browser has ended; `detail` says by what, such as `by operator`."
        " After a time limit (`by idle`, `by absolute`) within seconds, or once a gateway runs"
        " again; then `detail` has the time of the end",
        (*_BROWSER, "detail"),
    ),
    AuditEvent(
        "recording_viewed",
        "before the first byte of each view of a recording, also after a reload; `session` is the"
        " recording, `target` the person who was recorded, `detail` whether with keystrokes, and"
        " what of the recording does not match the index",
        (*_CALLER, *_DECISION, "target", "session", "mode", "started_at", "detail"),
    ),
    AuditEvent(
        "recording_exported",
        "before the first byte of a recording that is exported as a file, as above",
        (*_CALLER, *_DECISION, "target", "session", "mode", "started_at", "detail"),
    ),
    AuditEvent(
        "write_permitted",
        "before a request that changes something is sent to the cloud",
        (*_CALLER, *_DECISION),
    ),
    AuditEvent(
        "write_outcome",
        "when a permitted write has ended; it repeats the caller of `write_permitted`",
        (*_CALLER, "outcome", "status", "permitted_at", "detail"),
    ),
    AuditEvent(
        "credential_issued",
        "before a subject token or a key pair for the SDK is issued",
        (*_CALLER, "decision", "expires_at"),
    ),
    AuditEvent(
        "refused",
        "on a 403, and on a 401 of a known person: a revoked token, a signature used twice;"
        " for a locked person or server, `detail` has the ID of the lock",
        (*_CALLER, *_DECISION, "detail"),
    ),
    *(
        AuditEvent(
            f"access_request_{step}",
            f"{when}; `target` is the requester, `detail` has the request",
            (*_CALLER, *_DECISION, "target", "detail"),
        )
        for step, when in (
            ("requested", "before an access request is stored"),
            ("approved", "before an approval takes effect"),
            ("denied", "before a denial of an access request takes effect"),
            ("withdrawn", "before an access request is withdrawn"),
            (
                "ended",
                "before access is ended early, by a person or an administrator",
            ),
            ("break_glass", "before access by break-glass begins"),
            (
                "refused",
                "when a person may not decide on an access request, for instance on theirs",
            ),
            ("failed", "when a recorded step of an access request had no effect after all"),
        )
    ),
    AuditEvent(
        "revoked",
        "before an administrator's revocation takes effect",
        (*_ADMINISTRATOR, *_TARGET),
    ),
    AuditEvent(
        "lock_set",
        "before an administrator's lock takes effect",
        (*_ADMINISTRATOR, *_TARGET),
    ),
    AuditEvent(
        "lock_lifted",
        "before an administrator's lock is lifted",
        (*_ADMINISTRATOR, *_TARGET),
    ),
    AuditEvent(
        "links_dropped",
        "before an administrator's drop of cached links takes effect",
        (*_ADMINISTRATOR, *_TARGET),
    ),
    AuditEvent(
        "admin_action",
        "before any other request to the admin API is performed",
        (*_ADMINISTRATOR, *_TARGET),
    ),
    AuditEvent(
        "admin_refused",
        "when a request to the admin API is denied or fails; at most 10 a minute without identity",
        _ADMINISTRATOR,
    ),
    AuditEvent(
        "policy_loaded",
        "when a policy is in force, at the start and after each change",
        ("policy_version", "detail"),
    ),
    AuditEvent(
        "policy_rejected",
        "when the policy file is invalid; `policy_version` remains in force",
        ("policy_version", "detail"),
    ),
    AuditEvent(
        "audit_records_missing",
        "with the first record after some could not be written; `detail` has their number and time",
        ("detail",),
    ),
    AuditEvent(
        CHAIN_OPENED,
        "when a process begins or continues a chain; `detail` has its process ID and host",
        ("detail", *_NEIGHBOURS),
    ),
    AuditEvent("audit_chain_resumed", "when the audit log can be written again", ()),
)
"""Events that `gateway_audit_records_total` counts."""
CHAIN_LINES: Final = (
    AuditEvent(SEGMENT_OPENED, "as the first line of each segment", ("segment", *_NEIGHBOURS)),
    AuditEvent(
        CHECKPOINT,
        "every `audit.checkpoint_s` after new records, at the end of a segment and of a process",
        ("key", "signature", "next_within_s"),
    ),
    AuditEvent(
        SEGMENTS_REMOVED,
        "before retention removes a segment; a checkpoint follows directly",
        (
            "of_chain",
            "removed_through",
            "last_seq",
            "last_hash",
            "expired_before",
            "detail",
        ),
    ),
)
"""Lines about the chain itself; `search` shows them only with `--event`."""


def render_page() -> str:
    """Return docs/reference/audit-records.md."""
    return "\n".join(
        [
            "<!-- Generated by `make docs` from gateway/domain/audit/events.py. -->",
            "# Audit records",
            "",
            (
                "Each line of the audit log is one JSON object. [Audit log]"
                "(../explanation/audit-log.md) explains how lines are stored and verified."
                " [Investigate an access](../how-to/investigate-an-access.md) shows a search."
            ),
            "",
            "No record contains a token, a password, a secret key or a console URL.",
            "",
            "## Events",
            "",
            f"Every line has {_names(LINE_FIELDS)}; on stdout only `event` and `at`.",
            "In a record, fields that its event does not use are empty or absent.",
            "",
            *(f"- **{name} fields**: {_names(fields)}" for name, fields in _GROUPS.items()),
            "",
            *_table(RECORDS),
            "",
            "## Lines of the chain",
            "",
            (
                "These lines make the chain verifiable."
                " `gateway audit search` shows them only with `--event`."
            ),
            "",
            *_table(CHAIN_LINES),
            "",
            "## Fields",
            "",
            "| field | type | meaning |",
            "|---|---|---|",
            *(f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in FIELDS.items()),
            "",
        ]
    )


def _table(events: tuple[AuditEvent, ...]) -> list[str]:
    rows = [f"| `{one.name}` | {one.written} | {_row(one.fields)} |" for one in events]
    return ["| event | written | fields |", "|---|---|---|", *rows]


def _row(fields: tuple[str, ...]) -> str:
    cells = []
    while fields:
        for name, group in _GROUPS.items():
            if fields[: len(group)] == group:
                cells.append(name)
                fields = fields[len(group) :]
                break
        else:
            cells.append(f"`{fields[0]}`")
            fields = fields[1:]
    return ", ".join(cells) or "none"


def _names(fields: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in fields)
