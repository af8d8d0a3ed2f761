"""Standard environment variables that the gateway reads besides its config file."""

import os
from collections.abc import Mapping
from typing import Final

from gateway.config.errors import ConfigError, InvalidConfig


def inherited_descriptors(environ: Mapping[str, str] = os.environ) -> range:
    """Return the listening sockets passed to this very process (sd_listen_fds(3))."""
    ours = environ.get("LISTEN_PID", "") == str(os.getpid())
    count = environ.get("LISTEN_FDS", "")
    return range(3, 3 + int(count)) if ours and count.isdecimal() else range(0)


def tracing_variable(environ: Mapping[str, str] = os.environ) -> str:
    """Return the OpenTelemetry variable that enables tracing; "" if tracing is disabled.

    Raises InvalidConfig if a variable requests an exporter or protocol that is not supported.
    """

    def value(name: str) -> str:
        return environ.get(name, "").strip().lower()

    if value("OTEL_SDK_DISABLED") == "true" or value("OTEL_TRACES_EXPORTER") == "none":
        return ""
    enabled_by = next(filter(value, _ENABLING), "")
    for name, supported in _SUPPORTED.items():
        if enabled_by and value(name) not in ("", supported):
            message = f"must be {supported}, or unset"
            raise InvalidConfig([ConfigError("environment", 0, name, message)])
    return enabled_by


_ENABLING: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
_SUPPORTED: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
