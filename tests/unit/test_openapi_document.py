"""What the OpenAPI document says of the headers `Prefer` and `Preference-Applied`."""

from typing import Any

from gateway.config.operations import built_in_operations
from gateway.edge.docs.openapi import openapi

APPLIED = {"$ref": "#/components/headers/Preference-Applied"}


def has_prefer(operation: dict[str, Any]) -> bool:
    parameters = operation.get("parameters", [])
    return any((one["name"], one["in"]) == ("Prefer", "header") for one in parameters)


def test_only_operations_of_the_cloud_have_prefer() -> None:
    document = openapi(list(built_in_operations()))
    for path, item in document["paths"].items():
        is_operation = path.startswith("/v1/")
        for method, operation in item.items():
            if method == "parameters":
                continue
            assert has_prefer(operation) == is_operation, (method, path)
            if method == "head":  # its responses are those of GET
                continue
            for status, response in operation["responses"].items():
                if status < "400":
                    applied = response.get("headers", {}).get("Preference-Applied")
                    assert applied == (APPLIED if is_operation else None), (method, path, status)


def test_errors_name_the_applied_preference() -> None:
    components = openapi(())["components"]
    assert "Preference-Applied" in components["headers"]
    for response in components["responses"].values():
        assert response["headers"]["Preference-Applied"] == APPLIED
