"""One log line and one count per request."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gateway.domain.errors import (
    CallerLimited,
    CrossSiteRequest,
    GatewayError,
    NotAuthenticated,
    SessionCookieMissing,
    TicketRejected,
    UpstreamRefused,
)
from gateway.domain.model import ConsoleLink, LinkSource, Principal, ResolvedCall
from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.domain.sampling import EvenSampler
from gateway.edge.public.outcome import RequestOutcome
from gateway.flow.clock import Clock
from gateway.flow.console_links import IssuedLink

_CLOUD_CODE = "cloud"
_LOCAL = LinkSource.LOCAL.value
_LIMITED_LOG_PACE = Pace(requests=10, per_s=1, burst=10)
"""The rate limit of log lines for requests above the caller's own rate limit, and for tickets that
are none."""

CountRequest = Callable[[str, str, int, str, float, str], None]
"""Arguments: kind, operation, status, error code, duration in seconds, trace ID for an exemplar."""


class Lines(Protocol):
    """The lines of requests; each method that writes returns False if the log level excludes it."""

    def write(self, at: float, fields: Mapping[str, Any], /) -> bool: ...

    def prepare(self, fields: Mapping[str, Any], /) -> bytes:
        """Return the end of the line of a request with status 200: `fields` follow the duration."""

    def write_prepared(
        self, at: float, request_id: bytes, seconds: float, prepared: bytes, /
    ) -> bool: ...


class RequestLog:
    def __init__(
        self,
        clock: Clock,
        *,
        count_request: CountRequest,
        lines: Lines,
        hit_log_share: EvenSampler | None,
        count_unlogged: Callable[[], object],
    ) -> None:
        """`hit_log_share` samples the lines of local cache hits; None writes all of them."""
        self._clock = clock
        self._count_request = count_request
        self._lines = lines
        self._hit_log_share = hit_log_share
        self._count_unlogged = count_unlogged
        self._limited_lines_tat = 0.0

    def finish(self, outcome: RequestOutcome) -> None:
        """Count the request, write its line and end its trace."""
        seconds = self._clock.monotonic() - outcome.began
        self._count(outcome, seconds)
        line = _fields(outcome, seconds)
        trace = outcome.trace
        if trace is not None:
            line["trace_id"] = trace.trace_id
            trace.end(line)
        if self._is_left_unlogged(outcome) or not self._lines.write(self._clock.now(), line):
            self._count_unlogged()

    def prepare_hit(
        self, client: str, principal: Principal, call: ResolvedCall, link: ConsoleLink
    ) -> bytes:
        """Return what `write_hit` needs of a link from this process's cache."""
        return self._lines.prepare(
            {
                "client": client,
                "issuer": principal.issuer,
                "subject": principal.subject,
                "operation": call.operation.name,
                "project": call.project,
                "servers": call.servers,
                "source": _LOCAL,
                "link": link.fingerprint,
            }
        )

    def write_hit(self, now: float, request_id: bytes, seconds: float, prepared: bytes) -> None:
        """Write the line that `finish` would, without a count or a trace."""
        share = self._hit_log_share
        is_sampled = share is None or share.samples()
        if not is_sampled or not self._lines.write_prepared(now, request_id, seconds, prepared):
            self._count_unlogged()

    def _count(self, outcome: RequestOutcome, seconds: float) -> None:
        # The cloud's codes are unbounded; the metric label has one value for all of them.
        is_cloud_code = isinstance(outcome.error, UpstreamRefused)
        label = _CLOUD_CODE if is_cloud_code else outcome.error_code
        trace = outcome.trace
        trace_id = trace.trace_id if trace is not None and trace.is_sampled else ""
        operation = outcome.operation or "none"
        self._count_request(outcome.kind, operation, outcome.status, label, seconds, trace_id)

    def _is_left_unlogged(self, outcome: RequestOutcome) -> bool:
        if _is_flood(outcome.error):
            # Without this bound a client in a retry loop would fill the log.
            now = self._clock.monotonic()
            if wait_for(self._limited_lines_tat, now, _LIMITED_LOG_PACE) > 0:
                return True
            self._limited_lines_tat = spend(self._limited_lines_tat, now, _LIMITED_LOG_PACE)
            return False
        share = self._hit_log_share
        return share is not None and outcome.is_hit and not share.samples()


def _is_flood(error: BaseException | None) -> bool:
    """Return whether a line for each such request could fill the log."""
    if isinstance(error, TicketRejected):
        return not error.is_genuine
    return isinstance(error, CallerLimited | CrossSiteRequest | SessionCookieMissing)


def _fields(outcome: RequestOutcome, seconds: float) -> dict[str, Any]:
    principal, operation = outcome.principal, outcome.operation
    api_request, result, error = outcome.api_request, outcome.result, outcome.error
    line: dict[str, Any] = {
        "request_id": outcome.request_id,
        "status": outcome.status,
        "seconds": round(seconds, 6),
        "client": outcome.client,
    }
    if principal is not None:
        line["issuer"] = principal.issuer
        line["subject"] = principal.subject
    if operation is not None:
        line["operation"] = operation
    if api_request is not None and api_request.call is not None:
        line["project"] = api_request.call.project
        line["servers"] = api_request.call.servers
    if isinstance(result, IssuedLink):
        line["source"] = result.source.value
        line["link"] = result.link.fingerprint
    if error is not None:
        line["error_code"] = outcome.error_code
        line.update(_error_fields(error))
    return line


def _error_fields(error: BaseException) -> dict[str, str]:
    fields = {"error": type(error).__name__}
    if isinstance(error, NotAuthenticated):
        fields["reason"] = error.reason.value
        if error.issuer is not None:
            fields["issuer"] = error.issuer
    if isinstance(error, GatewayError):  # the text of other exceptions may contain a secret
        fields["detail"] = str(error)
    return fields
