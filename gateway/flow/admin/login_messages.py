"""Requests and responses of the admin API about logins of browsers."""

from typing import Annotated, Final

from msgspec import Meta

from gateway.flow.admin.messages import (
    AdminRequest,
    AdminResponse,
    IssuerName,
    Subject,
    Text,
    Timestamp,
)

_LISTENERS: Final = ("public", "admin")

Listener = Annotated[
    str,
    Meta(
        description="Whose pages: `public`, or `admin` for the operators' pages.",
        extra_json_schema={"enum": list(_LISTENERS)},
    ),
]


class LoginsRequest(AdminRequest, frozen=True):
    """List the logins of one listener, or those of a person."""

    listener: Listener = "public"
    issuer: IssuerName | None = None
    subject: Subject | None = None
    before: Annotated[
        str, Meta(pattern="^[0-9]{0,16}$", description="`next` of the page before.")
    ] = ""

    def __post_init__(self) -> None:
        _require_listener(self.listener)
        if self.issuer is not None and self.subject is None:
            raise ValueError("issuer requires subject")
        if self.before and self.subject is not None:
            raise ValueError("before excludes subject: the logins of a person are one page")


class EndLoginsRequest(AdminRequest, frozen=True):
    """End one login (`id`), or those of a person (`subject`)."""

    listener: Listener = "public"
    id: Annotated[Text, Meta(description="ID of a login.")] | None = None
    issuer: IssuerName | None = None
    subject: Subject | None = None

    def __post_init__(self) -> None:
        _require_listener(self.listener)
        if (self.id is None) == (self.subject is None):
            raise ValueError("specify exactly one of id and subject")
        if self.issuer is not None and self.subject is None:
            raise ValueError("issuer requires subject")


def _require_listener(listener: str) -> None:
    if listener not in _LISTENERS:
        raise ValueError(f"listener must be one of: {', '.join(_LISTENERS)}")


class LoginEntry(AdminResponse, frozen=True):
    id: Annotated[
        str, Meta(description="For `EndLogins`. Audit records have its first 16 characters.")
    ]
    issuer: str
    subject: str
    client_address: Annotated[str, Meta(description="The address that logged in.")]
    started_at: Timestamp
    authenticated_at: Annotated[
        Timestamp | None,
        Meta(description="When the person authenticated. None: the issuer does not say it."),
    ]
    used_at: Annotated[Timestamp, Meta(description="The last activity of the person.")]
    idle_ends_at: Annotated[Timestamp, Meta(description="When it ends without an activity.")]
    ends_at: Annotated[Timestamp, Meta(description="When it ends in any case.")]


class LoginsResponse(AdminResponse, frozen=True):
    logins: Annotated[list[LoginEntry], Meta(description="The newest first.")]
    next: Annotated[str, Meta(description="`before` of the next page; empty for the last one.")]


class EndedLoginEntry(AdminResponse, frozen=True):
    id: str
    issuer: str
    subject: str
    client_address: str


class EndedLoginsResponse(AdminResponse, frozen=True):
    ended: Annotated[list[EndedLoginEntry], Meta(description="The logins that have ended now.")]
