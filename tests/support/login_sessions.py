"""Sessions of browsers whose parts are fakes."""

from typing import Any

from gateway.flow.login.browser_sessions import BrowserSessions


def browser_sessions(world: Any, **parts: Any) -> BrowserSessions:
    """Return the sessions of issuer `corp`; `world` is each part that is not given."""
    names = ("store", "refresh", "revocations", "identify", "audit", "telemetry", "clock")
    return BrowserSessions(issuers=("corp",), **{**dict.fromkeys(names, world), **parts})
