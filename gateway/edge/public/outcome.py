"""The state of one request at the edge, from its arrival to its log line."""

from dataclasses import dataclass
from http import HTTPStatus

from gateway.domain.model import Headers, LinkSource, Principal, ResponseKind
from gateway.edge.consoles.page_assets import PageAsset
from gateway.edge.docs.pages import DocsPage
from gateway.edge.error_response import ErrorResponse
from gateway.flow.console_links import IssuedLink
from gateway.flow.context import RequestTrace
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.request import ApiRequest, RequestContext

CLIENT_CLOSED = 499
"""The status that nginx logs for a client that disconnected. It is never sent."""


@dataclass(slots=True)
class RequestOutcome:
    request_id: str
    client: str
    """The client's IP address."""
    began: float
    """Monotonic seconds."""
    trace: RequestTrace | None = None
    wait_s: int | None = None
    """The value of `Prefer: wait`, in seconds."""
    cors: Headers = ()
    """Headers that let a page of another origin read the response."""
    request: RequestContext | None = None
    api_request: ApiRequest | None = None
    """The same request if it is for the cloud's API; None for the federation paths."""
    page: DocsPage | PageAsset | None = None
    result: IssuedLink | ForwardedResponse | None = None
    status: int = 200
    error_code: str = ""
    error: BaseException | None = None

    @property
    def principal(self) -> Principal | None:
        return None if self.request is None else self.request.principal

    @property
    def operation(self) -> str | None:
        """The operation's name; None for an unknown path."""
        request = self.request
        if request is not None:
            return None if request.call is None else request.call.operation.name
        return None if self.page is None else self.page.name

    @property
    def has_common_headers(self) -> bool:
        """Whether the response has no headers that depend on those of the request."""
        return self.wait_s is None and not self.cors

    @property
    def is_list(self) -> bool:
        request = self.api_request
        if request is None or request.call is None:
            return False
        return request.call.operation.response is ResponseKind.LISTED

    @property
    def kind(self) -> str:
        """The `answer` label of the duration metric: link, refused, forwarded or other."""
        if self.api_request is None or self.api_request.call is None:
            return "other"
        if self.api_request.call.operation.response is not ResponseKind.CONSOLE_LINK:
            return "forwarded"
        # Rejections are fast. Counted as links, a client that collects them hides slow links.
        is_ours = self.status < 300 or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return "link" if is_ours else "refused"

    @property
    def is_hit(self) -> bool:
        """Whether the response is a link from this process's cache."""
        result = self.result
        is_ok = self.status == HTTPStatus.OK
        return is_ok and isinstance(result, IssuedLink) and result.source is LinkSource.LOCAL

    def reject(self, response: ErrorResponse, error: BaseException | None) -> None:
        self.status, self.error_code, self.error = response.status, response.error_code, error

    def close(self) -> None:
        """Note that the client disconnected; a WebSocket ends in no other way."""
        if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return
        self.status, self.error_code = CLIENT_CLOSED, "client_closed"
