"""Stage resolve: method, target and body -> the operation and the servers it touches."""

from contextlib import suppress

from gateway.domain.catalogue.catalogue import Catalogue, resolve_body
from gateway.domain.catalogue.headers import content_types
from gateway.domain.errors import BadRequest, RequestTooLarge
from gateway.domain.model import ResolvedCall
from gateway.flow.request import ApiRequest


class Resolve:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __call__(self, request: ApiRequest) -> ResolvedCall:
        """Resolve everything but the body; raise what Catalogue.resolve raises."""
        call = self._catalogue.resolve(request.method, request.target)
        request.call = call
        return call

    async def require_no_body(self, request: ApiRequest) -> None:
        """Accept a body of no bytes, as HTTP/2 proxies send it with a read; else BadRequest."""
        with suppress(RequestTooLarge):
            if not (await request.read_body(0) if request.body is None else request.body):
                return
        raise BadRequest("This operation takes no request body.")

    async def body(self, request: ApiRequest, call: ResolvedCall) -> ResolvedCall:
        """Read the body, if the operation takes one, and resolve the IDs in it.

        Raises BadRequest, UnsupportedMediaType, RequestTooLarge and ServerIdsRequired.
        """
        limit = call.operation.body_bytes_max
        if limit:
            body = await request.read_body(limit) if request.body is None else request.body
            call = request.call = resolve_body(call, body, content_types(request.headers))
        return call

    def for_audit(self, request: ApiRequest) -> None:
        """Resolve a request that was rejected before this stage, for its audit record."""
        if request.call is None:
            with suppress(BadRequest):
                self(request)
