"""Config section `audit`: where the audit log is written."""

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from gateway.config.files import Directory
from gateway.config.secrets import SigningKey
from gateway.config.values import Integer, Number, Seconds, Section

_DESTINATION_REQUIRED: Final[dict[str, JsonValue]] = {
    "anyOf": [
        {"properties": {"directory": {"type": "string"}}, "required": ["directory"]},
        {"properties": {"stream": {"const": True}}, "required": ["stream"]},
        {"properties": {"stdout": {"const": True}}, "required": ["stdout"]},
    ]
}


class AuditSettings(Section):
    """Destinations of the audit log; at least one is required."""

    model_config = ConfigDict(json_schema_extra=_DESTINATION_REQUIRED)

    directory: Directory | None = None
    """Directory for hash-chained files. A record is on disk before its response is sent."""
    stream: bool = False
    """Write a Redis stream. With `directory` it is a copy written later; without it, a record is
    in Redis before its response is sent."""
    stream_bytes_max: Annotated[Integer, Field(ge=1_048_576, le=1_099_511_627_776)] = 134_217_728
    """Largest size of the stream in Redis, in bytes. Beyond it the oldest records are removed,
    whatever their age."""
    stdout: bool = False
    """Write records as plain lines to standard output. With another destination it is a copy
    written later."""
    signing_key: SigningKey | None = None
    """Ed25519 private key in PEM (`openssl genpkey -algorithm ed25519`) that signs checkpoints.
    Unset: checkpoints are not signed."""
    on_unavailable: Literal["deny", "allow"] = "deny"
    """Effect on a request if its record cannot be written: `deny` answers 503, `allow` answers it
    without a record."""
    checkpoint_s: Seconds = 60.0
    """Interval of checkpoints, in seconds."""
    segment_bytes_max: Annotated[Integer, Field(ge=65_536, le=1_073_741_824)] = 67_108_864
    """Size in bytes at which a new file is started."""
    keep_days: Annotated[Number, Field(ge=0, le=36_500)] = 400.0
    """Days after which records are removed; the chain stays verifiable. 0 keeps them."""

    @model_validator(mode="after")
    def _has_a_destination(self) -> Self:
        if self.directory is None and not self.stream and not self.stdout:
            raise ValueError(
                "requires a destination: `directory: PATH`, `stream: true` or `stdout: true`"
            )
        return self
