"""The OpenAPI document of what this gateway serves, made of the catalogue and the error table."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gateway import __version__
from gateway.domain.catalogue.catalogue import allows_head, query_parameters
from gateway.domain.errors import GatewayError, UpstreamRefused
from gateway.domain.model import Answer, Operation, Paging
from gateway.domain.upstream.verdicts import REFUSALS
from gateway.edge.errors import ERROR_TABLE, INTERNAL_ERROR

Json = dict[str, Any]

_UUID: Final = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_SEGMENT: Final = "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$"
_PROJECT: Final = "^[A-Za-z0-9_-]{1,64}$"
_ANY: Final[Json] = {"description": "As the cloud answers."}
_TEXT: Final[Json] = {"type": "string"}
_IDS: Final = "{0} ids, parted by commas, at most {1}."
_EVERYWHERE: Final = ("X-Request-Id", "RateLimit-Policy", "RateLimit")
_HEADERS: Final[dict[str, str]] = {
    "X-Request-Id": "Names the request in the gateway's logs and audit log.",
    "RateLimit-Policy": "The caller's own limit (draft-ietf-httpapi-ratelimit-headers-11).",
    "RateLimit": "What is left of it; to known callers.",
    "Retry-After": "Seconds until asking again makes sense.",
    "WWW-Authenticate": "Why the credential was not accepted (RFC 6750).",
    "Allow": "The methods that this path takes.",
    "X-Console-Expires-In": "Seconds for which the link is still good.",
    "ETag": "For If-None-Match; it is of the answer as this caller is given it.",
    "X-Subject-Token": "The subject token.",
}
_OF_STATUS: Final = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def openapi(operations: Sequence[Operation]) -> Json:
    """Return an OpenAPI 3.1 document."""
    paths: dict[str, Json] = {}
    for row in operations:
        item = paths.setdefault(f"/v1/{{project_id}}{row.path}", {"parameters": _in_path(row)})
        item[row.method.lower()] = _operation(row)
        if row.method == "GET" and allows_head(row):
            item["head"] = _head(item["get"])
    paths |= _FEDERATION
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
        "tags": [{"name": name} for name in sorted({_tag(row) for row in operations} | {"sdk"})],
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY,
            "schemas": {"Error": _ERROR},
            "headers": {
                name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()
            },
            "responses": {str(status): _refusal(status) for status in _statuses()},
        },
    }


def error_rows() -> Iterator[tuple[int, str, str]]:
    """Yield status, code and message of each error that may reach a caller."""
    for kind, looks in ERROR_TABLE.items():
        yield looks.status, looks.code, looks.message or _sentence(kind)
    yield (
        INTERNAL_ERROR.status,
        INTERNAL_ERROR.error_code,
        "The gateway failed; tell the request id.",
    )


def operation_summary(row: Operation) -> str:
    """Return the operation's name as words."""
    return _WORDS.sub(" ", row.name).capitalize()


def server_id_source(row: Operation) -> str:
    """Say which servers a call is decided on."""
    match row:
        case Operation(answer=Answer.PERMISSIONS):
            return "none: it tells what the caller may do"
        case Operation(listing=listing) if listing is not None:
            named = f"; those in `{row.servers_in_query}`" if row.servers_in_query else ""
            return f"each in the answer{named}"
        case Operation(servers_in_body=place) if place:
            absent = "; without any, everything" if row.may_name_none else ""
            return f"all in `{place}`{absent}"
        case Operation(instances_in_body=place) if place:
            return f"the servers of all in `{place}`"
        case Operation(path=path) if "{server_id}" in path:
            return "the one in the path"
        case Operation(path=path) if "{instance_id}" in path:
            return "the instance's server"
        case _:
            return "everything"


def _operation(row: Operation) -> Json:
    made: Json = {
        "operationId": row.name,
        "summary": operation_summary(row),
        "description": _description(row),
        "tags": [_tag(row)],
        "parameters": list(_in_query(row)),
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
    """Return the same without bodies."""
    responses = {
        status: {"description": "As GET, without the body."} for status in get["responses"]
    }
    return get | {"operationId": f"{get['operationId']}Head", "responses": responses}


def _description(row: Operation) -> str:
    needs = f"Takes `{row.permission}` on" if row.permission else "Decided on:"
    return f"{needs} {server_id_source(row)}."


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
                about = f"{low} to {high}; less counts as {low}, more as {high}."
                schema["default"] = row.listing.limit
        elif name == "marker" and row.listing is not None:
            about = "The last id of the page before: its `page_info.next_marker`."
        required = row.answer is Answer.PERMISSIONS
        yield {"name": name, "in": "query", "required": required, "schema": schema} | (
            {"description": about} if about else {}
        )


def _body(row: Operation) -> Json:
    place = row.servers_in_body or row.instances_in_body
    if not place:
        return {"type": "object"}
    one = {"type": "string", "pattern": (_UUID if row.servers_in_body else _SEGMENT)}
    if row.servers_in_body:
        one["pattern"] = _UUID.replace("A-F", "")
    schema: Json = {"type": "array", "items": one, "minItems": 1, "maxItems": row.ids_max}
    if row.ids_max == 1:
        schema = one
    for step in reversed(place.split(".")):
        schema = {"type": "object", "properties": {step: schema}}
        if not row.may_name_none:
            schema["required"] = [step]
    return schema


def _success(row: Operation) -> Json:
    described: Json = {"description": "As the cloud answers.", "headers": _headers(*_EVERYWHERE)}
    match row.answer:
        case Answer.CONSOLE_LINK:
            schema = {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}
            return {
                "200": {
                    "description": "The link.",
                    "headers": _headers(*_EVERYWHERE, "X-Console-Expires-In"),
                    "content": {"application/json": {"schema": schema}},
                }
            }
        case Answer.STREAMED:
            content: Json = {"application/octet-stream": {"schema": {}}}
            return {"200": described | {"content": content}, "206": described}
        case Answer.LISTED:
            return {"200": described | {"content": {"application/json": {"schema": _list(row)}}}}
        case Answer.PERMISSIONS:
            return {"200": described | {"content": {"application/json": {"schema": _PERMISSIONS}}}}
        case Answer.WHOLE:
            whole = described | {"content": {"application/json": {"schema": _ANY}}}
            # The cloud says 202 of what goes on, and 204 of what leaves nothing to tell.
            return {"200": whole} | ({"202": whole, "204": described} if row.writes else {})


def _list(row: Operation) -> Json:
    assert row.listing is not None
    members: Json = {
        row.listing.entries: {"type": "array", "items": {"type": "object"}},
        "count": {"type": "integer", "minimum": 0, "description": "Of all that you may see."},
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
    return sorted({status for status, _, _ in error_rows()} | REFUSALS)


def _refusal(status: int) -> Json:
    rows = [(code, text) for found, code, text in error_rows() if found == status]
    if not rows:  # only the cloud itself refuses so
        refused = ERROR_TABLE[UpstreamRefused]
        rows = [(refused.code, refused.message)]
    names: tuple[str, ...] = ("X-Request-Id", "RateLimit-Policy")
    if status in _OF_STATUS:
        names += (_OF_STATUS[status],)
    return {
        "description": " ".join(text for _, text in rows),
        "headers": _headers(*names),
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "examples": {
                    code: {"value": {"error_code": code, "error_msg": text}} for code, text in rows
                },
            }
        },
    }


def _sentence(kind: type[GatewayError]) -> str:
    words = " ".join(_WORDS.split(kind.__name__)).capitalize()
    return f"{words}: the message says what to do."


_DESCRIPTION: Final = (
    "Consoles and more of physical servers, for people who never hold a cloud credential. Paths, "
    "bodies and errors are those of the cloud's own API; each call is decided by the gateway's "
    "policy, and answers show only what the caller may see. What is forbidden and what is not "
    "there look the same."
)
_SECURITY: Final[Json] = {
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "x_auth_token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Auth-Token",
        "description": "The JWT, where an unchanged cloud client sends its token.",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "SDK-HMAC-SHA256 with a key pair of CreateTemporaryAccessKey.",
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
    """Describe one of the paths that the vendor's SDK asks an IAM for (dossier 4.2)."""
    schema = {"type": "object", "required": [member]}
    names = (*_EVERYWHERE, "X-Subject-Token") if member == "token" else _EVERYWHERE
    return {
        "operationId": name,
        "summary": _WORDS.sub(" ", name).capitalize(),
        "description": text,
        "tags": ["sdk"],
        "responses": {
            str(status): {
                "description": "Done.",
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
            "A JWT in, a subject token out.",
            201,
            "token",
            security=[],
            requestBody=_nested("auth", "id_token", "id"),
        )
    },
    "/v3.0/OS-CREDENTIAL/securitytokens": {
        "post": _sdk(
            "CreateTemporaryAccessKey",
            "A subject token in, a short-lived key pair out; it ends with the JWT.",
            201,
            "credential",
            security=[],
            requestBody=_nested("auth", "identity", "token", "id"),
        )
    },
    "/v3/projects": {
        "get": _sdk(
            "ListProjects",
            "The projects in which the caller may do anything at all.",
            200,
            "projects",
            parameters=[{"name": "name", "in": "query", "required": False, "schema": _TEXT}],
        )
    },
}
