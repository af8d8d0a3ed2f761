"""The config file and the environment, read once into one frozen Settings, or into every mistake.

Only this module reads the environment. Secrets come from files or variables that the config
names, never from the config itself. Spans are in seconds (`_s`), sizes in bytes (`_bytes`).
"""

import base64
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    IPvAnyNetwork,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.errors import ConfigError, InvalidConfig, InvalidKey, Step
from gateway.config.key_material import (
    UnusableKeys,
    keys_for_algorithms,
    parse_key_file,
    parse_shared_secret,
    read_key_file,
)
from gateway.config.located_yaml import load
from gateway.config.validation import config_errors
from gateway.domain.catalogue.catalogue import SHOW_PERMISSIONS, operation_problems
from gateway.domain.model import Logger, LogLevel, Operation, Reuse, Secret

ASYMMETRIC = (
    "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA",
)  # fmt: skip
SYMMETRIC = ("HS256",)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _read_secret(source: object, info: ValidationInfo) -> Secret:
    context = info.context or {}
    match source:
        case Secret():
            return source
        case {"file": str(name), **rest} if not rest:
            path = context["base"] / name
            try:
                text = path.read_text(encoding="utf-8").strip("\r\n")
            except OSError as error:
                raise ValueError(f"secret file {path} cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"secret file {path} is not UTF-8") from error
            if not text:
                raise ValueError(f"secret file {path} is empty")
            return Secret(text)
        case {"env": str(name), **rest} if not rest:
            text = context["environ"].get(name, "")
            if not text:
                raise ValueError(f"environment variable {name} is not set")
            return Secret(text)
    raise ValueError("name the secret's source: {file: PATH} or {env: NAME}")


def _resolve(value: object, info: ValidationInfo) -> object:
    return (info.context or {})["base"] / value if isinstance(value, str) else value


def _reject_bool(value: object) -> object:
    if isinstance(value, bool):  # which Python takes for 0 or 1
        raise ValueError("must be a number")  # noqa: TRY004 - TypeError would leave pydantic
    return value


def _http_url(value: str) -> str:
    shape = r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~/-]*)?"
    if not re.fullmatch(shape, value) or not _has_host_and_port(value):
        raise ValueError("is not an http or https address without query, user or fragment")
    return value.rstrip("/")


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", value):
            raise ValueError("is no host name and no IP address") from None
    return value


def parse_host_port(address: str) -> tuple[str, int]:
    """Take `host:port` or `[IPv6 address]:port` apart; raises ValueError."""
    parts = urlsplit(f"//{address}")
    if parts.netloc != address or "@" in address or not parts.port:
        raise ValueError("is no host:port")
    return _host(parts.hostname or ""), parts.port


def _host_port(address: str) -> str:
    try:
        parse_host_port(address)
    except ValueError:
        raise ValueError("is no host:port") from None
    return address


def _redis_url(value: str) -> str:
    # redis-py takes a user and a password from the query, too.
    address, _, query = value.partition("?")
    if "@" in value or {"username", "password"} & parse_qs(query, keep_blank_values=True).keys():
        raise ValueError("bears credentials; name them in `username` and `password`")
    # Options of redis-py that stand there would go before ours.
    if not re.fullmatch(r"(?:db=\d+)?", query):
        raise ValueError("takes no option but `db` after the question mark")
    found = re.fullmatch(r"rediss?://[^/?#\s]+(?:/\d*)?|(unix:///[^?#\s]+)", address)
    if found is None or not (found[1] or _has_host_and_port(address)):
        raise ValueError(
            "must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH"
        )
    return value


def _issuer(value: str) -> str:
    # RFC 7519, 4.1.1: compared as it stands, so no trailing slash is added or taken away.
    if not value or value != value.strip():
        raise ValueError("is empty or has blanks around it")
    return value


def _valid_operation(row: Operation) -> Operation:
    for flaw in operation_problems(row):
        raise ValueError(flaw)
    return row


def _by_key(*keys: str) -> Discriminator:
    """Tell the members of a union apart by the one key that each alone has."""

    def tag(value: object) -> str | None:
        if isinstance(value, dict):
            return next((key for key in keys if key in value), None)
        return next((key for key in keys if hasattr(value, key)), None)

    return Discriminator(
        tag,
        custom_error_type="kind_unknown",
        custom_error_message=f"one of these keys must tell its kind: {', '.join(keys)}",
    )


def _aes_256_key(key: Secret) -> Secret:
    try:
        size = len(base64.b64decode(key.reveal(), validate=True))
    except ValueError:
        size = 0
    if size != 32:
        raise ValueError("is not 32 bytes in base64; make one with: openssl rand -base64 32")
    return key


def _readable(file: Path) -> Path:
    try:
        file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    return file


def _no_directory(file: Path) -> Path:
    if os.path.isdir(file):  # noqa: PTH112 - Path's raises where nobody may look
        raise ValueError(f"{file} is a directory")
    return file


def _directory(directory: Path) -> Path:
    there = directory
    while not os.path.exists(there):  # noqa: PTH110 - Path's raises where nobody may look
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{there} is no directory")
    return directory


def _in_a_directory(file: Path) -> Path:
    _directory(file.parent)
    return file


def _with_certificates(file: Path, what: str) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        raise ValueError(f"{file} holds no {what} in PEM") from None
    return file


def load_certificate(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> None:
    """Give a listener's certificate and key to its context; raise ValueError when it cannot be.

    An encrypted key is refused: OpenSSL would ask for its password on the terminal.
    """
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key_file} is not the key of {certificate_file}") from None
        raise ValueError(f"{certificate_file} and {key_file} are no pair in PEM") from None
    except OSError as error:
        raise ValueError(f"the pair cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; a service cannot be asked for its password")


def _ed25519_key(key: Secret) -> Secret:
    try:
        made = load_pem_private_key(key.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        made = None
    if isinstance(made, Ed25519PrivateKey):
        return key
    raise ValueError(
        "is no Ed25519 private key in PEM; make one with: openssl genpkey -algorithm ed25519"
    )


def _with_keys(file: Path) -> Path:
    try:
        parse_key_file(read_key_file(file))
    except UnusableKeys as error:
        raise ValueError(str(error)) from None
    return file


def _hmac_key(secret: Secret) -> Secret:
    if len(secret.reveal().encode()) < 32:
        raise ValueError("the secret is shorter than 32 bytes (RFC 7518, 3.2)")
    try:
        parse_shared_secret(secret)
    except UnusableKeys as error:
        raise ValueError(str(error)) from None
    return secret


SecretValue = Annotated[Secret, BeforeValidator(_read_secret)]
SealKey = Annotated[SecretValue, AfterValidator(_aes_256_key)]
SigningKey = Annotated[SecretValue, AfterValidator(_ed25519_key)]
ConfigPath = Annotated[Path, BeforeValidator(_resolve)]
File = Annotated[ConfigPath, AfterValidator(_no_directory)]
"""One that need not be there."""
Directory = Annotated[ConfigPath, AfterValidator(_directory)]
"""One that is there, or that who serves makes."""
ReadableFile = Annotated[ConfigPath, AfterValidator(_readable)]
CertificateFile = Annotated[
    ReadableFile, AfterValidator(partial(_with_certificates, what="certificate"))
]
AuthoritiesFile = Annotated[
    ReadableFile, AfterValidator(partial(_with_certificates, what="authority's certificate"))
]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Host = Annotated[str, AfterValidator(_host)]
HostPort = Annotated[str, AfterValidator(_host_port)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Integer = Annotated[int, BeforeValidator(_reject_bool)]
Number = Annotated[float, BeforeValidator(_reject_bool)]
Seconds = Annotated[Number, Field(gt=0, le=31_536_000)]
OperationRow = Annotated[Operation, AfterValidator(_valid_operation)]
_ROWS = TypeAdapter(tuple[OperationRow, ...])


def _hosts_overlap(host: str, other: str) -> bool:
    """Tell whether a port that is listened on at one is taken at the other."""
    return host == other or any(name in ("0.0.0.0", "::") for name in (host, other))  # noqa: S104


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ListenerTls(_Section):
    """What a listener shows to its clients, and whom it lets in. Files are PEM."""

    certificate_file: CertificateFile
    """The listener's own certificate first, then the chain above it."""
    key_file: ReadableFile
    client_ca_file: AuthoritiesFile | None = None
    """Clients are asked for a certificate, which one of these authorities must have signed."""
    client_certificates: Literal["optional", "required"] = "required"
    """Where a client_ca_file is given."""

    @field_validator("key_file")
    @classmethod
    def _goes_with_the_certificate(cls, file: Path, info: ValidationInfo) -> Path:
        certificate = info.data.get("certificate_file")
        if certificate is not None:
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, file)
        return file

    @model_validator(mode="after")
    def _asks_only_with_authorities(self) -> Self:
        if "client_certificates" in self.model_fields_set and self.client_ca_file is None:
            problem = "takes a client_ca_file, to verify certificates against"
            raise InvalidKey(("client_certificates",), problem)
        return self


class Listen(_Section):
    host: Host = "127.0.0.1"
    port: Annotated[Integer, Field(ge=0, le=65535)] = 8080
    tls: ListenerTls | None = None


class AdminApiSettings(_Section):
    """Who may use the admin API: who shows a JWT for this audience, or a certificate."""

    audience: Annotated[str, Field(min_length=1)]
    """Of an issuer of ours, and no audience of callers."""
    issuers: Annotated[frozenset[Name], Field(min_length=1)] | None = None
    """Whose tokens count here; to be named where there are several."""
    groups: Annotated[frozenset[str], Field(min_length=1)]
    """Who comes with a JWT is in one of these."""
    certificates: frozenset[str] = frozenset()
    """Subjects' names that need no JWT, so that whoever cuts off can act while issuers are away."""
    allow_plaintext: bool = False
    """Tokens may come in clear text though `host` is not loopback: nobody listens in there."""


class AdminTls(ListenerTls):
    client_certificates: Literal["optional", "required"] = "optional"
    """Probes and scrapes show none; the admin API lets nobody in without one, or a token."""


class AdminListen(Listen):
    tls: AdminTls | None = None
    api: AdminApiSettings | None = None
    """Absent: there is no admin API."""

    @model_validator(mode="after")
    def _no_token_travels_in_clear_text(self) -> Self:
        is_safe = self.tls is not None or _is_loopback(self.host)
        if self.api is not None and not is_safe and not self.api.allow_plaintext:
            problem = "with api, host must be loopback, or tls given (or api.allow_plaintext)"
            raise InvalidKey(("host",), problem)
        return self

    @model_validator(mode="after")
    def _certificates_are_asked_for(self) -> Self:
        asked = self.tls is not None and self.tls.client_ca_file is not None
        if self.api is not None and self.api.certificates and not asked:
            problem = "takes tls.client_ca_file, to verify certificates against"
            raise InvalidKey(("api", "certificates"), problem)
        return self


class PublicListen(Listen):
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks of the proxies before us, whose X-Forwarded-For is believed."""


class RequestLimits(_Section):
    deadline_s: Seconds = 30.0
    drain_s: Seconds = 20.0
    """How long requests that came before the end may take when the gateway stops."""
    drain_delay_s: Annotated[Number, Field(ge=0, le=300)] = 0.0
    """For how long a gateway that stops says that it is not ready, and goes on accepting: until
    load balancers have looked."""
    signature_skew_s: Annotated[Number, Field(gt=0, le=900)] = 900.0
    """How far the clock of who signs requests may be from ours; the cloud takes 15 minutes."""


class DiscoveryKeys(_Section):
    """The key set's address is read from the issuer's OIDC discovery document."""

    discovery: HttpUrl
    """The issuer's base address; `/.well-known/openid-configuration` is added."""


class JwksKeys(_Section):
    jwks: HttpUrl


class StaticKeys(_Section):
    """A key set or PEM public key in a file, for issuers that publish none."""

    public_key_file: Annotated[ReadableFile, AfterValidator(_with_keys)]


class SharedSecretKey(_Section):
    """HS256 with a secret that the issuer and we share."""

    secret: Annotated[SecretValue, AfterValidator(_hmac_key)]


class Claims(_Section):
    subject: str = "sub"
    groups: str = "groups"
    """A dot reaches into objects: `realm_access.roles`."""


class Issuer(_Section):
    name: Name
    issuer: Annotated[str, AfterValidator(_issuer)]
    """Compared with the token's `iss` byte for byte."""
    audience: Annotated[tuple[str, ...], Field(min_length=1)]
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256",)
    keys: Annotated[
        Annotated[DiscoveryKeys, Tag("discovery")]
        | Annotated[JwksKeys, Tag("jwks")]
        | Annotated[StaticKeys, Tag("public_key_file")]
        | Annotated[SharedSecretKey, Tag("secret")],
        _by_key("discovery", "jwks", "public_key_file", "secret"),
    ]
    leeway_s: Annotated[Number, Field(ge=0, le=300)] = 30.0
    token_age_max_s: Seconds = 86_400.0
    token_type: str | None = None
    """The `typ` that access tokens bear (RFC 9068: at+jwt). Unset: any but known other kinds."""
    claims: Claims = Claims()
    keys_refresh_s: Seconds = 300.0
    keys_age_max_s: Seconds = 86_400.0
    """How long keys serve while the issuer cannot be reached."""
    unknown_kid_cooldown_s: Seconds = 30.0

    @model_validator(mode="after")
    def _keys_live_until_they_are_refreshed(self) -> Self:
        if self.keys_age_max_s <= self.keys_refresh_s:
            raise InvalidKey(("keys_age_max_s",), "must be more than keys_refresh_s")
        return self

    @model_validator(mode="after")
    def _algorithms_fit_keys(self) -> Self:
        allowed = SYMMETRIC if isinstance(self.keys, SharedSecretKey) else ASYMMETRIC
        for i, name in enumerate(self.algorithms):
            if name not in allowed:
                problem = f"does not go with this kind of key; allowed: {', '.join(allowed)}"
                raise InvalidKey(("algorithms", i), problem)
        return self

    @model_validator(mode="after")
    def _algorithms_fit_the_file(self) -> Self:
        if isinstance(self.keys, StaticKeys):
            try:
                found = parse_key_file(read_key_file(self.keys.public_key_file))
                keys_for_algorithms(found, self.algorithms)
            except UnusableKeys as error:
                raise InvalidKey(("algorithms",), str(error)) from None
        return self


class PasswordLogin(_Section):
    """POST /v3/auth/tokens with an IAM user's name and password."""

    method: Literal["password"]
    iam_endpoint: HttpUrl
    user: str
    domain: str
    password: SecretValue
    renew_before_s: Seconds = 3_600.0
    """How long before its end a token is renewed in the background (tokens live 24 h)."""


class KeyPairLogin(_Section):
    """AK/SK: each request is signed with SDK-HMAC-SHA256; there is no token."""

    method: Literal["aksk"]
    access_key: SecretValue
    secret_key: SecretValue


class TokenFileLogin(_Section):
    """A file that another agent keeps a valid X-Auth-Token in; read anew when it changes."""

    method: Literal["token_file"]
    token_file: File


class Timeouts(_Section):
    connect_s: Seconds = 3.0
    read_s: Seconds = 10.0
    total_s: Seconds = 15.0


class Links(_Section):
    lifetime_s: Seconds = 300.0
    """How long the cloud keeps a link good. It does not say; siblings have 600 s or less."""
    min_remaining_s: Seconds = 30.0
    reuse: Reuse = Reuse.CALLER
    renew_before_s: Annotated[Number, Field(ge=0, le=86_400)] = 60.0
    """A link that is asked for so shortly before it may no longer be handed out is fetched anew
    in the background, if nobody else needs the budget; 0: never."""
    console_hosts: Annotated[tuple[str, ...], Field(min_length=1)] = ("*.huaweicloud.com",)
    """Exact host names, or `*.domain` for hosts below a domain."""

    @model_validator(mode="after")
    def _some_life_is_left(self) -> Self:
        if self.min_remaining_s >= self.lifetime_s:
            raise InvalidKey(("min_remaining_s",), "must be less than lifetime_s")
        return self


class Rate(_Section):
    requests: Annotated[Number, Field(ge=0.001, le=100_000)]
    per_s: Seconds = 1.0
    burst: Annotated[Integer, Field(ge=1, le=100_000)] = 1


def _rates(value: object) -> object:
    """One rate may stand without the list around it."""
    return [value] if isinstance(value, Mapping) else value


Rates = Annotated[tuple[Rate, ...], BeforeValidator(_rates), Field(min_length=1, max_length=4)]


class AccountBudget(_Section):
    """Ceilings: what is sent is learned from the cloud's 429s and never exceeds them."""

    console: Rates = (Rate(requests=5, per_s=1, burst=5),)
    """One rate, or several that all hold; the first adapts. CloudDC publishes no figure: begin
    low, watch the 429s, raise."""
    iam: Rates = (Rate(requests=10, per_s=60, burst=2),)
    wait_max_s: Seconds = 20.0
    """A caller who would wait longer is told so at once."""
    queue_max: Annotated[Integer, Field(ge=1, le=100_000)] = 2_000
    """Calls that may wait, over all replicas; beyond, the last in fair order is refused."""
    queue_caller_max: Annotated[Integer, Field(ge=1, le=100_000)] = 200
    """Calls that one person may have waiting."""


class BreakerSettings(_Section):
    """When the cloud counts as failing, and how long it is left alone."""

    calls_min: Annotated[Integer, Field(ge=1, le=10_000)] = 10
    failure_ratio: Annotated[Number, Field(gt=0, le=1)] = 0.5
    within_s: Seconds = 10.0
    slow_s: Seconds = 10.0
    """A call that takes longer counts as failed."""
    open_s: Seconds = 1.0
    open_max_s: Seconds = 30.0


class InventorySettings(_Section):
    """What rules of the policy that select servers by tags, location or model go by."""

    poll_s: Seconds = 60.0
    """How often the servers are listed, from budget that nobody else needs; only while the
    policy has such rules."""
    age_max_s: Seconds = 600.0
    """Older than that, a grant by attributes gives nothing, and a denial by attributes denies."""
    directory: Directory | None = None
    """Where what was listed last is kept, for `explain` and for a start without the cloud."""

    @model_validator(mode="after")
    def _lives_until_the_next_poll(self) -> Self:
        if self.age_max_s <= self.poll_s:
            raise InvalidKey(("age_max_s",), "must be more than poll_s")
        return self

    def inventory_file(self, project: str) -> Path | None:
        return None if self.directory is None else self.directory / f"inventory-{project}.json"


class Account(_Section):
    name: Name
    endpoint: HttpUrl
    projects: Annotated[tuple[str, ...], Field(min_length=1)]
    project_names: dict[str, Annotated[str, Field(min_length=1, max_length=64)]] = {}
    """By project id, what GET /v3/projects?name= finds it by."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """The name of a project that has none, where the account has only this one: the vendor's
    SDK asks for the project that is called like its region."""
    login: Annotated[PasswordLogin | KeyPairLogin | TokenFileLogin, Field(discriminator="method")]
    timeouts: Timeouts = Timeouts()
    streams_max: Annotated[Integer, Field(ge=1, le=1000)] = 8
    """Downloads at once, each of which holds a connection for as long as its reader takes."""
    response_bytes_max: Annotated[Integer, Field(ge=1024, le=67_108_864)] = 8_388_608
    """Of one answer that is read whole; a page of 1000 servers is about 1 MB."""
    links: Links = Links()
    budget: AccountBudget = AccountBudget()
    breaker: BreakerSettings = BreakerSettings()
    inventory: InventorySettings = InventorySettings()

    @model_validator(mode="after")
    def _names_are_of_its_projects(self) -> Self:
        for project in self.project_names:
            if project not in self.projects:
                raise InvalidKey(("project_names", project), "is not among the account's projects")
        _reject_duplicates(
            (("project_names", key), name) for key, name in self.project_names.items()
        )
        return self

    def project_name(self, project: str) -> str:
        only = self.region if len(self.projects) == 1 else None
        return self.project_names.get(project) or only or project


class RedisServer(_Section):
    """One server: redis://, rediss:// (TLS) or unix://; the password may come from a source."""

    url: Annotated[str, AfterValidator(_redis_url)]
    username: str | None = None
    password: SecretValue | None = None
    tls_ca_file: AuthoritiesFile | None = None


class RedisSentinel(_Section):
    sentinels: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """host:port of each."""
    service: str
    username: str | None = None
    password: SecretValue | None = None
    tls: bool = False
    tls_ca_file: AuthoritiesFile | None = None


class RedisCluster(_Section):
    cluster: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """host:port of some nodes; the others are found from them."""
    username: str | None = None
    password: SecretValue | None = None
    tls: bool = False
    tls_ca_file: AuthoritiesFile | None = None


class RedisEmbedded(_Section):
    """A Valkey server of this gateway's own, for a single node; links are lost with it."""

    embedded: Literal[True]


class Store(_Section):
    redis: Annotated[
        Annotated[RedisServer, Tag("url")]
        | Annotated[RedisSentinel, Tag("sentinels")]
        | Annotated[RedisCluster, Tag("cluster")]
        | Annotated[RedisEmbedded, Tag("embedded")],
        _by_key("url", "sentinels", "cluster", "embedded"),
    ]
    seal_keys: Annotated[tuple[SealKey, ...], Field(min_length=1)]
    """32 bytes each, in base64 (`openssl rand -base64 32`): the first seals, all open. A new one
    goes second everywhere, then first; the old one goes two minutes after that."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "gateway"
    timeout_s: Annotated[Number, Field(gt=0, le=10)] = 0.1
    """After so long Redis is as good as away."""
    processes_max: Annotated[Integer, Field(ge=1, le=1000)] = 2
    """How many gateway processes may run at once. While Redis is away each takes its share."""


class CallerLimitSettings(_Section):
    """What one person may ask of the gateway, over all replicas, hits included."""

    requests: Annotated[Number, Field(ge=0.001)] = 120
    per_s: Seconds = 60.0
    burst: Annotated[Integer, Field(ge=1)] = 40


class Fairness(_Section):
    """Whose calls get how much of a budget that is too small for all."""

    group_weights: dict[str, Annotated[Number, Field(ge=0.01, le=100)]] = {}
    """Share by group, of any issuer; the largest of a person's groups counts, without any: 1."""


class Lists(_Section):
    """Lists of which a caller may see a part: read whole from the cloud, cut to size here."""

    reuse_s: Annotated[Number, Field(ge=0, le=300)] = 5.0
    """For how long one reading serves all who ask; `Cache-Control: no-cache` asks for another."""
    pages_max: Annotated[Integer, Field(ge=1, le=1000)] = 50
    """Calls to the cloud for one reading, each of up to 1000 entries."""
    bytes_max: Annotated[Integer, Field(ge=65_536, le=1_073_741_824)] = 67_108_864
    """Of one reading, and of all that one process keeps."""


class OperationChanges(_Section):
    """Changes to the catalogue (gateway/catalogue.yaml)."""

    disable: tuple[str, ...] = ()
    """Names of operations that are not to pass."""
    add: tuple[OperationRow, ...] = ()
    """Rows of the catalogue's form; one of a name that is off replaces it."""

    @field_validator("disable")
    @classmethod
    def _there_is_something_to_switch_off(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {row.name for row in built_in_operations()}
        for name in names:
            if name not in known:
                raise ValueError(f"there is no operation {name!r}")
        return names


class CacheSizes(_Section):
    """How many of each this process remembers."""

    tokens_max: Annotated[Integer, Field(ge=1)] = 20_000
    links_max: Annotated[Integer, Field(ge=1)] = 20_000


class OverrideSettings(_Section):
    """Overrides: revocations and the other changes that administrators make at runtime."""

    file: Annotated[File, AfterValidator(_in_a_directory)] | None = None
    """Snapshot of all overrides, for a process that starts while Redis is unavailable."""
    on_unavailable: Literal["deny", "allow"] = "deny"
    """Whether to deny or allow callers while a process has loaded the overrides neither from Redis
    nor from the file."""
    enabled: bool = True
    """`false` only if no process that shares this Redis has `admin.api`: there are no overrides,
    and a start requires neither Redis nor the file."""


class MetricsSettings(_Section):
    teams: dict[str, Name] = {}
    """Team by group, of any issuer: whose links they are is counted. The first that fits counts."""


class Log(_Section):
    level: LogLevel = "info"
    modules: dict[Logger, LogLevel] = {}
    """Levels of single parts: gateway.policy, gateway.valkey, …"""
    hit_sample_ratio: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """Share that is written of the lines of requests for links that this process holds."""

    @property
    def levels(self) -> dict[str, str]:
        """By logger."""
        return {"gateway": self.level} | {name: str(level) for name, level in self.modules.items()}


class Audit(_Section):
    """Where the audit log goes: at least one place must be named."""

    directory: Directory | None = None
    """Hash-chained files, on the disk before the answer leaves."""
    stream: bool = False
    """A Redis stream; beside a directory it follows behind, alone it decides."""
    stream_bytes_max: Annotated[Integer, Field(ge=1_048_576, le=1_099_511_627_776)] = 134_217_728
    """Of Redis's memory; beyond it the oldest lines are forgotten, however young."""
    stdout: bool = False
    """Plain lines among the log's; beside another place they follow behind."""
    signing_key: SigningKey | None = None
    """Ed25519, PEM (`openssl genpkey -algorithm ed25519`): signs checkpoints."""
    on_unavailable: Literal["deny", "allow"] = "deny"
    checkpoint_s: Seconds = 60.0
    segment_bytes_max: Annotated[Integer, Field(ge=65_536, le=1_073_741_824)] = 67_108_864
    keep_days: Annotated[Number, Field(ge=0, le=36_500)] = 400.0
    """Segments older than that are removed, and the chain stays verifiable; 0: for ever."""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.directory is None and not self.stream and not self.stdout:
            raise ValueError(
                "say where the audit log goes: `directory: PATH`, `stream: true`, `stdout: true`"
            )
        return self


class WritableDirectory(NamedTuple):
    """A directory that who serves writes in."""

    key: tuple[Step, ...]
    """By which it is named."""
    directory: Path
    is_required: bool
    """Without it nobody is served, or who is revoked is forgotten; else it is done without."""


class Settings(_Section):
    listen: PublicListen = PublicListen()
    request: RequestLimits = RequestLimits()
    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)]
    admin: AdminListen = AdminListen(port=9090)
    policy_file: ConfigPath
    accounts: Annotated[tuple[Account, ...], Field(min_length=1)]
    store: Store
    caller_limits: CallerLimitSettings = CallerLimitSettings()
    fairness: Fairness = Fairness()
    lists: Lists = Lists()
    operations: OperationChanges = OperationChanges()
    cache: CacheSizes = CacheSizes()
    overrides: OverrideSettings = OverrideSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: Log = Log()
    audit: Annotated[Audit, Field(default_factory=dict, validate_default=True)]

    @field_validator("overrides")
    @classmethod
    def _is_enabled_with_an_admin_api(
        cls, overrides: OverrideSettings, info: ValidationInfo
    ) -> OverrideSettings:
        admin = info.data.get("admin")
        if not overrides.enabled and admin is not None and admin.api is not None:
            raise InvalidKey(("enabled",), "must be `true` while admin.api is configured")
        return overrides

    @property
    def catalogue(self) -> tuple[Operation, ...]:
        """The operations that may pass."""
        return (*self._enabled_operations, *self.operations.add)

    @property
    def _enabled_operations(self) -> tuple[Operation, ...]:
        disabled = frozenset(self.operations.disable)
        kept = (row for row in built_in_operations() if row.name not in disabled)
        return (*kept, SHOW_PERMISSIONS)

    @property
    def writable_directories(self) -> Iterator[WritableDirectory]:
        if self.audit.directory is not None:
            refuses = self.audit.on_unavailable == "deny"
            yield WritableDirectory(
                ("audit", "directory"), self.audit.directory, is_required=refuses
            )
        if self.overrides.file is not None:
            yield WritableDirectory(
                ("overrides", "file"), self.overrides.file.parent, is_required=True
            )
        for i, account in enumerate(self.accounts):
            if account.inventory.directory is not None:
                key = ("accounts", i, "inventory", "directory")
                yield WritableDirectory(key, account.inventory.directory, is_required=False)

    def admin_ports(self, workers: int) -> range:
        """Return the port of each worker, one scrape target each; none where any will do."""
        first = self.admin.port
        return range(first, first + workers) if first else range(0)

    @property
    def admin_issuers(self) -> tuple[Issuer, ...]:
        """Those whose tokens may be an administrator's."""
        api = self.admin.api
        if api is None:
            return ()
        return tuple(one for one in self.issuers if api.issuers is None or one.name in api.issuers)

    @field_validator("admin")
    @classmethod
    def _says_whose_tokens_are_administrators(
        cls, admin: AdminListen, info: ValidationInfo
    ) -> AdminListen:
        api, issuers = admin.api, info.data.get("issuers", ())
        if api is None or not issuers:
            return admin
        if any(api.audience in issuer.audience for issuer in issuers):
            raise InvalidKey(("api", "audience"), "must be none that callers' tokens are for")
        names = {issuer.name for issuer in issuers}
        if (len(names) > 1 and api.issuers is None) or not names.issuperset(api.issuers or ()):
            # Each could make administrators of its own people.
            problem = ", ".join(sorted(names))
            raise InvalidKey(
                ("api", "issuers"), f"must name whose administrators may act, of: {problem}"
            )
        return admin

    @model_validator(mode="after")
    def _callers_and_operators_have_ports_of_their_own(self, info: ValidationInfo) -> Self:
        workers = (info.context or {}).get("workers", 1)
        ports = self.admin_ports(workers)
        if ports.stop > 65_536:
            raise InvalidKey(("admin", "port"), f"leaves no port for each of {workers} workers")
        if self.listen.port in ports and _hosts_overlap(self.listen.host, self.admin.host):
            problem = f"worker {ports.index(self.listen.port)} would answer operators on it"
            raise InvalidKey(("listen", "port"), f"{problem}; worker i does on admin.port + i")
        return self

    @model_validator(mode="after")
    def _nothing_is_claimed_twice(self) -> Self:
        added = enumerate(self.operations.add)
        issuers, accounts = tuple(enumerate(self.issuers)), tuple(enumerate(self.accounts))
        _reject_duplicates(
            [
                *(((), row.name) for row in self._enabled_operations),
                *((("operations", "add", i, "name"), row.name) for i, row in added),
            ]
        )
        _reject_duplicates((("issuers", i, "name"), issuer.name) for i, issuer in issuers)
        _reject_duplicates((("issuers", i, "issuer"), issuer.issuer) for i, issuer in issuers)
        _reject_duplicates((("accounts", i, "name"), account.name) for i, account in accounts)
        _reject_duplicates(
            (("accounts", i, "projects", j), project)
            for i, account in accounts
            for j, project in enumerate(account.projects)
        )
        return self


@cache
def built_in_operations() -> tuple[Operation, ...]:
    """Return the rows of the catalogue that comes with the gateway."""
    return _ROWS.validate_python(load(Path(__file__).parents[1] / "catalogue.yaml").data)


def _reject_duplicates(named: Iterable[tuple[tuple[Step, ...], str]]) -> None:
    seen: set[str] = set()
    for path, value in named:
        if value in seen:
            raise InvalidKey(path, f"stands twice: {value}")
        seen.add(value)


def load_settings(
    file: Path, environ: Mapping[str, str] = os.environ, *, workers: int = 1
) -> Settings:
    """Read and validate the config file, which is for that many worker processes.

    Raises InvalidConfig with everything that is wrong.
    """
    document = load(file)
    try:
        return Settings.model_validate(
            document.data if document.data is not None else {},
            context={"base": file.parent, "environ": environ, "workers": workers},
        )
    except ValidationError as error:
        raise InvalidConfig(config_errors(error, document, Settings)) from None


def inherited_descriptors(environ: Mapping[str, str] = os.environ) -> range:
    """Return the listening sockets that this very process was started with (sd_listen_fds(3))."""
    ours = environ.get("LISTEN_PID", "") == str(os.getpid())
    count = environ.get("LISTEN_FDS", "")
    return range(3, 3 + int(count)) if ours and count.isdecimal() else range(0)


def tracing_variable(environ: Mapping[str, str] = os.environ) -> str:
    """Return which of OpenTelemetry's variables switches traces on; "": none does.

    Raises InvalidConfig where they ask for what is not there.
    """

    def value(name: str) -> str:
        return environ.get(name, "").strip().lower()

    if value("OTEL_SDK_DISABLED") == "true" or value("OTEL_TRACES_EXPORTER") == "none":
        return ""
    wanted = next(filter(value, _TRACES_ON), "")
    for name, known in _TRACES_TAKE.items():
        if wanted and value(name) not in ("", known):
            raise InvalidConfig(
                [ConfigError("environment", 0, name, f"is to be {known}, or not set")]
            )
    return wanted


_TRACES_ON = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
_TRACES_TAKE = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
