"""Where the public listener serves the gateway's own paths."""

from collections.abc import Sequence
from typing import Protocol

from gateway.domain.errors import MethodNotAllowed
from gateway.edge.consoles.page_assets import PageAsset
from gateway.edge.json_endpoint import JsonEndpoint, Paths, find_endpoint
from gateway.edge.listener.request import ListenerRequest


class Mount(Protocol):
    """Paths of the gateway itself. Pages of other origins may read none of them (no CORS)."""

    def owns(self, path: str) -> bool:
        """Return whether a request's path, query included, belongs here."""

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        """Return the page or file at a path, None if it is none; raise MethodNotAllowed."""

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        """Return the endpoint of a request; raise OperationUnknown, MethodNotAllowed."""


class ApiMount:
    """One subject's paths for callers with a JWT."""

    def __init__(self, bases: Sequence[str], paths: Paths) -> None:
        """`bases`: base paths, such as `/requests` and `/prefix/requests`."""
        self._bases = tuple(dict.fromkeys(bases))
        self._paths = paths

    def owns(self, path: str) -> bool:
        return self._base_of(path.partition("?")[0]) is not None

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        del request
        return None

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        path = request.raw_path.partition("?")[0]
        base = self._base_of(path)
        assert base is not None
        return find_endpoint(self._paths, path.removeprefix(base), request.method)

    def _base_of(self, path: str) -> str | None:
        return next((one for one in self._bases if path == one or path.startswith(f"{one}/")), None)


def require_read(request: ListenerRequest) -> None:
    """Raise MethodNotAllowed unless the method is one that reads a page."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(allowed=("GET", "HEAD"))
