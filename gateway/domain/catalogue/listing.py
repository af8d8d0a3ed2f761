"""Filter a list response of the cloud to the entries that one caller may see. Pure.

Entries are forwarded byte for byte. Of the members around the entries only known ones are
forwarded: an unknown member could be a count or a marker that reveals hidden servers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.domain.catalogue.catalogue import encode_query
from gateway.domain.errors import BadRequest, UpstreamBroken
from gateway.domain.model import Listing, Paging, ResolvedCall, ServerId

_SERVER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MARKER_CHARS_MAX = 1_024
_WHOLE: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY: Final = msgspec.json.Decoder()


class _PageInfo(msgspec.Struct):
    next_marker: str | None = None


class _Envelope(msgspec.Struct):
    count: int | None = None
    page_info: _PageInfo | None = None


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One parsed page of a list response."""

    raws: Sequence[msgspec.Raw]
    ids: Sequence[str]
    """The entries' own IDs, which markers refer to."""
    servers: Sequence[tuple[ServerId, ...]]
    """The servers that each entry belongs to. An entry without servers is always hidden."""
    next_marker: str
    count: int | None
    has_page_info: bool
    positions: Mapping[ServerId, int] | None
    """The entry of each server; None if an entry has several, or a server has several."""


class ListPageReader:
    """Parses the pages of one operation; raises UpstreamBroken for a malformed page."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        member = listing.server.split(".")[0]
        # Only the inspected members of an entry are decoded into objects.
        fields: list[tuple[str, Any, Any]] = [("own", str | None, None), ("server", Any, None)]
        names = {"own": "id", "server": member}
        if member == "id":
            fields, names = fields[:1], {"own": "id"}
        entry = msgspec.defstruct("Entry", fields, rename=names)
        self._entries: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(
            list[entry]  # type: ignore[valid-type]
        )
        self._server = "own" if member == "id" else "server"
        self._inner = tuple(listing.server.split(".")[1:])

    def __call__(self, body: bytes) -> ListPage:
        try:
            members = _WHOLE.decode(body)
            around = _ENVELOPE.decode(body)
            raw = members[self._listing.entries]
            raws = _LIST.decode(raw)
            entries = self._entries.decode(raw)
        except (msgspec.DecodeError, KeyError) as error:
            raise UpstreamBroken(f"the list is malformed: {type(error).__name__}") from None
        info = around.page_info
        servers = self._servers([getattr(one, self._server) for one in entries])
        return ListPage(
            raws,
            [one.own or "" for one in entries],
            servers,
            _parse_marker(info.next_marker or "") if info is not None else "",
            around.count,
            info is not None,
            _positions(servers),
        )

    def _servers(self, values: list[Any]) -> Sequence[tuple[ServerId, ...]]:
        if self._inner:
            return [self._servers_in(value) for value in values]
        if all(
            map(_SERVER.fullmatch, map(str, values))
        ):  # fast path: 10,000 IDs in a few milliseconds
            return list(zip(values))
        return [(ServerId(one.lower()),) if isinstance(one, str) and one else () for one in values]

    def _servers_in(self, value: Any) -> tuple[ServerId, ...]:
        found = (one.lower() for one in _strings_at(value, self._inner))
        return tuple(ServerId(one) for one in found if _SERVER.fullmatch(one))


def _positions(servers: Sequence[tuple[ServerId, ...]]) -> Mapping[ServerId, int] | None:
    found = {of[0]: i for i, of in enumerate(servers) if len(of) == 1}
    return found if len(found) == len(servers) else None


def _strings_at(value: Any, steps: tuple[str, ...]) -> list[str]:
    if isinstance(value, list):
        return [text for one in value for text in _strings_at(one, steps)]
    if steps:
        return _strings_at(value.get(steps[0]), steps[1:]) if isinstance(value, dict) else []
    return [value] if isinstance(value, str) else []


def _parse_marker(text: str) -> str:
    # ListInstances documents it as the URL of the next page, and uses it as a cursor
    # (upstream-api.md#1.4).
    found = re.search(r"[?&]marker=([^&#]+)", text)
    marker = found[1] if found else text
    if len(marker) > _MARKER_CHARS_MAX or not marker.isprintable():
        raise UpstreamBroken("the list's marker is malformed")
    return marker


def page_target(call: ResolvedCall, *, marker: str = "", offset: int = 0) -> str:
    """Return the upstream target of one page of the unfiltered list, with the largest limit."""
    listing = _listing(call)
    pairs = [pair for pair in call.query if pair[0] not in ("limit", "marker", "offset")]
    pairs.append(("limit", str(listing.limit_max)))
    if marker:
        pairs.append(("marker", marker))
    if offset:
        pairs.append(("offset", str(offset)))
    return f"{call.target.partition('?')[0]}?{encode_query(pairs)}"


def visible_entries(
    pages: Sequence[ListPage],
    allows: Callable[[ServerId], bool],
    candidates: AbstractSet[ServerId] | None = None,
) -> "VisibleEntries":
    """Return the entries of which `allows` accepts each server.

    `candidates`: at least the servers that it accepts, so that the others need not be visited.
    """
    if candidates is not None:
        candidates = set(filter(allows, candidates))
    raws: list[msgspec.Raw] = []
    ids: list[str] = []
    for page in pages:
        positions = page.positions
        if candidates is not None and positions is not None and len(candidates) < len(positions):
            for at in sorted(positions[one] for one in candidates if one in positions):
                raws.append(page.raws[at])
                ids.append(page.ids[at])
            continue
        for raw, own, servers in zip(page.raws, page.ids, page.servers, strict=True):
            if servers and all(map(allows, servers)):
                raws.append(raw)
                ids.append(own)
    return VisibleEntries(raws, ids, any(page.has_page_info for page in pages))


@dataclass(frozen=True, slots=True)
class VisibleEntries:
    """All entries of a list that one caller may see."""

    raws: Sequence[msgspec.Raw]
    ids: Sequence[str]
    has_page_info: bool

    def encode_page(self, call: ResolvedCall) -> bytes:
        """Return the response body; raise BadRequest for an invalid limit, marker or offset."""
        listing = _listing(call)
        query = dict(call.query)
        limit = _parse_number("limit", query.get("limit"), listing.limit)
        limit = min(listing.limit_max, max(listing.limit_min, limit))
        if listing.paging is Paging.OFFSET:
            start = _parse_number("offset", query.get("offset"), 0)
        else:
            start = self._after(query.get("marker", ""))
        entries = self.raws[start : start + limit]
        members: dict[str, Any] = {listing.entries: entries, "count": len(self.ids)}
        if self.has_page_info:
            more = start + limit < len(self.ids)
            members["page_info"] = {
                "next_marker": self.ids[start + limit - 1] if more else None,
                "previous_marker": self.ids[start - limit] if start >= limit else None,
                "current_count": len(entries),
            }
        return msgspec.json.encode(members)

    def _after(self, marker: str) -> int:
        if not marker:
            return 0
        try:
            return self.ids.index(marker) + 1
        except ValueError:  # hidden, unknown and deleted IDs yield the same error
            raise BadRequest(
                "Unknown marker. Use `page_info.next_marker` of the previous page."
            ) from None


def _listing(call: ResolvedCall) -> Listing:
    assert call.operation.listing is not None
    return call.operation.listing


def _parse_number(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadRequest(f"The query parameter {name} must be a whole number.")
    return int(text)
