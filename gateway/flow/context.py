"""For which request the running task works, told to those whom nobody hands it.

A task inherits this from whoever began it. So a call in a shared flight is part of the trace of
the request that pays for it, and a log line names the request that it is about.
"""

from contextvars import ContextVar
from typing import Final

from gateway.flow.ports import CallTracing

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
trace: Final[ContextVar[CallTracing | None]] = ContextVar("trace", default=None)
"""None: nobody wants to know, neither an operator nor the caller."""
