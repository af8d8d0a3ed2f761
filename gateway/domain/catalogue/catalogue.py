"""Which operations of the cloud's API may pass, and which servers a request names. Pure.

What is not in the catalogue is unknown here and never reaches the cloud. A request is read once,
as it stands on the wire, each segment and parameter percent-decoded exactly once; what is sent
to the cloud is made anew of what was read, so nothing travels that was not decided on.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from gateway.domain.errors import (
    BadRequest,
    MethodNotAllowed,
    NamesNoServer,
    OperationUnknown,
    RequestTooLarge,
)
from gateway.domain.model import (
    PERMISSIONS,
    SERVER_ID,
    Answer,
    Call,
    InstanceId,
    Operation,
    Paging,
    ProjectId,
    ServerId,
)

_SERVER_ID = "{server_id}"
_INSTANCE_ID = "{instance_id}"
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH = re.compile(r"(?:/(?:[a-z0-9-]+|\{[a-z_]+\}))+")
_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")
_TARGET_CHARS_MAX = 8_190
_RESOLVED_MAX = 10_000
_BODY_DEPTH_MAX = 32
_ID_MEMBERS = frozenset(
    {"server_id", "server_ids", "server_id_set", "instance_id", "instance_ids", "instance_id_set"}
    | {"resource_id", "resource_ids", "resource_id_set"}
)
"""What the cloud calls servers and instances. One that stands where the catalogue does not look
might be heeded by the cloud though it was not decided on."""


SHOW_PERMISSIONS = Operation(
    name="ShowPermissions",
    method="GET",
    path="/permissions",
    permission="",
    servers_in_query="server_id",
    answer=Answer.PERMISSIONS,
)
"""What the caller may do, which needs no permission to ask and no call to the cloud."""


class Catalogue:
    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = tuple(operations)
        self.body_bytes_max = max((row.body_bytes_max for row in operations), default=0)
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in operations:
            methods = by_path.setdefault(operation.path, {})
            methods[operation.method] = operation
            if operation.method == "GET" and allows_head(operation):
                methods["HEAD"] = operation
        self._by_length: dict[int, list[tuple[list[str], dict[str, Operation]]]] = {}
        for path, methods in by_path.items():
            pattern = path.split("/")[1:]
            self._by_length.setdefault(len(pattern), []).append((pattern, methods))
        for rows in self._by_length.values():
            # `/physicalservers/status` before `/physicalservers/{server_id}` (dossier 1.1).
            rows.sort(key=lambda row: [segment.startswith("{") for segment in row[0]])
        self._resolved: dict[tuple[str, str], Call] = {}

    def resolve(self, method: str, target: str, *, has_body: bool) -> Call:
        """Return what is asked; `target` is the request line's, query included.

        A call that takes a body is whole only after `with_body`. Raises OperationUnknown,
        MethodNotAllowed, NamesNoServer, BadRequest.
        """
        call = self._resolved.get((method, target))
        if call is None:
            call = self._parse(method, target)
            if not call.query:  # those are too many, and too large to keep
                if len(self._resolved) >= _RESOLVED_MAX:
                    self._resolved.clear()
                self._resolved[method, target] = call
        if has_body and not call.operation.body_bytes_max:
            raise BadRequest("This operation takes no request body; send none.")
        return call

    def _parse(self, method: str, target: str) -> Call:
        path, _, query = target.partition("?")
        if len(target) > _TARGET_CHARS_MAX:
            raise BadRequest("The path is too long.")
        segments = [_decode_segment(segment) for segment in path.split("/")]
        if len(segments) < 4 or segments[0] or segments[1] != "v1":
            raise OperationUnknown
        operation, pattern = self._find(method, segments[3:])
        project = _parse_project(segments[2])
        servers, instances, sent = _parse_path(pattern, segments[3:])
        named = _parse_query(query, operation)
        if operation.servers_in_query in named:
            servers += tuple(
                _parse_server_ids(named[operation.servers_in_query].split(","), operation)
            )
            named[operation.servers_in_query] = ",".join(servers)
        if operation.instances_in_query in named:
            ids = named[operation.instances_in_query].split(",")
            instances += tuple(_parse_instance_ids(ids, operation))
        query = f"?{encode_query(named.items())}" if named else ""
        return Call(
            operation,
            project,
            servers,
            f"/v1/{project}/{sent}{query}",
            tuple(named.items()),
            instances,
            touches_unnamed=not (servers or instances) and _touches_whole_project(operation),
        )

    def _find(self, method: str, segments: list[str]) -> tuple[Operation, list[str]]:
        for pattern, methods in self._by_length.get(len(segments), ()):
            if all(
                part == segment or part.startswith("{")
                for part, segment in zip(pattern, segments, strict=True)
            ):
                operation = methods.get(method)
                if operation is None:
                    raise MethodNotAllowed(allowed=tuple(sorted(methods)))
                return operation, pattern
        raise OperationUnknown


def allows_head(operation: Operation) -> bool:
    """Tell whether HEAD may be asked: it is answered by a GET, which must open nothing."""
    return not operation.writes and operation.answer is not Answer.STREAMED


def resolve_body(call: Call, body: bytes) -> Call:
    """Return the call with its body, and with the ids that it names there.

    An empty or absent set of ids is refused: the cloud may take it for any server, or for all.
    Raises BadRequest, RequestTooLarge, NamesNoServer.
    """
    operation = call.operation
    if len(body) > operation.body_bytes_max:
        raise RequestTooLarge("The request body is too large for this operation.")
    place = operation.servers_in_body or operation.instances_in_body
    if not place:
        if body and (call.servers or call.instances) and any(_id_members(_json_object(body), 0)):
            raise BadRequest("The path names the server or instance; name none in the body.")
        return replace(call, body=body)
    document = _json_object(body)
    found = _member_at(document, place)
    if (
        found is None
        and operation.may_name_none
        and not _has_ids_elsewhere(document, place, given=False)
    ):
        return replace(call, body=body, touches_unnamed=True)
    ids = [found] if isinstance(found, str) else found
    if not isinstance(ids, list) or not ids:
        raise NamesNoServer(f"`{place}` is missing or empty")
    if _has_ids_elsewhere(document, place, given=True):
        raise BadRequest(f"Name servers and instances in `{place}` only.")
    if operation.servers_in_body:
        servers = tuple(_parse_server_ids(ids, operation, as_sent=True))
        more = _highest_count(document, operation) > len(servers)
        return replace(call, body=body, servers=servers, touches_unnamed=more)
    return replace(call, body=body, instances=tuple(_parse_instance_ids(ids, operation)))


def operation_problems(operation: Operation) -> Iterator[str]:
    """Say what is wrong with a row that an operator wrote."""
    ids_in_body = operation.servers_in_body or operation.instances_in_body
    listed = operation.answer is Answer.LISTED
    links = operation.answer is Answer.CONSOLE_LINK
    judged = {
        "path must be like /physicalservers/{server_id}/thing": _PATH.fullmatch(operation.path),
        f"permission must be one of {', '.join(sorted(PERMISSIONS))}": (
            operation.permission in PERMISSIONS
        ),
        f"method must be one of {', '.join(_METHODS)}": operation.method in _METHODS,
        "a method other than GET writes: say `writes: true`": (
            operation.method == "GET" or operation.writes
        ),
        "what writes is answered whole, or with a console link": (
            not operation.writes or operation.answer in (Answer.WHOLE, Answer.CONSOLE_LINK)
        ),
        "`answer: listed` and `listing` go together": listed == (operation.listing is not None),
        "a console link needs {server_id} in its path": not links or _SERVER_ID in operation.path,
        "ids in the body need body_bytes_max": not ids_in_body or operation.body_bytes_max,
        "counts_in_body goes with servers_in_body": (
            not operation.counts_in_body or operation.servers_in_body
        ),
        "an answer of permissions is the gateway's own": operation.answer is not Answer.PERMISSIONS,
    }
    return (flaw for flaw, is_right in judged.items() if not is_right)


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a query of these parameters, each byte written in one way only."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe=',')}" for name, value in pairs)


def _touches_whole_project(operation: Operation) -> bool:
    in_body = operation.servers_in_body or operation.instances_in_body
    return operation.listing is None and not in_body


def _parse_path(
    pattern: list[str], segments: list[str]
) -> tuple[tuple[ServerId, ...], tuple[InstanceId, ...], str]:
    servers: list[ServerId] = []
    instances: list[InstanceId] = []
    sent: list[str] = []
    for part, segment in zip(pattern, segments, strict=True):
        if part == _SERVER_ID:
            servers.append(parse_server_id(segment))
            sent.append(servers[-1])
            continue
        if part == _INSTANCE_ID:
            instances.append(_parse_instance_id(segment))
        elif part != segment and not _SEGMENT.fullmatch(segment):
            raise BadRequest("An id in the path is malformed.")
        sent.append(segment)
    return tuple(servers), tuple(instances), "/".join(sent)


def _parse_query(text: str, operation: Operation) -> dict[str, str]:
    if not text:
        return {}
    known = query_parameters(operation)
    pairs: dict[str, str] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        try:
            name, value = (unquote_to_bytes(raw).decode() for raw in (name, value))
        except UnicodeDecodeError:
            raise BadRequest("The query is not percent-encoded UTF-8.") from None
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise BadRequest(f"The query has a parameter that is not known here; {takes}.")
        if name in pairs:
            raise BadRequest(f"The query has {name} more than once.")
        if not value.isprintable():
            raise BadRequest(f"The value of {name} is malformed.")
        pairs[name] = value
    return pairs


def query_parameters(operation: Operation) -> tuple[str, ...]:
    """Return the names of the query's parameters that the operation takes."""
    ids = (operation.servers_in_query, operation.instances_in_query)
    paging: tuple[str, ...] = ()
    if operation.listing is not None:
        paging = ("limit", "marker" if operation.listing.paging is Paging.MARKER else "offset")
    return (*operation.query, *(name for name in ids if name), *paging)


def _decode_segment(segment: str) -> str:
    if "%" not in segment:
        return segment
    # A byte that is no ASCII, or a slash that was hidden, matches no template and no id.
    return unquote_to_bytes(segment).decode("ascii", errors="replace")


def _parse_project(segment: str) -> ProjectId:
    if segment == "{project_id}":  # what the SDK sends when it was given no project (dossier 4.1)
        raise BadRequest("The path says {project_id} literally: put your project's id there.")
    if not _PROJECT.fullmatch(segment):
        raise BadRequest("The project id in the path is malformed.")
    return ProjectId(segment)


def parse_server_id(text: str) -> ServerId:
    """Return the id in lower case; raise BadRequest where it is none."""
    server = text.lower()
    if not SERVER_ID.fullmatch(server):
        raise BadRequest("The server id is not a UUID like 1b2c3d4e-….")
    return ServerId(server)


def _parse_instance_id(text: str) -> InstanceId:
    if not _SEGMENT.fullmatch(text):
        raise BadRequest("An instance id is malformed.")
    return InstanceId(text)


def _parse_server_ids(
    ids: Sequence[Any], operation: Operation, *, as_sent: bool = False
) -> Iterator[ServerId]:
    """`as_sent`: what is decided on must stand there byte for byte, so in lower case."""
    for text in _distinct_ids(ids, operation):
        server = text if as_sent else text.lower()
        if not SERVER_ID.fullmatch(server):
            raise BadRequest("A server id is not a UUID in lower case, like 1b2c3d4e-….")
        yield ServerId(server)


def _parse_instance_ids(ids: Sequence[Any], operation: Operation) -> Iterator[InstanceId]:
    return map(_parse_instance_id, _distinct_ids(ids, operation))


def _distinct_ids(ids: Sequence[Any], operation: Operation) -> list[str]:
    if not all(isinstance(text, str) for text in ids):
        raise BadRequest("Ids must be text.")
    if not any(ids):
        raise NamesNoServer("the set of ids is empty")
    if len(ids) > operation.ids_max:
        raise BadRequest(f"At most {operation.ids_max} ids may be named in one call.")
    return list(dict.fromkeys(ids))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError):
        raise BadRequest(
            "The request body is not a JSON object in UTF-8 without duplicate members."
        ) from None
    if not isinstance(document, dict):
        raise BadRequest("The request body is not a JSON object.")
    return document


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 8259, 4: of two members of one name some take the first, others the last.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(name)


def _member_at(document: Mapping[str, Any], place: str) -> Any:
    found: Any = document
    for step in place.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(step)
    return found


def _highest_count(document: Mapping[str, Any], operation: Operation) -> int:
    """Return how many servers the body asks for by a count; 0: it counts none."""
    known = {name.casefold() for name in operation.counts_in_body}
    counts = [
        value for name, value in document.items() if name.casefold() in known and value is not None
    ]
    if not all(type(count) is int for count in counts):  # a bool is an int in Python
        raise BadRequest(f"{' and '.join(operation.counts_in_body)} are whole numbers.")
    return max(counts, default=0)


def _has_ids_elsewhere(document: dict[str, Any], place: str, *, given: bool) -> bool:
    """Tell whether ids may stand elsewhere than at `place`, where one member is them if `given`."""
    expected = int(given and place.rpartition(".")[2] in _ID_MEMBERS)
    return sum(1 for _ in _id_members(document, 0)) != expected


def _id_members(value: Any, depth: int) -> Iterator[str]:
    if depth > _BODY_DEPTH_MAX:
        raise BadRequest("The request body is nested too deeply.")
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.casefold() in _ID_MEMBERS:
                yield name
            yield from _id_members(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _id_members(inner, depth + 1)
