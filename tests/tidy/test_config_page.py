"""The reference pages of config and policy, which are generated from the schemas."""

import re
from typing import Any

from gateway.config.reference import Row, config_tables
from gateway.config.schema import SectionSchema, config_schema, policy_schema, resolve
from gateway.config.secrets import SECRET_SCHEMA
from gateway.config.values import Section

SENTENCE_WORDS_MAX = 25


def rows() -> list[Row]:
    return [row for table in config_tables() for row in table.rows]


def test_page_has_every_key() -> None:
    """Compare with the schema itself, to detect an omitted section."""
    schema = config_schema()
    keys = {
        (key, resolve(inner, schema).get("description"))
        for definition in definitions(schema)
        if definition not in SECRET_SCHEMA["oneOf"]
        for key, inner in definition["properties"].items()
    }
    on_page = {(row.path.rpartition(".")[2], row.effect) for row in rows()}
    headings = {(table.heading[3:], table.text) for table in config_tables()}
    assert keys - on_page - headings == set()
    assert len(rows()) > 150


def definitions(node: Any) -> list[dict[str, Any]]:
    """Return each schema with properties."""
    found = []
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and "additionalProperties" in node:
            found.append(node)
        found += [one for value in node.values() for one in definitions(value)]
    elif isinstance(node, list):
        found += [one for value in node for one in definitions(value)]
    return found


def unexplained(effects: dict[str, str]) -> list[str]:
    return [key for key, effect in effects.items() if not effect.endswith(".")]


def test_every_config_key_has_a_sentence() -> None:
    assert unexplained({row.path: row.effect for row in rows()}) == []


def test_every_policy_key_has_a_sentence() -> None:
    effects = {
        key: inner.get("description", "")
        for schema in definitions(policy_schema())
        for key, inner in schema["properties"].items()
    }
    assert unexplained(effects) == []


def test_key_without_sentence_is_found() -> None:
    class Planted(Section):
        explained: int = 1
        """The number of planted keys."""
        silent: int = 2

    schema = Planted.model_json_schema(schema_generator=SectionSchema)
    properties = schema["properties"]
    effects = {key: inner.get("description", "") for key, inner in properties.items()}
    assert unexplained(effects) == ["silent"]


def test_sentences_are_short() -> None:
    sentences = [part for row in rows() for part in re.split(r"(?<=[.;:]) ", row.effect)]
    assert [one for one in sentences if len(one.split()) > SENTENCE_WORDS_MAX] == []
