"""The request and response headers that the gateway forwards: two allow-lists. Pure.

Every other header is dropped: credentials, cookies, addresses and hop-by-hop headers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE
from gateway.domain.model import Headers, ResponseKind

VIA = "1.1 console-gateway"
"""RFC 9110, 7.6.3: the received protocol, and a pseudonym instead of an address."""
_REQUEST_HEADERS = (("Accept", "accept"),)
_CONDITIONAL_HEADERS = tuple(
    (name, name.lower())
    for name in ("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since")
)
"""Forwarded for streamed bodies only: they are unchanged, so the cloud's validators apply."""
_INSPECTED = frozenset(
    {"accept-encoding", "connection"}
    | {lower for _, lower in _REQUEST_HEADERS + _CONDITIONAL_HEADERS}
)
_RESPONSE_HEADERS = tuple((name, name.lower()) for name in ("Content-Type", "Content-Encoding"))
_STREAMED_RESPONSE_HEADERS = (
    *_RESPONSE_HEADERS,
    *(
        (name, name.lower())
        for name in (
            *("Content-Disposition", "Content-Length", "Content-Range", "Accept-Ranges"),
            *("ETag", "Last-Modified"),
        )
    ),
)
_VALUE_CHARS_MAX = 512
_VALUE = re.compile(r"[ -~]*")


def request_headers(
    headers: Iterable[tuple[str, str]],
    request_id: str,
    kind: ResponseKind,
    *,
    has_body: bool = False,
) -> Headers:
    """Return the headers of the upstream request; `request_id` is the one that the edge validated.

    Trace headers are added per call, because each call is a separate span. The caller's Accept
    applies to bodies that the gateway does not read, Accept-Encoding to those that are not
    streamed; conditions and ranges apply to streamed bodies. What the gateway reads, and several
    callers may share, is JSON. So is the request body: its Content-Type is the gateway's own, not
    the caller's.
    """
    forwarded = [("X-Request-Id", request_id), ("Via", VIA)]
    if has_body:
        forwarded.append(("Content-Type", JSON_MEDIA_TYPE))
    if not keeps_content_encoding(kind):
        return (*forwarded, ("Accept", JSON_MEDIA_TYPE), ("Accept-Encoding", "identity"))
    found = _end_to_end(headers)
    streamed = kind is ResponseKind.STREAMED
    for name, lower in _REQUEST_HEADERS + _CONDITIONAL_HEADERS if streamed else _REQUEST_HEADERS:
        values = found.get(lower, ())
        if len(values) == 1 and _is_valid_value(values[0]):
            forwarded.append((name, values[0]))
    # A download is searched for the service account's credential while it passes.
    coded = not streamed and accepts_gzip(found.get("accept-encoding", ()))
    forwarded.append(("Accept-Encoding", "gzip" if coded else "identity"))
    return tuple(forwarded)


def _end_to_end(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the values of the headers that may be forwarded, by name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _INSPECTED:
            found.setdefault(lower, []).append(value)
    # RFC 9110, 7.6.1: headers named by Connection are hop-by-hop.
    for line in found.pop("connection", ()):
        for named in line.lower().split(","):
            found.pop(named.strip(), None)
    return found


def content_types(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Return each value of Content-Type."""
    return [value for name, value in headers if name.lower() == "content-type"]


def keeps_content_encoding(kind: ResponseKind) -> bool:
    """Return whether the response body is forwarded unread, in any content coding."""
    return kind in (ResponseKind.WHOLE, ResponseKind.STREAMED)


def response_headers(headers: Mapping[str, str], kind: ResponseKind) -> Headers:
    """Return the upstream response's headers (names in lower case) that the caller receives."""
    names = _STREAMED_RESPONSE_HEADERS if kind is ResponseKind.STREAMED else _RESPONSE_HEADERS
    return tuple(
        [
            (name, value)
            for name, lower in names
            if (value := headers.get(lower)) is not None and _is_valid_value(value)
        ]
    )


def accepts_gzip(values: Sequence[str]) -> bool:
    """Return whether the values of Accept-Encoding accept gzip."""
    # RFC 9110, 12.5.3: a weight of 0 excludes the coding.
    for one in ",".join(values).lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return re.fullmatch(r"\s*q=0(?:\.0*)?\s*", weight) is None
    return False


def _is_valid_value(value: str) -> bool:
    return len(value) <= _VALUE_CHARS_MAX and _VALUE.fullmatch(value) is not None
