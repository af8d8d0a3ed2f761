"""Which operations of the cloud's API may pass, and where each names its servers. Pure.

What is not in the catalogue is unknown here and never reaches the cloud. The path is read once,
as it stands on the request line, with each segment percent-decoded exactly once.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from gateway.errors import BadRequest, MethodNotAllowed, OperationUnknown
from gateway.model import (
    CONSOLE_OPEN,
    BudgetClass,
    Call,
    Operation,
    Priority,
    ProjectId,
    ServerId,
)

OPERATIONS = (
    Operation(
        name="ShowRemoteConsole",
        method="GET",
        template="/physicalservers/{id}/remote-console-address",
        # A GET that the cloud itself grades as a write (dossier 1.1): it opens a machine.
        permission=CONSOLE_OPEN,
        budget=BudgetClass.CONSOLE,
        priority=Priority.INTERACTIVE,
    ),
)

_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PATH_CHARS_MAX = 4_096
_REMEMBERED_MAX = 10_000


class Catalogue:
    def __init__(self, operations: Sequence[Operation]) -> None:
        self._by_segments: dict[int, list[tuple[list[str], Operation]]] = {}
        for operation in operations:
            pattern = operation.template.split("/")[1:]
            self._by_segments.setdefault(len(pattern), []).append((pattern, operation))
        self._resolved: dict[tuple[str, str], Call] = {}
        for rows in self._by_segments.values():
            # `/physicalservers/status` before `/physicalservers/{id}` (dossier 1.1).
            rows.sort(key=lambda row: [segment.startswith("{") for segment in row[0]])

    def resolve(self, method: str, target: str, *, has_body: bool) -> Call:
        """Return what is asked; `target` is the request line's, query included.

        Raises OperationUnknown, MethodNotAllowed, BadRequest.
        """
        if not has_body:
            known = self._resolved.get((method, target))
            if known is not None:
                return known
        call = self._read(method, target, has_body=has_body)
        if len(self._resolved) >= _REMEMBERED_MAX:
            self._resolved.clear()
        self._resolved[method, target] = call
        return call

    def _read(self, method: str, target: str, *, has_body: bool) -> Call:
        path = target.partition("?")[0]
        if len(path) > _PATH_CHARS_MAX:
            raise BadRequest("The path is too long.")
        segments = [_decode(segment) for segment in path.split("/")]
        if len(segments) < 4 or segments[0] or segments[1] != "v1":
            raise OperationUnknown("There is no such operation here.")
        operation, server = self._find(method, segments[3:])
        if has_body:
            raise BadRequest("This operation takes no request body; send none.")
        return Call(operation, _project(segments[2]), (_server(server),))

    def _find(self, method: str, segments: list[str]) -> tuple[Operation, str]:
        others = set()
        for pattern, operation in self._by_segments.get(len(segments), ()):
            if all(
                part in (segment, "{id}") for part, segment in zip(pattern, segments, strict=True)
            ):
                if operation.method == method:
                    return operation, segments[pattern.index("{id}")]
                others.add(operation.method)
        if others:
            raise MethodNotAllowed(
                "This path takes another method; the Allow header names it.",
                allowed=tuple(sorted(others)),
            )
        raise OperationUnknown("There is no such operation here.")


def _decode(segment: str) -> str:
    if "%" not in segment:
        return segment
    # A byte that is no ASCII, or a slash that was hidden, matches no template and no id.
    return unquote_to_bytes(segment).decode("ascii", errors="replace")


def _project(segment: str) -> ProjectId:
    if segment == "{project_id}":  # what the SDK sends when it was given no project (dossier 4.1)
        raise BadRequest("The path says {project_id} literally: put your project's id there.")
    if not _PROJECT.fullmatch(segment):
        raise BadRequest("The project id in the path is malformed.")
    return ProjectId(segment)


def _server(segment: str) -> ServerId:
    server = segment.lower()
    if not _SERVER.fullmatch(server):
        raise BadRequest("The server id in the path is not a UUID like 1b2c3d4e-….")
    return ServerId(server)
