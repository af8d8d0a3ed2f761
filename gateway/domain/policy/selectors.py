"""Selection of servers by attributes of the inventory. Pure.

An unknown attribute must not widen a permission: `if_unknown` is False where a grant is evaluated,
and True where a denial is.
"""

from dataclasses import dataclass
from typing import Final
from unicodedata import normalize

from gateway.domain.policy.inventory import Attributes, Facet, place_facet

WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class Location:
    """A location to match; "" matches any value."""

    dc: str = ""
    rack: str = ""
    unit: str = ""

    @property
    def facet(self) -> Facet | None:
        """Return a facet that every matching server has; None: there is none."""
        if self.rack:
            return place_facet("rack", self.rack)
        return place_facet("dc", self.dc) if self.dc else None

    def matches(self, known: Attributes, *, if_unknown: bool) -> bool:
        return (
            _equals(self.dc, known.dc, if_unknown=if_unknown)
            and _equals(self.rack, known.rack, if_unknown=if_unknown)
            and _equals(self.unit, known.unit, if_unknown=if_unknown)
        )


def _equals(wanted: str, actual: str, *, if_unknown: bool) -> bool:
    return wanted in ("", actual) or (if_unknown and not actual)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern of server names, in which `*` matches any characters, or none."""

    text: str

    def matches(self, name: str) -> bool:
        first, *others = self.text.split(WILDCARD)
        if not others:
            return name == first
        *middle, last = others
        if len(name) < len(first) + len(last):
            return False
        if not (name.startswith(first) and name.endswith(last)):
            return False
        at, end = len(first), len(name) - len(last)
        for part in middle:  # the first occurrence leaves most room for the next parts
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


@dataclass(frozen=True, slots=True)
class Selector:
    """A selection of servers by attributes. An empty field matches any value."""

    tags: tuple[tuple[str, frozenset[str]], ...] = ()
    """Each key with its accepted values; the server must have one of them."""
    locations: tuple[Location, ...] = ()
    models: frozenset[str] = frozenset()
    names: tuple[NamePattern, ...] = ()
    excluded: "Selector | None" = None

    @property
    def tag_keys(self) -> frozenset[str]:
        """Return the key of each tag that decides whether a server matches."""
        own = frozenset(key for key, _ in self.tags)
        return own if self.excluded is None else own | self.excluded.tag_keys

    @property
    def choices(self) -> list[list[Facet]]:
        """Return facets: a server whose attributes are known and match has one of each list."""
        found: list[list[Facet]] = [[(key, value) for value in values] for key, values in self.tags]
        facets = [one.facet for one in self.locations]
        if facets and None not in facets:
            found.append([one for one in facets if one is not None])
        if self.models:
            found.append([place_facet("model", one) for one in self.models])
        return found

    def matches(self, known: Attributes, *, if_unknown: bool) -> bool:
        """Return whether a server matches, or `if_unknown` if an unknown attribute decides."""
        for key, values in self.tags:
            if not _has_tag(known, key, values, if_unknown=if_unknown):
                return False
        return (
            (
                not self.locations
                or any(
                    location.matches(known, if_unknown=if_unknown) for location in self.locations
                )
            )
            and (not self.models or self._matches_model(known, if_unknown=if_unknown))
            and (not self.names or self._matches_name(known, if_unknown=if_unknown))
            and not (
                self.excluded is not None
                and self.excluded.matches_any(known, if_unknown=not if_unknown)
            )
        )

    def matches_any(self, known: Attributes, *, if_unknown: bool) -> bool:
        """Return whether a server matches at least one tag, location, model or name."""
        return (
            any(_has_tag(known, key, values, if_unknown=if_unknown) for key, values in self.tags)
            or any(location.matches(known, if_unknown=if_unknown) for location in self.locations)
            or (bool(self.models) and self._matches_model(known, if_unknown=if_unknown))
            or (bool(self.names) and self._matches_name(known, if_unknown=if_unknown))
        )

    def _matches_model(self, known: Attributes, *, if_unknown: bool) -> bool:
        return known.model in self.models if known.model else if_unknown

    def _matches_name(self, known: Attributes, *, if_unknown: bool) -> bool:
        if not known.name:
            return if_unknown
        return any(pattern.matches(known.name) for pattern in self.names)


def _has_tag(known: Attributes, key: str, values: frozenset[str], *, if_unknown: bool) -> bool:
    if known.tags is None:
        return if_unknown
    return any((key, value) in known.tags for value in values)


def tag_key_form(key: str) -> str:
    """Return a form in which two keys are equal if any software could take one for the other.

    The cloud documents neither how it compares keys nor what it trims.
    """
    folded = normalize("NFKC", normalize("NFKC", key).casefold())
    return "".join(char for char in folded if char.isprintable() and not char.isspace())
