"""The paths of access requests in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any, Final

from gateway.edge.docs.path_parts import error_responses, json_response

Json = dict[str, Any]

TAG: Final = "access-requests"
_TEXT: Final[Json] = {"type": "string"}
_TIME: Final[Json] = {"type": ["string", "null"], "format": "date-time"}
_PERSON: Final[Json] = {
    "type": "object",
    "required": ["issuer", "subject"],
    "properties": {"issuer": _TEXT, "subject": _TEXT},
}
_REQUEST: Final[Json] = {
    "type": "object",
    "required": ["id", "state", "hash", "requester", "role", "server_ids", "may"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "state": {
            "type": "string",
            "enum": ["pending", "active", "ended", "denied", "withdrawn", "expired", "revoked"],
        },
        "in_force": {"type": "boolean", "description": "It is a grant now."},
        "hash": {"type": "string", "description": "SHA-256 of what an approver decides on."},
        "requester": _PERSON,
        "own": {"type": "boolean", "description": "The caller made it."},
        "rule": _TEXT,
        "role": _TEXT,
        "project_id": _TEXT,
        "server_ids": {"type": "array", "items": _TEXT},
        "duration_s": {"type": "number"},
        "reason": _TEXT,
        "ticket": _TEXT,
        "break_glass": {"type": "boolean"},
        "created_at": _TIME,
        "pending_until": _TIME,
        "started_at": _TIME,
        "ends_at": _TIME,
        "approvals": {"type": "array", "items": {"type": "object"}},
        "approvals_required": {"type": ["integer", "null"]},
        "approvers": {"type": ["object", "null"]},
        "closed": {"type": ["object", "null"]},
        "may": {
            "type": "array",
            "items": {"type": "string", "enum": ["approve", "deny", "withdraw", "end"]},
            "description": "The steps that the caller may take now.",
        },
    },
}
_WANTED: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["role", "project_id", "server_ids", "duration_s", "reason"],
    "properties": {
        "role": _TEXT,
        "rule": {"type": ["string", "null"], "description": "Where several rules allow it."},
        "project_id": _TEXT,
        "server_ids": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 20},
        "duration_s": {"type": "number", "minimum": 60},
        "reason": {"type": "string", "maxLength": 2000},
        "ticket": {"type": ["string", "null"], "maxLength": 64},
        "break_glass": {"type": "boolean", "default": False},
    },
}
_HASH: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["hash"],
    "properties": {"hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
}
_REASON: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"reason": {"type": "string", "maxLength": 2000}},
}
_ID: Final[Json] = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}
_QUERY: Final[list[Json]] = [
    {
        "name": "state",
        "in": "query",
        "description": "States, with commas between.",
        "style": "form",
        "explode": False,
        "schema": {"type": "array", "items": _REQUEST["properties"]["state"]},
    },
    {
        "name": "filter",
        "in": "query",
        "schema": {"type": "string", "enum": ["mine", "to_approve"]},
    },
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
]
_LISTED: Final[Json] = {
    "type": "object",
    "required": ["requests", "truncated"],
    "properties": {
        "requests": {"type": "array", "items": _REQUEST},
        "truncated": {"type": "integer"},
    },
}
_RULES: Final[Json] = {
    "type": "object",
    "required": ["rules", "approver"],
    "properties": {
        "rules": {"type": "array", "items": {"type": "object"}},
        "approver": {"type": "boolean", "description": "The caller decides on requests."},
    },
}
_OPERATIONS: Final = (
    (
        *("/requests", "get", "ListAccessRequests", "List access requests"),
        "Returns those that the caller made or may decide on, newest first; 304 if unchanged.",
        *(_LISTED, None),
    ),
    (
        *("/requests", "post", "RequestAccess", "Request access"),
        "Requests a role on servers for a time, or takes it by break-glass.",
        *(_REQUEST, _WANTED),
    ),
    (
        *("/requests/rules", "get", "ListRequestRules", "List request rules"),
        "Returns what the caller may request.",
        *(_RULES, None),
    ),
    (
        *("/requests/{request_id}", "get", "ShowAccessRequest", "Show access request"),
        "Returns one.",
        *(_REQUEST, None),
    ),
    (
        *("/requests/{request_id}/approve", "post", "ApproveAccessRequest"),
        *("Approve access request", "Approves exactly what `hash` names.", _REQUEST, _HASH),
    ),
    (
        *("/requests/{request_id}/deny", "post", "DenyAccessRequest", "Deny access request"),
        *("Denies a pending request of another person.", _REQUEST, _REASON),
    ),
    (
        *("/requests/{request_id}/withdraw", "post", "WithdrawAccessRequest"),
        *("Withdraw access request", "Withdraws the caller's pending request.", _REQUEST, _REASON),
    ),
    (
        *("/requests/{request_id}/end", "post", "EndAccessRequest", "End access"),
        *("Ends access before its time.", _REQUEST, _REASON),
    ),
)
"""Path, method, name, summary, description, and the schemas of response and body."""


def request_paths(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the paths; `statuses` are those of errors, which the document describes."""
    errors = error_responses(statuses)
    paths: dict[str, Json] = {}
    for path, method, name, summary, description, schema, wanted in _OPERATIONS:
        response = json_response(summary, schema)
        operation: Json = {
            "operationId": name,
            "summary": summary,
            "description": f"{description} See the section `requests` of the policy.",
            "tags": [TAG],
            "responses": {"201" if name == "RequestAccess" else "200": response, **errors},
        }
        if wanted is not None:
            content = {"application/json": {"schema": wanted}}
            operation["requestBody"] = {"required": True, "content": content}
        item = paths.setdefault(path, {"parameters": [_ID]} if "{" in path else {})
        item[method] = operation
    paths["/requests"]["get"]["parameters"] = _QUERY
    return paths
