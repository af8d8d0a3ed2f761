"""Config sections `metrics` and `log`."""

from typing import Annotated

from pydantic import Field

from gateway.config.values import GroupName, Name, Number, Section
from gateway.domain.model import LogFormat, Logger, LogLevel


class MetricsSettings(Section):
    teams: dict[GroupName, Name] = Field(default={})
    """Team by group of any issuer; links are counted per team. The first group that a person has
    applies."""


class LogSettings(Section):
    format: LogFormat = "json"
    """`json`: one JSON object per line. `text`: for terminals; not for a log collector."""
    level: LogLevel = "info"
    """Lowest level that is logged: debug, info, warning or error."""
    modules: dict[Logger, LogLevel] = Field(default={})
    """Level by logger, for example `gateway.policy: debug`."""
    hit_sample_ratio: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """Share of the request log lines that is written for links from the process's cache."""

    @property
    def levels(self) -> dict[str, str]:
        """Return the level of each logger that has one."""
        return {"gateway": self.level} | {name: str(level) for name, level in self.modules.items()}
