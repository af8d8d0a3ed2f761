"""What all requests of callers have in common, whichever operations they are for."""

from dataclasses import dataclass

from gateway.domain.model import Call, Principal
from gateway.flow.ports import Trace


@dataclass(slots=True, kw_only=True, repr=False)
class Request:
    """One request, as the edge read it; the flow notes down what it finds out."""

    request_id: str
    client_address: str
    deadline: float
    """Monotonic seconds."""
    trace: Trace | None = None
    """None: nobody wants to know."""
    principal: Principal | None = None
    call: Call | None = None
    access_key: str = ""
    """Of the key pair of ours with which it is signed."""
    is_admitted: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request_id})"
