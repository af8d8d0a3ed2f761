"""What all requests of callers have in common, whichever operations they are for."""

from dataclasses import dataclass

from gateway.domain.model import Principal, ResolvedCall
from gateway.flow.context import RequestTrace


@dataclass(slots=True, kw_only=True, repr=False)
class RequestContext:
    """One request, as the edge read it; the flow notes down what it finds out."""

    request_id: str
    client_address: str
    deadline: float
    """Monotonic seconds."""
    trace: RequestTrace | None = None
    """None: nobody wants to know."""
    principal: Principal | None = None
    call: ResolvedCall | None = None
    access_key: str = ""
    """Of the key pair of ours with which it is signed."""
    is_admitted: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request_id})"
