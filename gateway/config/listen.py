"""Config sections `listen` and `admin`: the public and the admin listener."""

import ssl
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.config.errors import InvalidKey
from gateway.config.files import (
    AuthoritiesFile,
    CertificateFile,
    ReadableFile,
    SocketFile,
    load_certificate,
)
from gateway.config.login import AdminLogin
from gateway.config.policy_names import NAME_PATTERN
from gateway.config.values import (
    UNIX_PROXIES,
    GroupName,
    Host,
    Integer,
    Name,
    Origin,
    PublicUrl,
    Seconds,
    Section,
    TrustedProxy,
    is_loopback,
)
from gateway.domain.admin_permissions import ADMIN_PERMISSIONS, AdminPermission


def hosts_overlap(host: str, other: str) -> bool:
    """Return whether listening on a port of one address occupies it on the other."""
    return host == other or any(name in ("0.0.0.0", "::") for name in (host, other))  # noqa: S104


class ListenerTls(Section):
    """TLS of a listener. The files are PEM; changed files are reloaded without a restart."""

    certificate_file: CertificateFile
    """The listener's certificate, followed by its intermediate certificates."""
    key_file: ReadableFile
    """The private key of `certificate_file`. An encrypted key is rejected."""
    client_ca_file: AuthoritiesFile | None = None
    """Authorities that may sign client certificates. Unset: no client certificate is requested."""
    client_certificates: Literal["optional", "required"] = "required"
    """Whether a client without a certificate is rejected. Requires `client_ca_file`."""

    @field_validator("key_file")
    @classmethod
    def _matches_certificate(cls, file: ReadableFile, info: ValidationInfo) -> ReadableFile:
        certificate = info.data.get("certificate_file")
        if certificate is not None:
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, file)
        return file

    @model_validator(mode="after")
    def _client_certificates_have_authorities(self) -> Self:
        if "client_certificates" in self.model_fields_set and self.client_ca_file is None:
            raise InvalidKey(("client_certificates",), "requires `client_ca_file`")
        return self


class Listen(Section):
    host: Host = "127.0.0.1"
    """Address or host name to listen on; `0.0.0.0` and `::` mean all addresses."""
    port: Annotated[Integer, Field(ge=0, le=65535)] = 8080
    """TCP port to listen on; 0 lets the operating system choose."""
    tls: ListenerTls | None = None
    """Serve HTTPS with this certificate. Unset: plain HTTP."""
    idle_timeout_s: Seconds = 3_630.0
    """Seconds after which a connection without a request is closed. It must be longer than the
    proxy's own idle timeout: the proxy then never sends a request into a closed connection."""


class CorsSettings(Section):
    """Cross-origin resource sharing: web pages whose scripts may call the public listener."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]
    """Origins of the pages, such as `https://portal.example.com`. There is no wildcard."""
    max_age_s: Annotated[Integer, Field(ge=0, le=86_400)] = 600
    """Seconds for which a browser may reuse the response to its preflight request."""


class PublicListen(Listen):
    """The listener that callers use."""

    unix_socket: SocketFile | None = None
    """Path of a Unix socket to listen on, instead of `host` and `port`."""
    unix_socket_mode: Annotated[str, Field(pattern="^0[0-7]{3}$")] = "0660"
    """Permissions of the Unix socket in octal, in quotes. Who may write to it may connect."""
    public_url: PublicUrl | None = None
    """URL at which browsers reach this listener, such as `https://consoles.example.com`; a path in
    it is kept. It decides on the addresses of live consoles, on the `Secure` attribute of cookies
    and on the `Origin` that is accepted. Required for `accounts[].console.delivery: proxied`."""
    trusted_proxies: tuple[TrustedProxy, ...] = ()
    """Networks of reverse proxies; `unix` means the clients of the Unix socket.
    `X-Forwarded-For` from any other address is ignored."""
    proxy_protocol: bool = False
    """Require a PROXY protocol header, version 2, on each connection, and take the client's
    address from it. Connections from other addresses than `trusted_proxies` are closed."""
    cors: CorsSettings | None = None
    """Web pages of other origins that may call the gateway. Unset: none."""

    @property
    def unix_mode(self) -> int:
        return int(self.unix_socket_mode, 8)

    @model_validator(mode="after")
    def _listens_on_one_address(self) -> Self:
        if self.unix_socket is not None and {"host", "port"} & self.model_fields_set:
            raise InvalidKey(("unix_socket",), "must not be combined with `host` and `port`")
        return self

    @model_validator(mode="after")
    def _has_the_proxies_it_trusts(self) -> Self:
        if UNIX_PROXIES in self.trusted_proxies and self.unix_socket is None:
            raise InvalidKey(("trusted_proxies",), "`unix` requires `unix_socket`")
        if self.proxy_protocol and not self.trusted_proxies:
            # Any client could choose its address.
            raise InvalidKey(("proxy_protocol",), "requires `trusted_proxies`")
        return self


_ALL: Final = "all"


def _permissions(value: Any) -> Any:
    if value == _ALL:
        return frozenset(ADMIN_PERMISSIONS)
    if not isinstance(value, list | frozenset):
        raise ValueError(f"must be `{_ALL}` or a list of permissions")  # noqa: TRY004
    return value


def _by_name(value: Any) -> Any:
    """Give each name of a list every permission."""
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return dict.fromkeys(value, _ALL) if is_list else value


_PERMISSIONS_SCHEMA: Final = {
    "anyOf": [
        {"const": _ALL},
        {"type": "array", "items": {"enum": [*ADMIN_PERMISSIONS]}, "minItems": 1},
    ]
}
AdminPermissionSet = Annotated[
    frozenset[AdminPermission],
    Field(min_length=1),
    BeforeValidator(_permissions),
    WithJsonSchema(_PERMISSIONS_SCHEMA),
]


def _permissions_schema(name: dict[str, Any]) -> WithJsonSchema:
    """Return the schema of permissions by name, or of a list of names."""
    mapping = {"type": "object", "additionalProperties": _PERMISSIONS_SCHEMA, "propertyNames": name}
    names = {"type": "array", "items": {"type": "string", **name}}
    return WithJsonSchema({"anyOf": [mapping, names]})


AdminGroups = Annotated[
    dict[GroupName, AdminPermissionSet],
    Field(min_length=1),
    BeforeValidator(_by_name),
    _permissions_schema({"pattern": NAME_PATTERN}),
]
AdminCertificates = Annotated[
    dict[Annotated[str, Field(min_length=1)], AdminPermissionSet],
    BeforeValidator(_by_name),
    _permissions_schema({"minLength": 1}),
]


class AdminApiSettings(Section):
    """Credentials that the admin API accepts: a token for its audience, or a certificate."""

    audience: Annotated[str, Field(min_length=1)]
    """Audience of administrators' tokens. It must differ from every `issuers[].audience`."""
    issuers: Annotated[frozenset[Name], Field(min_length=1)] | None = None
    """Names of the issuers of administrators' tokens. Required with several `issuers`."""
    groups: AdminGroups
    """Permissions by group, as in `{console-admins: all, helpdesk: [read]}`. A token has the
    permissions of all its groups; a list of groups gives each of them `all`. The
    [admin API](admin-api.md#permissions) says which action requires which permission."""
    certificates: AdminCertificates = Field(default={})
    """Permissions by subject name of client certificates, which are accepted instead of a token,
    also while issuers are unavailable; a list of names gives each of them `all`. The name is the
    common name, else the first alternative name. Requires `tls.client_ca_file`."""
    allow_plaintext: bool = False
    """Accept tokens over plain HTTP although `host` is not loopback. Use it only in a network
    without eavesdroppers."""


class AdminTls(ListenerTls):
    client_certificates: Literal["optional", "required"] = "optional"
    """Whether a client without a certificate is rejected. Probes and scrapes usually have none;
    the admin API requires a certificate or a token in both cases. Requires `client_ca_file`."""


class AdminListen(Listen):
    """The listener for metrics, health checks and the admin API. Do not expose it."""

    port: Annotated[Integer, Field(ge=0, le=65535)] = 9090
    """TCP port; worker i of `--workers N` listens on this port plus i. 0 lets the operating
    system choose."""
    tls: AdminTls | None = None
    """Serve HTTPS with this certificate. Unset: plain HTTP."""
    api: AdminApiSettings | None = None
    """Credentials of the admin API. Unset: the admin API is disabled."""
    public_url: PublicUrl | None = None
    """URL at which administrators' browsers reach this listener, such as
    `https://gateway-admin.example.com`; a path in it is kept. With `--workers N` it is the URL of
    one worker. Every request of the pages must come from its origin. Required for `login`."""
    login: AdminLogin | None = None
    """Pages for administrators, and the login for them. They require `api` (its `groups` grant the
    permissions of a person), and TLS unless `host` is loopback. Unset: no pages."""

    @model_validator(mode="after")
    def _sessions_are_encrypted(self) -> Self:
        if self.login is None:
            return self
        if self.api is None:
            raise InvalidKey(("login",), "requires `api`: its `groups` grant the permissions")
        if self.public_url is None:
            raise InvalidKey(("login",), "requires `public_url`")
        if self.tls is None and not is_loopback(self.host):
            # `api.allow_plaintext` is for tokens in headers; a browser sends its cookie by itself.
            raise InvalidKey(("host",), "must be loopback with `login`; or set `tls`")
        if self.tls is not None and not self.public_url.startswith("https://"):
            raise InvalidKey(("public_url",), "must be https: the listener has `tls`")
        return self

    @model_validator(mode="after")
    def _tokens_are_encrypted(self) -> Self:
        is_safe = self.tls is not None or is_loopback(self.host)
        if self.api is not None and not is_safe and not self.api.allow_plaintext:
            problem = "must be loopback with `api`; or set `tls`, or `api.allow_plaintext: true`"
            raise InvalidKey(("host",), problem)
        return self

    @model_validator(mode="after")
    def _certificates_have_authorities(self) -> Self:
        verified = self.tls is not None and self.tls.client_ca_file is not None
        if self.api is not None and self.api.certificates and not verified:
            raise InvalidKey(("api", "certificates"), "requires `tls.client_ca_file`")
        return self
