"""The effective config: what a config file means, with every default, as YAML."""

from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from gateway.config.listen import ListenerTls
from gateway.config.located_yaml import Document
from gateway.config.settings import Settings
from gateway.config.values import Section
from gateway.domain.model import Secret


def effective_config(settings: Settings, document: Document) -> str:
    """Return YAML that loads to equal settings. A secret is shown by its source only."""
    base = Path(document.file).parent
    plain = _plain(settings, document.data, base)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    if text.replace("\n", "").isprintable():
        return text
    # PyYAML does not escape invisible characters, such as those that reverse the direction.
    return yaml.safe_dump(plain, sort_keys=False, width=100)


def _plain(value: Any, source: Any, base: Path) -> Any:
    """Convert a value to plain data; `source` is the same value in the file, if it is there."""
    match value:
        case Secret():
            return _secret_source(source, base)
        case Section():
            members = {key: getattr(value, key) for key in _keys(value)}
        case dict():
            members = value
        case tuple():
            return [_plain(item, _at(source, i), base) for i, item in enumerate(value)]
        case _ if is_dataclass(value):
            members = {one.name: getattr(value, one.name) for one in fields(value)}
        case _:
            return _scalar(value)
    return {key: _plain(inner, _at(source, key), base) for key, inner in members.items()}


def _secret_source(source: dict[str, str], base: Path) -> dict[str, str]:
    if "file" in source:
        return {"file": str(base.absolute() / source["file"])}
    return source


def _scalar(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Enum():
            return value.value
        case Path():
            return str(value.absolute())
        case frozenset():
            return sorted(value)
        case _:  # an IP network
            return str(value)


def _keys(section: Section) -> list[str]:
    keys = list(type(section).model_fields)
    if isinstance(section, ListenerTls) and section.client_ca_file is None:
        keys.remove("client_certificates")  # rejected without authorities
    return keys


def _at(source: Any, step: str | int) -> Any:
    try:
        return source[step]
    except (TypeError, LookupError):
        return None
