"""Value types of the config: numbers, names, addresses, and the base class of sections."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    IPvAnyNetwork,
    PlainValidator,
    WithJsonSchema,
)

from gateway.config.errors import InvalidKey
from gateway.config.policy_names import NAME_PATTERN, name_problem

_HTTP_URL = (
    r"https?://[A-Za-z0-9._\-\[\]:]+(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?"
)
_QUERY = r"(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
_API_PATH = r"/v[0-9]+(?:\.[0-9]+)*(?:/auth(?:/tokens)?|/[0-9a-f]{32}|/physicalservers)*$"
_CONSOLE_HOST = r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::(?P<port>[0-9]{1,5}))?"
DISCOVERY_PATH = "/.well-known/openid-configuration"
_ORIGIN = r"https?://[a-z0-9.\-\[\]:]+"
_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?"


class Section(BaseModel):
    """A mapping of the config file. The docstring below a key is its reference text."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # the root includes all sections; each alone is rarely needed
    )


def _reject_bool(value: object) -> object:
    if isinstance(value, bool):  # Python converts it to 0 or 1
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic does not catch TypeError
    return value


def _http_url(value: str) -> str:
    _check_http_url(value)
    if "?" in value:
        raise ValueError("must not have a query (`?`)")
    return value.rstrip("/")


def _key_set_url(value: str) -> str:
    _check_http_url(value)
    return value


def _check_http_url(value: str) -> None:
    """Raise ValueError with the part that is wrong, never with the value: it may be a secret."""
    authority = re.match(r"https?://([^/?#]*)", value)
    if authority is None:
        raise ValueError("must be an http or https URL")
    if "@" in authority[1]:
        raise ValueError("must be an http or https URL without user and password")
    if "#" in value:
        raise ValueError("must not have a fragment (`#`)")
    if not has_host_and_port(value):
        raise ValueError("must be an http or https URL with a host and, if any, a valid port")
    if not re.fullmatch(_HTTP_URL + _QUERY, value):
        raise ValueError("must have no other characters than URLs have; write them as %XX")


def check_webhook_url(value: str) -> None:
    """Raise ValueError with what is wrong, never with the URL."""
    _check_http_url(value)
    if is_exposed(value):
        raise ValueError("must be https, because the host is not loopback")


def _api_url(value: str) -> str:
    url = _http_url(value)
    if re.search(_API_PATH, url):
        # The gateway appends the version itself.
        raise ValueError("must end before the version of the API, such as `/v1` or `/v3`")
    return url


def _discovery_url(value: str) -> str:
    _check_http_url(value)
    base, mark, query = value.partition("?")
    return base.rstrip("/").removesuffix(DISCOVERY_PATH).rstrip("/") + mark + query


def discovery_document(base: str) -> str:
    """Return the address of the discovery document; a query is kept, as Entra ID needs one."""
    path, mark, query = base.partition("?")
    return f"{path}{DISCOVERY_PATH}{mark}{query}"


def _console_host(value: str) -> str:
    host = value.lower()
    found = re.fullmatch(_CONSOLE_HOST, host)
    if found is None or int(found["port"] or 1) not in range(1, 65_536):
        raise ValueError("must be a host name or `*.domain`, with or without a port, and no scheme")
    return host


def _group(value: str) -> str:
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


def has_host_and_port(url: str) -> bool:
    """Return whether a URL has a host and, where it has a port, one from 1 to 65535."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_exposed(url: str) -> bool:
    """Return whether a URL is plain HTTP to another host."""
    parts = urlsplit(url)
    return parts.scheme.lower() == "http" and not is_loopback(parts.hostname or "")


def reject_plain_http(key: str, url: str, *, insecure_http: bool) -> None:
    """Raise InvalidKey for plain HTTP beyond loopback that the config does not allow."""
    if is_exposed(url) and not insecure_http:
        problem = (
            "must be https, because the host is not loopback; or set `insecure_http: true` beside"
            " it in a network without eavesdroppers"
        )
        raise InvalidKey((key,), problem)


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        if not re.fullmatch(_HOST, value):
            raise ValueError("must be a host name or an IP address") from None
    return value


def parse_host_port(address: str) -> tuple[str, int]:
    """Split `host:port` or `[IPv6 address]:port`; raise ValueError if invalid."""
    parts = urlsplit(f"//{address}")
    if parts.netloc != address or "@" in address or not parts.port:
        raise ValueError("must be host:port")
    return _host(parts.hostname or ""), parts.port


def _host_port(address: str) -> str:
    try:
        parse_host_port(address)
    except ValueError:
        raise ValueError("must be host:port") from None
    return address


def _trusted_proxy(value: object) -> object:
    return value if value == UNIX_PROXIES else IPvAnyNetwork(value)  # type: ignore[operator]


def _origin(value: str) -> str:
    parts = urlsplit(value)
    is_safe = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1")
    if not re.fullmatch(_ORIGIN, value) or not has_host_and_port(value) or not is_safe:
        raise ValueError("must be an origin, for instance https://portal.example.com")
    return value


def _public_url(value: str) -> str:
    url = _http_url(value)
    parts = urlsplit(url)
    if "//" in parts.path or any(one in (".", "..") for one in parts.path.split("/")):
        raise ValueError("must have a path without empty, `.` and `..` segments")
    if not re.fullmatch(r"[A-Za-z0-9._~/-]*", parts.path):
        # It is part of cookies and of pages.
        raise ValueError("must have a path of letters, digits and `.`, `_`, `~`, `-` only")
    if is_exposed(url):
        raise ValueError("must be https, because the host is not loopback")
    authority = parts.netloc.lower().removesuffix(":443" if parts.scheme == "https" else ":80")
    return f"{parts.scheme}://{authority}{parts.path}"


def chosen_by(*keys: str) -> Discriminator:
    """Choose the member of a union by the one key that only this member has."""

    def tag(value: object) -> str | None:
        if isinstance(value, dict):
            return next((key for key in keys if key in value), None)
        return next((key for key in keys if hasattr(value, key)), None)

    return Discriminator(
        tag,
        custom_error_type="kind_unknown",
        custom_error_message=f"exactly one of these keys is required: {', '.join(keys)}",
    )


def text_schema(pattern: str, **more: Any) -> WithJsonSchema:
    """Return the JSON Schema of a text with its own validator."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", **more})


Integer = Annotated[int, BeforeValidator(_reject_bool)]
Number = Annotated[float, BeforeValidator(_reject_bool)]
Seconds = Annotated[Number, Field(gt=0, le=31_536_000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
HttpUrl = Annotated[str, AfterValidator(_http_url), text_schema(_HTTP_URL, format="uri")]
ApiUrl = Annotated[str, AfterValidator(_api_url), text_schema(_HTTP_URL, format="uri")]
"""Base URL of an API, without the API's version."""
DiscoveryUrl = Annotated[
    str, AfterValidator(_discovery_url), text_schema(_HTTP_URL + _QUERY, format="uri")
]
"""Base URL of an issuer; the path of the discovery document is removed."""
KeySetUrl = Annotated[
    str, AfterValidator(_key_set_url), text_schema(_HTTP_URL + _QUERY, format="uri")
]
"""URL of a JWK set, used as it is."""
ConsoleHost = Annotated[
    str,
    AfterValidator(_console_host),
    text_schema(r"(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::[0-9]{1,5})?"),
]
GroupName = Annotated[
    str, AfterValidator(_group), Field(min_length=1, json_schema_extra={"pattern": NAME_PATTERN})
]
"""A group of tokens; a name that no token can contain is an error."""
Host = Annotated[str, AfterValidator(_host), WithJsonSchema({"type": "string", "minLength": 1})]
HostPort = Annotated[str, AfterValidator(_host_port), text_schema(r"\S+:[0-9]{1,5}")]
Origin = Annotated[str, AfterValidator(_origin), text_schema(_ORIGIN)]
PublicUrl = Annotated[str, AfterValidator(_public_url), text_schema(_HTTP_URL, format="uri")]
"""Base URL as browsers see it: https, or http on loopback; a default port is removed."""
UNIX_PROXIES: Final = "unix"
"""In place of a network: the clients of the Unix socket."""
TrustedProxy = Annotated[
    IPv4Network | IPv6Network | Literal["unix"],
    PlainValidator(_trusted_proxy),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "fd00::/8", UNIX_PROXIES]}),
]
