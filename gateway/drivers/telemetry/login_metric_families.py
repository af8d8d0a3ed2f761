"""The metrics of browser logins: a part of the metrics contract."""

from typing import Final

from gateway.domain.login.model import LOGIN_PROBLEMS
from gateway.drivers.telemetry.metric_family import counter

LOGIN_METRIC_FAMILIES: Final = (
    counter(
        "gateway_browser_logins_total",
        "Logins with a browser that have ended.",
        issuer="issuers of the config",
        outcome=", ".join(["ok", *(one.name for one in LOGIN_PROBLEMS)]),
    ),
    counter(
        "gateway_browser_sessions_ended_total",
        "Sessions of browsers that have ended.",
        by="person, provider, operator, refresh (the issuer ended the login), replaced (a login of"
        " another person in the same browser, or too many sessions), idle or absolute (the time"
        " limits of the config), or why the person was rejected",
    ),
)
