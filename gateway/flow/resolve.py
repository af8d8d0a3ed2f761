"""Stage resolve: method, target and body -> the operation and the servers it touches."""

from contextlib import suppress

from gateway.domain.catalogue.catalogue import Catalogue, resolve_body
from gateway.domain.catalogue.headers import content_types
from gateway.domain.errors import BadRequest
from gateway.domain.model import ResolvedCall
from gateway.flow.request import ApiRequest


class Resolve:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __call__(self, request: ApiRequest) -> ResolvedCall:
        """Resolve everything but the body; raise what Catalogue.resolve raises."""
        call = self._catalogue.resolve(request.method, request.target, has_body=request.has_body)
        request.call = call
        return call

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
