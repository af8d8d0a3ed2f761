"""The cloud's rate limit and the shapes of its 429 (upstream-api.md#2.3 and #3.2)."""

from aiohttp import web

from gateway.demo.cloud.clock import monotonic

_REACHED = "The throttling threshold has been reached"
_ID = '"request_id":"{id}"'

SHAPES = {
    "apigw": '{{"error_msg":"' + _REACHED + ": policy user over ratelimit,limit:{limit},"
    'time:1 second","error_code":"APIGW.0308",' + _ID + "}}",
    "ip": '{{"error_msg":"' + _REACHED + ": policy ip over ratelimit,limit:{limit},"
    'time:1 second","error_code":"APIGW.0308",' + _ID + "}}",
    "user": '{{"error_msg":"' + _REACHED + ": policy user over ratelimit,limit:{minute},"
    'time:1 minute","error_code":"APIGW.0308",' + _ID + "}}",
    "apig": '{{"error_code":"APIG.0308","error_msg":"' + _REACHED + ": policy api over "
    'ratelimit,limit:{minute},time:1 minute",' + _ID + "}}\n",
    "untold": '{{"error_code":"APIGW.0308","error_msg":"' + _REACHED + '",' + _ID + "}}",
    "imetal": '{{"error_code":"iMetal.0005","error_msg":"Too many requests"}}',
    "string": "Too Many Requests",
    "iam": '{{"error_code":"IAM.0012","error_msg":"Too many requests. Threshold: {limit} times '
    'per 1 seconds"}}',
    "ces": '{{"error_code":"ces.0429","error_msg":"Too many requests"}}',
}
"""Shapes of a 429, by a short name."""


class TokenBucket:
    """A token bucket shared by all callers."""

    def __init__(self, rate: float, burst: float) -> None:
        """`rate` is in calls per second."""
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = monotonic()

    def take(self) -> bool:
        self._fill()
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def change(self, rate: float, burst: float) -> None:
        """Change rate and burst; keep the current level, at most `burst`."""
        self._fill()
        self.rate, self.burst = rate, burst
        self._level = min(self._level, burst)

    def _fill(self) -> None:
        now = monotonic()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now


def throttled_response(
    shape: str, rate: float, request_id: str, retry_after: str | None
) -> web.Response:
    text = SHAPES[shape].format(limit=max(1, round(rate)), minute=round(rate * 60), id=request_id)
    kind = "text/plain" if shape == "string" else "application/json"
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.Response(status=429, text=text, content_type=kind, headers=headers)
