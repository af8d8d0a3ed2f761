"""The request log, read back."""

import json
import logging
from typing import Any

from gateway.drivers.telemetry.log import RequestLines


class RecordedLines(RequestLines):
    """Writes lines to a list, whatever the level of the process's loggers."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        super().__init__(lambda line: self.found.append(json.loads(line)), "json")
        self._logger = logging.Logger("gateway.request", logging.INFO)  # noqa: LOG001 - no others
