"""The OpenAPI document of the public listener, made from the catalogue and the error table."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gateway import __version__
from gateway.domain.catalogue.catalogue import allows_head, query_parameters
from gateway.domain.errors import UpstreamRefused
from gateway.domain.model import Operation, Paging, ResponseKind
from gateway.domain.upstream.verdicts import REFUSALS
from gateway.edge.docs.console_paths import TAG, console_paths, recording_paths
from gateway.edge.docs.request_paths import TAG as REQUESTS_TAG
from gateway.edge.docs.request_paths import request_paths
from gateway.edge.docs.server_paths import TAG as SERVERS_TAG
from gateway.edge.docs.server_paths import server_paths
from gateway.edge.error_table import ERROR_SPECS, ERROR_TABLE

Json = dict[str, Any]

_UUID: Final = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_SEGMENT: Final = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$"
_PROJECT: Final = "^[A-Za-z0-9_-]{1,64}$"
_ANY: Final[Json] = {"description": "The cloud's response."}
_TEXT: Final[Json] = {"type": "string"}
_IDS: Final = "{0} IDs, separated by commas, at most {1}."
_EVERYWHERE: Final = ("X-Request-Id", "RateLimit-Policy", "RateLimit")
_OF_OPERATIONS: Final = (*_EVERYWHERE, "Preference-Applied")
_HEADERS: Final[dict[str, str]] = {
    "X-Request-Id": "Identifies the request in the gateway's log and audit log.",
    "RateLimit-Policy": "The caller's rate limit (draft-ietf-httpapi-ratelimit-headers-11).",
    "RateLimit": "The remaining quota of an authenticated caller.",
    "Preference-Applied": "The `wait` of the request's `Prefer`, in operations that have it.",
    "Retry-After": "Seconds to wait before a retry.",
    "WWW-Authenticate": "The reason why the credential was rejected (RFC 6750).",
    "Allow": "The methods of this path.",
    "Link": 'The contact for people (`rel="help"`), if the config has one.',
    "X-Console-Expires-In": "Remaining lifetime of the link, in seconds.",
    "ETag": "For If-None-Match; computed from the response as this caller receives it.",
    "X-Subject-Token": "The subject token.",
}
_HEADER_OF_STATUS: Final = {
    401: "WWW-Authenticate",
    405: "Allow",
    429: "Retry-After",
    503: "Retry-After",
}
_WORD_STARTS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def openapi(operations: Sequence[Operation]) -> Json:
    """Return an OpenAPI 3.1 document."""
    paths: dict[str, Json] = {}
    for row in operations:
        item = paths.setdefault(f"/v1/{{project_id}}{row.path}", {"parameters": _in_path(row)})
        item[row.method.lower()] = _operation(row)
        if row.method == "GET" and allows_head(row):
            item["head"] = _head(item["get"])
    paths |= _FEDERATION | console_paths(_statuses()) | recording_paths(_statuses())
    paths |= request_paths(_statuses()) | server_paths(_statuses())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Console Gateway",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"jwt": []}, {"x_auth_token": []}, {"signature": []}],
        "tags": [
            {"name": name}
            for name in sorted(
                {_tag(row) for row in operations} | {"sdk", TAG, REQUESTS_TAG, SERVERS_TAG}
            )
        ],
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY,
            "schemas": {"Error": _ERROR},
            "headers": {
                name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()
            },
            "responses": {str(status): _error_response(status) for status in _statuses()},
        },
    }


def permission_scope(row: Operation) -> str:
    """Describe the servers on which a caller needs the operation's permission."""
    match row:
        case Operation(listing=listing) if listing is not None:
            named = f", and on each in `{row.servers_in_query}`" if row.servers_in_query else ""
            return f"each server in the response (others are filtered out){named}"
        case Operation(servers_in_body=path) if path:
            absent = "; without IDs, on everything in the project" if row.may_name_none else ""
            return f"each server in `{path}`{absent}"
        case Operation(instances_in_body=path) if path:
            return f"the server of each instance in `{path}`"
        case Operation(path=path) if "{server_id}" in path:
            return "the server in the path"
        case Operation(path=path) if "{instance_id}" in path:
            return "the server of the instance in the path"
        case _:
            return "everything in the project"


def _operation(row: Operation) -> Json:
    made: Json = {
        "operationId": row.name,
        "summary": _in_words(row.name),
        "description": _description(row),
        "tags": [_tag(row)],
        "parameters": [*_in_query(row), _PREFER],
        "responses": _success(row)
        | {str(status): {"$ref": f"#/components/responses/{status}"} for status in _statuses()},
        "x-permission": row.permission,
        "x-budget": row.budget.value,
    }
    if row.body_bytes_max:
        made["requestBody"] = {
            "required": bool(row.servers_in_body or row.instances_in_body),
            "content": {"application/json": {"schema": _body(row)}},
        }
    return made


def _head(get: Json) -> Json:
    """Return the HEAD operation of a GET operation."""
    responses = {
        status: {"description": "Like GET, without a body."} for status in get["responses"]
    }
    return get | {"operationId": f"{get['operationId']}Head", "responses": responses}


def _description(row: Operation) -> str:
    if row.response is ResponseKind.PERMISSIONS:
        return "Returns the caller's permissions on each server in `server_id`; requires none."
    return f"Requires `{row.permission}` on {permission_scope(row)}."


def _tag(row: Operation) -> str:
    return row.path.split("/")[1]


def _in_path(row: Operation) -> list[Json]:
    patterns = {"project_id": _PROJECT, "server_id": _UUID}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": patterns.get(name, _SEGMENT)},
        }
        for name in ("project_id", *re.findall(r"\{([a-z_]+)\}", row.path))
    ]


def _in_query(row: Operation) -> Iterator[Json]:
    for name in query_parameters(row):
        schema: Json = {"type": "string", "pattern": r"^[\x20-\x7e]*$"}
        about = ""
        if name in (row.servers_in_query, row.instances_in_query):
            kind = "Server" if name == row.servers_in_query else "Instance"
            about = _IDS.format(kind, row.ids_max)
            schema["minLength"] = 1
        elif name in ("limit", "offset") and row.listing is not None:
            schema = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
            if name == "limit":
                low, high = row.listing.limit_min, row.listing.limit_max
                about = f"{low} to {high}. Values outside are set to the nearest bound."
                schema["default"] = row.listing.limit
        elif name == "marker" and row.listing is not None:
            about = "`page_info.next_marker` of the previous page."
        required = row.response is ResponseKind.PERMISSIONS
        yield {"name": name, "in": "query", "required": required, "schema": schema} | (
            {"description": about} if about else {}
        )


def _body(row: Operation) -> Json:
    path = row.servers_in_body or row.instances_in_body
    if not path:
        return {"type": "object"}
    one = {"type": "string", "pattern": (_UUID if row.servers_in_body else _SEGMENT)}
    if row.servers_in_body:
        one["pattern"] = _UUID.replace("A-F", "")
    schema: Json = {"type": "array", "items": one, "minItems": 1, "maxItems": row.ids_max}
    if row.ids_max == 1:
        schema = one
    for step in reversed(path.split(".")):
        schema = {"type": "object", "properties": {step: schema}}
        if not row.may_name_none:
            schema["required"] = [step]
    return schema


def _success(row: Operation) -> Json:
    described: Json = {"description": "The cloud's response.", "headers": _headers(*_OF_OPERATIONS)}
    match row.response:
        case ResponseKind.CONSOLE_LINK:
            schema = {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}
            return {
                "200": {
                    "description": "The console link.",
                    "headers": _headers(*_OF_OPERATIONS, "X-Console-Expires-In"),
                    "content": {"application/json": {"schema": schema}},
                }
            }
        case ResponseKind.STREAMED:
            content: Json = {"application/octet-stream": {"schema": {}}}
            return {"200": described | {"content": content}, "206": described}
        case ResponseKind.LISTED:
            return {"200": described | {"content": {"application/json": {"schema": _list(row)}}}}
        case ResponseKind.PERMISSIONS:
            return {"200": described | {"content": {"application/json": {"schema": _PERMISSIONS}}}}
        case ResponseKind.WHOLE:
            whole = described | {"content": {"application/json": {"schema": _ANY}}}
            # The cloud answers 202 if the operation continues, and 204 without a body.
            return {"200": whole} | ({"202": whole, "204": described} if row.writes else {})


def _list(row: Operation) -> Json:
    assert row.listing is not None
    members: Json = {
        row.listing.entries: {"type": "array", "items": {"type": "object"}},
        "count": {"type": "integer", "minimum": 0, "description": "Number of all visible entries."},
    }
    if row.listing.paging is Paging.MARKER:
        members["page_info"] = {
            "type": "object",
            "properties": {
                "next_marker": {"type": ["string", "null"]},
                "previous_marker": {"type": ["string", "null"]},
                "current_count": {"type": "integer"},
            },
        }
    return {"type": "object", "required": [row.listing.entries], "properties": members}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _statuses() -> list[int]:
    return sorted({spec.status for spec in ERROR_SPECS} | REFUSALS)


def _error_response(status: int) -> Json:
    # A status without an entry in the table can only be the cloud's own rejection.
    specs = [spec for spec in ERROR_SPECS if spec.status == status] or [
        ERROR_TABLE[UpstreamRefused]
    ]
    names: tuple[str, ...] = ("X-Request-Id", "RateLimit-Policy", "Preference-Applied", "Link")
    if status in _HEADER_OF_STATUS:
        names += (_HEADER_OF_STATUS[status],)
    return {
        "description": " ".join(spec.message for spec in specs),
        "headers": _headers(*names),
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "examples": {
                    spec.code: {
                        "summary": spec.cause,
                        "value": {"error_code": spec.code, "error_msg": spec.message},
                    }
                    for spec in specs
                },
            }
        },
    }


def _in_words(name: str) -> str:
    return _WORD_STARTS.sub(" ", name).capitalize()


_DESCRIPTION: Final = (
    "Console links and other operations of physical servers for callers without cloud credentials. "
    "Paths, bodies and errors equal those of the cloud's API. The gateway's policy decides each "
    "request, and responses contain only what the caller may see. A forbidden server and a "
    "server that does not exist yield the same response."
)
_PREFER: Final[Json] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": (
        "`wait=N` sets a deadline of N seconds, no later than the gateway's own (RFC 7240). If the"
        " queue is longer, the response is 429 at once. Other preferences are ignored."
    ),
    "schema": _TEXT,
    "example": "wait=30",
}
_SECURITY: Final[Json] = {
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "x_auth_token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Auth-Token",
        "description": "The JWT, in the header in which cloud clients send their token.",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "SDK-HMAC-SHA256 with a key pair from CreateTemporaryAccessKey.",
    },
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error_code", "error_msg"],
    "properties": {"error_code": _TEXT, "error_msg": _TEXT},
}
_PERMISSIONS: Final[Json] = {
    "type": "object",
    "required": ["servers"],
    "properties": {
        "servers": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "permissions"],
                "properties": {"id": _TEXT, "permissions": {"type": "array", "items": _TEXT}},
            },
        }
    },
}


def _sdk(name: str, text: str, status: int, member: str, **more: Any) -> Json:
    """Describe an IAM operation that the vendor's SDK uses (upstream-api.md#4.2)."""
    schema = {"type": "object", "required": [member]}
    names = (*_EVERYWHERE, "X-Subject-Token") if member == "token" else _EVERYWHERE
    return {
        "operationId": name,
        "summary": _in_words(name),
        "description": text,
        "tags": ["sdk"],
        "responses": {
            str(status): {
                "description": "Success.",
                "headers": _headers(*names),
                "content": {"application/json": {"schema": schema}},
            }
        }
        | {str(one): {"$ref": f"#/components/responses/{one}"} for one in _statuses()},
    } | more


def _nested(*steps: str) -> Json:
    schema: Json = _TEXT
    for step in reversed(steps):
        schema = {"type": "object", "required": [step], "properties": {step: schema}}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_FEDERATION: Final[dict[str, Json]] = {
    "/v3.0/OS-AUTH/id-token/tokens": {
        "post": _sdk(
            "CreateTokenWithIdToken",
            "Exchanges a JWT for a subject token.",
            201,
            "token",
            security=[],
            requestBody=_nested("auth", "id_token", "id"),
        )
    },
    "/v3.0/OS-CREDENTIAL/securitytokens": {
        "post": _sdk(
            "CreateTemporaryAccessKey",
            "Exchanges a subject token for a key pair that expires with the JWT.",
            201,
            "credential",
            security=[],
            requestBody=_nested("auth", "identity", "token", "id"),
        )
    },
    "/v3/projects": {
        "get": _sdk(
            "ListProjects",
            "Lists the projects in which the caller has a permission.",
            200,
            "projects",
            parameters=[{"name": "name", "in": "query", "required": False, "schema": _TEXT}],
        )
    },
}
