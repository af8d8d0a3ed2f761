"""The paths of a person's own live consoles in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any, Final

Json = dict[str, Any]

TAG: Final = "live-consoles"
_SESSION: Final[Json] = {
    "type": "object",
    "required": ["id", "project_id", "server_id", "mode", "started_at", "connected"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "project_id": {"type": "string"},
        "server_id": {"type": "string"},
        "mode": {"type": "string", "enum": ["control", "view"]},
        "started_at": {"type": "string", "format": "date-time"},
        "connected": {
            "type": "boolean",
            "description": "False while the page reconnects.",
        },
    },
}
_EXISTS: Final = " Exists if an account delivers live consoles."
_WHERE: Final = (
    f"{_EXISTS} Accepts the JWT, or, below the path of `listen.public_url`, the cookie of one of"
    " the person's sessions."
)
_SESSION_ID: Final[Json] = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}


def console_paths(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the paths; `statuses` are those of errors, which the document describes."""
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    headers = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    sessions = {
        "type": "object",
        "required": ["sessions"],
        "properties": {"sessions": {"type": "array", "items": _SESSION}},
    }
    return {
        "/console/sessions": {
            "get": {
                "operationId": "ListConsoleSessions",
                "summary": "List console sessions",
                "description": f"Returns the caller's live consoles.{_WHERE}",
                "tags": [TAG],
                "responses": {
                    "200": {
                        "description": "The live consoles, oldest first.",
                        "headers": headers,
                        "content": {"application/json": {"schema": sessions}},
                    },
                    **errors,
                },
            }
        },
        "/console/sessions/{session_id}/renew": {
            "parameters": [_SESSION_ID],
            "post": {
                "operationId": "RenewConsoleSession",
                "summary": "Renew console session",
                "description": "Lets one of the caller's live consoles follow the token that is"
                f" sent, with its groups. Requires the JWT.{_EXISTS}",
                "tags": [TAG],
                "responses": {
                    "200": {
                        "description": "The session follows the token.",
                        "headers": headers,
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    **errors,
                },
            },
        },
        "/console/sessions/{session_id}": {
            "parameters": [_SESSION_ID],
            "delete": {
                "operationId": "EndConsoleSession",
                "summary": "End console session",
                "description": f"Ends one of the caller's live consoles.{_WHERE}",
                "tags": [TAG],
                "responses": {
                    "204": {"description": "The session has ended.", "headers": headers},
                    **errors,
                },
            },
        },
    }
