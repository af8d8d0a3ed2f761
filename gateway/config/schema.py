"""JSON Schemas (draft 2020-12) of the config and of the policy, for editors and validators."""

from collections.abc import Iterator
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DataclassSchema, ModelSchema

from gateway.config.key_docs import key_docs
from gateway.config.policy_schema import POLICY_SCHEMA
from gateway.config.settings import Settings

JsonSchema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_KEYWORDS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
}
"""Keyword by the name of the constraint, which pydantic emits after a custom validator."""
_NO_KEYWORDS: Final = {"title", "discriminator"}


class SectionSchema(GenerateJsonSchema):
    """Describes each key by the docstring below it."""

    def model_schema(self, schema: ModelSchema) -> JsonSchema:
        return _described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: DataclassSchema) -> JsonSchema:
        return _described(super().dataclass_schema(schema), schema["cls"])


def _described(generated: JsonSchema, section: type) -> JsonSchema:
    docs = key_docs(section)
    for key, value in generated.get("properties", {}).items():
        if key in docs:
            value["description"] = docs[key]
    return generated


def config_schema() -> JsonSchema:
    """Return the schema of the config file. Checks across keys are left to `gateway check`."""
    generated = Settings.model_json_schema(schema_generator=SectionSchema)
    schema: JsonSchema = _clean(generated)
    schema["required"] = [*schema["required"], "audit"]  # its default has no destination
    return {"$schema": _DIALECT, "title": "Console Gateway: config", **schema}


def policy_schema() -> JsonSchema:
    """Return the schema of the policy file."""
    return {"$schema": _DIALECT, "title": "Console Gateway: policy", **POLICY_SCHEMA}


def _clean(node: Any) -> Any:
    if isinstance(node, list):
        return [_clean(item) for item in node]
    if not isinstance(node, dict):
        return node
    return dict(_members(node))


def _members(node: JsonSchema) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name in ("properties", "$defs"):
            yield name, {key: _clean(inner) for key, inner in value.items()}
        elif name in _NO_KEYWORDS or (name == "default" and isinstance(value, dict) and value):
            continue  # defaults of sections follow from those of their keys
        elif name == "description":
            yield name, " ".join(value.split())
        else:
            yield _KEYWORDS.get(name, name), _clean(value)


def resolve(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    """Follow a `$ref`; the members beside it override those of the definition."""
    if "$ref" not in schema:
        return schema
    definition = root["$defs"][schema["$ref"].rpartition("/")[2]]
    beside = {name: value for name, value in schema.items() if name != "$ref"}
    return {**definition, **beside}
