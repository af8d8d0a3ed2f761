"""The allow-list of operations, and the servers that a request names. Pure.

An operation that is not in the catalogue never reaches the cloud. A request is parsed once, and
each path segment and query parameter is percent-decoded exactly once. The upstream request is
built from the parsed values, so it contains only what the policy decided on.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from gateway.domain.catalogue.json_body import (
    member_at,
    member_names,
    parse_json,
    parse_json_object,
    reject_lookalikes,
    require_json,
)
from gateway.domain.catalogue.tags import keys_of_tags, may_contain_tags
from gateway.domain.errors import (
    BadRequest,
    MethodNotAllowed,
    OperationUnknown,
    RequestTooLarge,
    ServerIdsRequired,
)
from gateway.domain.model import (
    PERMISSIONS,
    SERVER_ID,
    SERVER_TAG,
    InstanceId,
    Operation,
    Paging,
    ProjectId,
    ResolvedCall,
    ResponseKind,
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
_ID_MEMBERS = frozenset(
    {"server_id", "server_ids", "server_id_set", "instance_id", "instance_ids", "instance_id_set"}
    | {"resource_id", "resource_ids", "resource_id_set"}
)
"""The cloud's names for server and instance IDs. An ID at a path that the catalogue does not
know could be effective in the cloud without a decision by the policy."""


SHOW_PERMISSIONS = Operation(
    name="ShowPermissions",
    method="GET",
    path="/permissions",
    permission="",
    servers_in_query="server_id",
    response=ResponseKind.PERMISSIONS,
)
"""The gateway's own operation: the caller's permissions, without a call to the cloud."""


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
            # `/physicalservers/status` before `/physicalservers/{server_id}` (upstream-api.md#1.1).
            rows.sort(key=lambda row: [segment.startswith("{") for segment in row[0]])
        self._resolved: dict[tuple[str, str], ResolvedCall] = {}

    def resolve(self, method: str, target: str) -> ResolvedCall:
        """Resolve a request without its body; `target` is path and query of the request line.

        An operation that takes a body also needs `resolve_body`. Raises OperationUnknown,
        MethodNotAllowed, ServerIdsRequired, BadRequest.
        """
        call = self._resolved.get((method, target))
        if call is None:
            call = self._parse(method, target)
            if not call.query:  # calls with a query are too many, and too large to cache
                if len(self._resolved) >= _RESOLVED_MAX:
                    self._resolved.clear()
                self._resolved[method, target] = call
        return call

    def _parse(self, method: str, target: str) -> ResolvedCall:
        path, _, query = target.partition("?")
        if len(target) > _TARGET_CHARS_MAX:
            raise BadRequest(
                f"The path is too long; the limit is {_TARGET_CHARS_MAX:,} characters."
            )
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
        return ResolvedCall(
            operation,
            project,
            servers,
            f"/v1/{project}/{sent}{query}",
            tuple(named.items()),
            instances,
            touches_unnamed=not (servers or instances) and _touches_whole_project(operation),
            tag_keys=None if operation.permission == SERVER_TAG else frozenset(),
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
    """Return whether HEAD is allowed. It is executed as GET, which must not open a console."""
    return not operation.writes and operation.response is not ResponseKind.STREAMED


def resolve_body(
    call: ResolvedCall, body: bytes, content_types: Sequence[str] = ()
) -> ResolvedCall:
    """Return the call with its body and with the IDs in the body.

    An empty or absent set of IDs is rejected: the cloud may treat it as any server, or as all.
    `content_types` are the values of the header. Raises BadRequest, UnsupportedMediaType,
    RequestTooLarge, ServerIdsRequired.
    """
    operation = call.operation
    if len(body) > operation.body_bytes_max:
        raise RequestTooLarge(
            f"The request body is too large; the limit is {operation.body_bytes_max} bytes."
        )
    if body:
        require_json(content_types)
    call = replace(call, tag_keys=_tag_keys_in_body(call, body))
    path = operation.servers_in_body or operation.instances_in_body
    if not path:
        _reject_ids(call, body)
        return replace(call, body=body)
    document = parse_json_object(body)
    ids = _ids_in_body(document, path, operation)
    if ids is None:
        return replace(call, body=body, touches_unnamed=True)
    if operation.servers_in_body:
        servers = tuple(_parse_server_ids(ids, operation, as_sent=True))
        more = _highest_count(document, operation) > len(servers)
        return replace(call, body=body, servers=servers, touches_unnamed=more)
    return replace(call, body=body, instances=tuple(_parse_instance_ids(ids, operation)))


def _tag_keys_in_body(call: ResolvedCall, body: bytes) -> frozenset[str] | None:
    """Return the keys of the tags that a call writes; None if they are unknown."""
    operation = call.operation
    if operation.tags_in_body:
        return keys_of_tags(parse_json_object(body), operation.tags_in_body)
    ids_in_body = operation.servers_in_body or operation.instances_in_body
    is_about_servers = bool(call.servers or call.instances or ids_in_body)
    # The cloud documents no tags in other bodies. It may accept them all the same.
    if body and is_about_servers and may_contain_tags(member_names(parse_json(body))):
        return None
    return call.tag_keys


def _ids_in_body(document: dict[str, Any], path: str, operation: Operation) -> Sequence[Any] | None:
    """Return the IDs at `path`; None if the body has no IDs and the operation allows that."""
    found = member_at(document, path)
    if found is None and not operation.may_name_none:
        raise ServerIdsRequired(f"`{path}` is missing or empty")
    counts = operation.counts_in_body
    names = tuple(member_names(document))
    reject_lookalikes(names, {*_ID_MEMBERS, *path.split("."), *counts})
    if sum(name in counts for name in names) > sum(name in document for name in counts):
        raise BadRequest(f"{' and '.join(counts)} must be at the top level.")
    number = sum(name in _ID_MEMBERS for name in names)
    if found is None and not number:
        return None
    ids = [found] if isinstance(found, str) else found
    if not isinstance(ids, list) or not ids:
        raise ServerIdsRequired(f"`{path}` is missing or empty")
    if number != int(path.rpartition(".")[2] in _ID_MEMBERS):
        raise BadRequest(f"IDs of servers and instances are allowed in `{path}` only.")
    return ids


def _reject_ids(call: ResolvedCall, body: bytes) -> None:
    """Raise BadRequest if the body names servers or instances beside those of the path."""
    if not body:
        return
    names = tuple(member_names(parse_json(body)))
    if not call.servers and not call.instances:
        return
    reject_lookalikes(names, _ID_MEMBERS)
    if not _ID_MEMBERS.isdisjoint(names):
        raise BadRequest("The body must not contain IDs; the path names the server or instance.")


def operation_problems(operation: Operation) -> Iterator[str]:
    """Describe each error in an operation that an operator configured."""
    ids_in_body = operation.servers_in_body or operation.instances_in_body
    listed = operation.response is ResponseKind.LISTED
    links = operation.response is ResponseKind.CONSOLE_LINK
    rules = {
        "path must have the form /physicalservers/{server_id}/name": _PATH.fullmatch(
            operation.path
        ),
        f"permission must be one of {', '.join(sorted(PERMISSIONS))}": (
            operation.permission in PERMISSIONS
        ),
        f"method must be one of {', '.join(_METHODS)}": operation.method in _METHODS,
        "a method other than GET requires `writes: true`": (
            operation.method == "GET" or operation.writes
        ),
        "`writes: true` requires `response: whole` or `response: console_link`": (
            not operation.writes
            or operation.response in (ResponseKind.WHOLE, ResponseKind.CONSOLE_LINK)
        ),
        "`response: listed` requires `listing`, and `listing` requires `response: listed`": listed
        == (operation.listing is not None),
        "`response: console_link` requires {server_id} in the path": not links
        or _SERVER_ID in operation.path,
        "`servers_in_body` and `instances_in_body` require `body_bytes_max`": not ids_in_body
        or operation.body_bytes_max,
        "`tags_in_body` requires `body_bytes_max`, and a name without dots": (
            not operation.tags_in_body
            or (operation.body_bytes_max and "." not in operation.tags_in_body)
        ),
        "`counts_in_body` requires `servers_in_body`": (
            not operation.counts_in_body or operation.servers_in_body
        ),
        "`response: permissions` is reserved for the gateway": operation.response
        is not ResponseKind.PERMISSIONS,
    }
    return (problem for problem, is_valid in rules.items() if not is_valid)


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the query string of these parameters, in one canonical encoding."""
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
            raise BadRequest("An ID in the path is malformed.")
        sent.append(segment)
    return tuple(servers), tuple(instances), "/".join(sent)


def _parse_query(text: str, operation: Operation) -> dict[str, str]:
    if not text:
        return {}
    known = query_parameters(operation)
    pairs: dict[str, str] = {}
    for part in filter(None, text.split("&")):  # empty parts mean nothing
        name, _, value = part.partition("=")
        try:
            name, value = (unquote_to_bytes(raw).decode() for raw in (name, value))
        except UnicodeDecodeError:
            raise BadRequest("The query must be percent-encoded UTF-8.") from None
        if name not in known:
            allowed = f"allowed: {', '.join(known)}" if known else "none is allowed"
            raise BadRequest(f"Unknown query parameter; {allowed}.")
        if name in pairs:
            raise BadRequest(f"The query parameter {name} occurs more than once.")
        if not value.isprintable():
            raise BadRequest(f"The query parameter {name} is malformed.")
        pairs[name] = value
    return pairs


def query_parameters(operation: Operation) -> tuple[str, ...]:
    """Return the names of the operation's query parameters."""
    ids = (operation.servers_in_query, operation.instances_in_query)
    paging: tuple[str, ...] = ()
    if operation.listing is not None:
        paging = ("limit", "marker" if operation.listing.paging is Paging.MARKER else "offset")
    return (*operation.query, *(name for name in ids if name), *paging)


def _decode_segment(segment: str) -> str:
    if "%" not in segment:
        return segment
    # A non-ASCII byte or an encoded slash matches no template and no ID.
    return unquote_to_bytes(segment).decode("ascii", errors="replace")


def _parse_project(segment: str) -> ProjectId:
    if segment == "{project_id}":  # the SDK sends it without a project (upstream-api.md#4.1)
        raise BadRequest(
            "The path contains the literal {project_id}; replace it by your project's ID."
        )
    if not _PROJECT.fullmatch(segment):
        raise BadRequest("The project ID in the path is malformed.")
    return ProjectId(segment)


def parse_server_id(text: str) -> ServerId:
    """Return the ID in lower case; raise BadRequest if it is not a UUID."""
    server = text.lower()
    if not SERVER_ID.fullmatch(server):
        raise BadRequest("The server ID must be a UUID like 1b2c3d4e-….")
    return ServerId(server)


def _parse_instance_id(text: str) -> InstanceId:
    if not _SEGMENT.fullmatch(text):
        raise BadRequest("An instance ID is malformed.")
    return InstanceId(text)


def _parse_server_ids(
    ids: Sequence[Any], operation: Operation, *, as_sent: bool = False
) -> Iterator[ServerId]:
    """With `as_sent` an ID must be in lower case: the body is forwarded unchanged."""
    for text in _distinct_ids(ids, operation):
        server = text if as_sent else text.lower()
        if not SERVER_ID.fullmatch(server):
            raise BadRequest("A server ID must be a UUID in lower case, like 1b2c3d4e-….")
        yield ServerId(server)


def _parse_instance_ids(ids: Sequence[Any], operation: Operation) -> Iterator[InstanceId]:
    return map(_parse_instance_id, _distinct_ids(ids, operation))


def _distinct_ids(ids: Sequence[Any], operation: Operation) -> list[str]:
    if not all(isinstance(text, str) for text in ids):
        raise BadRequest("IDs must be strings.")
    if not any(ids):
        raise ServerIdsRequired("the set of IDs is empty")
    if len(ids) > operation.ids_max:
        raise BadRequest(f"At most {operation.ids_max} IDs are allowed in one request.")
    return list(dict.fromkeys(ids))


def _highest_count(document: Mapping[str, Any], operation: Operation) -> int:
    """Return the largest count in the body; 0 without one."""
    counts = [document[name] for name in operation.counts_in_body if document.get(name) is not None]
    if not all(type(count) is int for count in counts):  # a bool is an int in Python
        raise BadRequest(f"{' and '.join(operation.counts_in_body)} must be whole numbers.")
    return max(counts, default=0)
