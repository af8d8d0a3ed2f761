"""Signs requests to one project of the cloud, with keys that may change between requests."""

from urllib.parse import urlsplit

from gateway.domain.model import Headers, Secret, UpstreamRequest
from gateway.domain.upstream.signing import sign
from gateway.flow.clock import Clock


class RequestSigner:
    def __init__(self, project: str, endpoint: str, clock: Clock) -> None:
        self._project = project
        self._host = urlsplit(endpoint).netloc
        self._clock = clock

    def headers(
        self,
        request: UpstreamRequest,
        access_key: Secret,
        secret_key: Secret,
        security_token: Secret | None,
    ) -> Headers:
        """Return the headers of a signed request, as the vendor's SDK does.

        See upstream-api.md#4.1.
        """
        token = {} if security_token is None else {"X-Security-Token": security_token.reveal()}
        return sign(
            method=request.method,
            target=request.path,
            headers={"Host": self._host, "X-Project-Id": self._project, **token},
            body=request.body,
            access_key=access_key,
            secret_key=secret_key,
            at=self._clock.now(),
        )
