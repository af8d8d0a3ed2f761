"""The OpenAPI document of the admin API, generated from its actions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import __version__
from gateway.domain.admin_permissions import listed_permissions
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    CrossSiteRequest,
    KeysUnavailable,
    NotAdmin,
    NotAuthenticated,
    PersonLocked,
    RequestTooLarge,
)
from gateway.edge.error_table import ERROR_TABLE
from gateway.flow.admin.action_specs import ActionSpec

Json = dict[str, Any]

REJECTIONS = (
    BadRequest,
    NotAuthenticated,
    NotAdmin,
    PersonLocked,
    CrossSiteRequest,
    RequestTooLarge,
    AuditLogUnavailable,
    KeysUnavailable,
)
_STATUSES = sorted({ERROR_TABLE[kind].status for kind in REJECTIONS})


def admin_openapi(specs: Sequence[ActionSpec], prefix: str) -> Json:
    """Return an OpenAPI 3.1 document."""
    schemas, components = msgspec.json.schema_components(
        [kind for spec in specs for kind in (spec.request_type, spec.response_type)],
        ref_template="#/components/schemas/{name}",
    )
    paths: dict[str, Json] = {}
    for spec, request, response in zip(specs, schemas[::2], schemas[1::2], strict=True):
        operation: Json = {
            "operationId": spec.name,
            "summary": spec.summary,
            "description": f"Required permission: {listed_permissions(spec.permissions)}.",
            "responses": {
                "200": {
                    "description": "The action was performed.",
                    "content": {"application/json": {"schema": response}},
                },
                **{str(status): _REJECTION for status in _STATUSES},
                "500": _FAILURE,
            },
        }
        if spec.method == "GET":
            operation["parameters"] = _parameters(spec.request_type)
        else:
            operation["requestBody"] = {"content": {"application/json": {"schema": request}}}
        paths.setdefault(prefix + spec.path, {})[spec.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Console Gateway, admin API", "version": __version__},
        "servers": [{"url": "/"}],
        "security": [{"jwt": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "jwt": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Its audience is `admin.api.audience` of the config. Its groups"
                    " have the permissions in `admin.api.groups`.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "Its subject has the permissions in `admin.api.certificates` of"
                    " the config.",
                },
            },
        },
    }


def _parameters(request_type: type[msgspec.Struct]) -> list[Json]:
    return [
        {"name": one.name, "in": "query", "schema": {"type": "string", "minLength": 1}}
        for one in msgspec.structs.fields(request_type)
    ]


_ERROR: Json = {
    "type": "object",
    "required": ["error_code", "error_msg"],
    "properties": {"error_code": {"type": "string"}, "error_msg": {"type": "string"}},
}
_ERROR_CONTENT: Json = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
}
_REJECTION: Json = {"description": "Rejected without effect.", **_ERROR_CONTENT}
_FAILURE: Json = {
    "description": "Internal error; it is unknown whether the action was performed.",
    **_ERROR_CONTENT,
}
