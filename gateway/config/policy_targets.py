"""Parsing of `on`: the servers that a rule applies to. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.config.errors import KeyPath
from gateway.config.policy_form import PolicyForm, text_items
from gateway.config.policy_names import KnownNames, name_problem
from gateway.config.policy_schema import (
    ATTRIBUTE_KEYS,
    EVERYTHING,
    LOCATION_KEYS,
    PROJECT_KEYS,
    TAG_KEY_CHARS_MAX,
    TAG_VALUE_CHARS_MAX,
    TARGET_KEYS,
)
from gateway.domain.model import SERVER_ID
from gateway.domain.policy.selectors import Location, NamePattern, Selector

_PROJECT: Final = "project (not in any `accounts[].projects` of the config)"
_ACCOUNT: Final = "account (not in `accounts` of the config)"
_NONE: Final[frozenset[str]] = frozenset()
_REGION: Final = "region (not in any `accounts[].region` of the config)"


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of one rule; the fields are those of `Rule`."""

    projects: frozenset[str] = frozenset()
    servers: frozenset[str] = frozenset()
    selector: Selector | None = None
    excluded_projects: frozenset[str] = frozenset()
    excluded_servers: frozenset[str] = frozenset()


class TargetReader:
    """Reads `on` and `not`."""

    def __init__(self, form: PolicyForm, known: KnownNames) -> None:
        self._form = form
        self._known = known

    def read(self, path: KeyPath, raw: Any) -> Targets:
        if raw == EVERYTHING:
            return Targets()
        on = self._form.mapping(path, {} if raw is None else raw, (*TARGET_KEYS, EVERYTHING, "not"))
        self._require_targets(path, on)
        targets = self._selection(path, on)
        if "projects" in on or "accounts" in on or "regions" in on:
            targets = replace(targets, projects=self._projects(path, on))
        return self._with_exclusions(path, on, targets) if "not" in on else targets

    def _require_targets(self, path: KeyPath, on: Mapping[str, Any]) -> None:
        if EVERYTHING in on:
            self._form.require_true((*path, EVERYTHING), on[EVERYTHING])
            if any(key in on for key in TARGET_KEYS):
                self._form.error(path, f"`{EVERYTHING}` excludes every other key than `not`")
        elif not any(on.get(key) for key in TARGET_KEYS):
            message = (
                f"requires one of {_quoted(TARGET_KEYS)}; write `on: {EVERYTHING}` for all servers"
            )
            self._form.error(path, message)
        elif _has_empty_value(on):
            message = "contains an empty list or mapping; omit the key to select all"
            self._form.error(path, message)

    def _with_exclusions(self, path: KeyPath, on: Mapping[str, Any], targets: Targets) -> Targets:
        below = (*path, "not")
        inner = self._form.mapping(below, on["not"], TARGET_KEYS)
        if not any(key in inner for key in TARGET_KEYS):
            self._form.error(below, f"requires at least one of {_quoted(TARGET_KEYS)}")
        elif _has_empty_value(inner):
            message = "contains an empty list or mapping; omit the key or name values"
            self._form.error(below, message)
        excluded = self._selection(below, inner)
        projects = frozenset[str]().union(*self._project_sets(below, inner))
        if targets.projects and targets.projects <= projects:
            self._form.error(below, "excludes all projects that are selected")
        if targets.servers and targets.servers <= excluded.servers:
            self._form.error(below, "excludes all servers that are selected")
        selector = targets.selector
        if excluded.selector is not None:
            selector = replace(selector or Selector(), excluded=excluded.selector)
        return replace(
            targets,
            selector=selector,
            excluded_projects=projects,
            excluded_servers=excluded.servers,
        )

    def _selection(self, path: KeyPath, on: Mapping[str, Any]) -> Targets:
        """Return the servers and attributes; projects have a meaning of their own in `not`."""
        servers = self._servers((*path, "servers"), on["servers"]) if "servers" in on else _NONE
        selector = None
        if any(key in on for key in ATTRIBUTE_KEYS):
            selector = self._selector(path, on)
        return Targets(servers=servers, selector=selector)

    def _servers(self, path: KeyPath, raw: Any) -> frozenset[str]:
        servers = frozenset(name.lower() for name in self._form.names(path, raw))
        if not all(map(SERVER_ID.fullmatch, servers)):
            for i, server in text_items(raw):
                if not SERVER_ID.fullmatch(server.lower()):
                    self._form.error((*path, i), "must be a server ID (a UUID)")
        return servers

    def _projects(self, path: KeyPath, on: Mapping[str, Any]) -> frozenset[str]:
        """Return the projects that match all of `projects`, `accounts` and `regions`."""
        first, *others = self._project_sets(path, on)
        found = first.intersection(*others)
        if not found and first and all(others):
            self._form.error(path, f"no project matches all of {_quoted(PROJECT_KEYS)}")
        return found

    def _project_sets(self, path: KeyPath, on: Mapping[str, Any]) -> list[frozenset[str]]:
        """Return the projects that each of `projects`, `accounts` and `regions` selects."""
        form, known = self._form, self._known
        found = []
        if "projects" in on:
            found.append(
                form.known_names((*path, "projects"), on["projects"], known.projects, _PROJECT)
            )
        for key, by_name, what in (
            ("accounts", known.accounts, _ACCOUNT),
            ("regions", known.regions, _REGION),
        ):
            if key in on:
                names = form.known_names((*path, key), on[key], by_name, what)
                found.append(frozenset(one for name in names for one in by_name.get(name, ())))
        return found

    def _selector(self, path: KeyPath, on: Mapping[str, Any]) -> Selector:
        form = self._form
        locations = form.items((*path, "locations"), on.get("locations", []))
        names = form.names((*path, "names"), on.get("names", []), is_pattern=True)
        return Selector(
            tags=self._tags((*path, "tags"), on.get("tags", {})),
            locations=tuple(
                self._location((*path, "locations", i), location)
                for i, location in enumerate(locations)
            ),
            models=form.names((*path, "models"), on.get("models", [])),
            names=tuple(map(NamePattern, sorted(names))),
        )

    def _tags(self, path: KeyPath, raw: Any) -> tuple[tuple[str, frozenset[str]], ...]:
        tags = []
        for key, value in self._form.mapping(path, raw, None).items():
            if problem := name_problem(key, chars_max=TAG_KEY_CHARS_MAX):
                self._form.error((*path, key), problem)
            values = self._form.one_or_more_names(
                (*path, key), value, chars_max=TAG_VALUE_CHARS_MAX
            )
            tags.append((key, values))
        return tuple(tags)

    def _location(self, path: KeyPath, raw: Any) -> Location:
        location = self._form.mapping(path, raw, LOCATION_KEYS)
        if not location:
            self._form.error(path, f"requires at least one of {_quoted(LOCATION_KEYS)}")
        for key, value in location.items():
            self._form.name((*path, key), value)
        return Location(
            **{key: str(value) for key, value in location.items() if key in LOCATION_KEYS}
        )


def _has_empty_value(mapping: Mapping[str, Any]) -> bool:
    return [] in mapping.values() or {} in mapping.values()


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
