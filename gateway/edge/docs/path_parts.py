"""What the paths of all subjects share in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any, Final

RESPONSE_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}
}


def error_responses(statuses: Iterable[int]) -> dict[str, Any]:
    """Return references to the responses of errors, which the document describes."""
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def json_response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": RESPONSE_HEADERS,
        "content": {"application/json": {"schema": schema}},
    }
