"""Config section `issuers`: the accepted identity providers."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, Tag, field_validator, model_validator

from gateway.config.egress import EgressCertificate, Proxy
from gateway.config.errors import InvalidKey
from gateway.config.files import AuthoritiesFile, PublicKeyFile
from gateway.config.key_material import (
    SecretEncoding,
    UnusableKeys,
    keys_for_algorithms,
    parse_key_file,
    parse_shared_secret,
    read_key_file,
)
from gateway.config.login import IssuerCli, IssuerLogin
from gateway.config.policy_names import ANY_ISSUER
from gateway.config.secrets import SecretValue
from gateway.config.values import (
    DiscoveryUrl,
    KeySetUrl,
    Name,
    Number,
    Seconds,
    Section,
    chosen_by,
    reject_plain_http,
)
from gateway.domain.admin_permissions import CERTIFICATE_ISSUER

ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "Ed448",
)  # fmt: skip
SYMMETRIC: Final = ("HS256",)


def _issuer(value: str) -> str:
    # RFC 7519, 4.1.1: compared byte for byte, so a trailing slash is neither added nor removed.
    if not value or value != value.strip():
        raise ValueError("must not be empty, nor begin or end with a blank")
    return value


class DiscoveryKeys(Section):
    """Public keys found by OIDC discovery."""

    discovery: DiscoveryUrl
    """Base URL of the issuer. The gateway reads `/.well-known/openid-configuration` below it; the
    URL may contain this path already, and a query."""
    insecure_http: bool = False
    """Allow plain HTTP to another host, for `discovery` and for the JWK set that it names.
    A person who can change the response can forge tokens."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        reject_plain_http("discovery", self.discovery, insecure_http=self.insecure_http)
        return self


class JwksKeys(Section):
    """Public keys from a JWK set."""

    jwks: KeySetUrl
    """URL of the issuer's JWK set; it may have a query."""
    insecure_http: bool = False
    """Allow plain HTTP to another host. A person who can change the response can forge tokens."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        reject_plain_http("jwks", self.jwks, insecure_http=self.insecure_http)
        return self


class StaticKeys(Section):
    """Public keys from a file, for an issuer that publishes none."""

    public_key_file: PublicKeyFile
    """A JWK set, or public keys and certificates in PEM; every key in it is trusted. Of a
    certificate only the key counts, not its dates. A changed file is read at the next refresh."""


class SharedSecretKey(Section):
    """HS256 with a secret that issuer and gateway share."""

    secret: SecretValue
    """The shared secret, at least 32 bytes. `algorithms` must be `[HS256]`."""
    encoding: SecretEncoding = "text"
    """`text`: the bytes of the text are the key. `base64`: the text is the key in base64 or
    base64url."""

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        try:
            parse_shared_secret(self.secret, self.encoding)
        except UnusableKeys as error:
            raise InvalidKey(("secret",), str(error)) from None
        return self


ClaimValue = Annotated[str, Field(strict=True)] | Annotated[int, Field(strict=True)] | bool
ClaimValues = ClaimValue | Annotated[tuple[ClaimValue, ...], Field(min_length=1)]


class Claims(Section):
    """Claims of a token. A dot leads into an object: `realm_access.roles`."""

    subject: str = "sub"
    """Claim that identifies the person."""
    groups: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=8)] = "groups"
    """Claim with the person's groups, or several claims: the person has the groups of all. A claim
    is a text or a list of texts."""
    audience: Annotated[str, Field(min_length=1)] = "aud"
    """Claim that names the audience of tokens without `aud`; Amazon Cognito: `client_id`. A token
    with `aud` must name an audience there."""
    token_id: Annotated[str, Field(min_length=1)] = "jti"  # noqa: S105 - a claim
    """Claim that identifies the token, for revocations and the audit log; Entra ID: `uti`."""
    groups_required: bool | None = None
    """Reject tokens without the groups claim. Unset: while the policy has a denial of a group,
    which such a token would bypass."""


class Issuer(Section):
    name: Name
    """Name of the issuer in the policy, the audit log and metrics. `any` and `certificate` are
    reserved."""
    issuer: Annotated[str, AfterValidator(_issuer), Field(min_length=1)]
    """The token's `iss`, compared byte for byte."""
    audience: Annotated[tuple[str, ...], Field(min_length=1)]
    """Accepted values of the token's `aud`, or of `claims.audience`; one of them must match."""
    algorithms: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            json_schema_extra={"items": {"type": "string", "enum": [*ASYMMETRIC, *SYMMETRIC]}},
        ),
    ] = ("RS256",)
    """Accepted signature algorithms: RS256, RS384, RS512, PS256, ES256, ES384, EdDSA, Ed25519,
    Ed448; only HS256 with `keys.secret`. A token's `alg` must be one of them: some issuers write
    Ed25519 (RFC 9864) in place of EdDSA."""
    keys: Annotated[
        Annotated[DiscoveryKeys, Tag("discovery")]
        | Annotated[JwksKeys, Tag("jwks")]
        | Annotated[StaticKeys, Tag("public_key_file")]
        | Annotated[SharedSecretKey, Tag("secret")],
        chosen_by("discovery", "jwks", "public_key_file", "secret"),
    ]
    """Where the keys that verify tokens come from."""
    proxy: Proxy | None = None
    """Proxy for this issuer only, or `direct`. Unset: as in `egress`."""
    ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the certificates of its servers. Unset: those of
    the operating system."""
    certificate: EgressCertificate | None = None
    """Client certificate for its servers. Unset: none."""
    leeway_s: Annotated[Number, Field(ge=0, le=300)] = 30.0
    """Tolerated clock difference for `exp`, `nbf` and `iat`, in seconds."""
    token_age_max_s: Seconds = 86_400.0
    """Longest time in seconds since `iat`; an older token is rejected even if `exp` is later."""
    token_type: str | None = None
    """Required `typ` of tokens, for example `at+jwt` (RFC 9068). Unset: known types of other
    tokens, such as ID tokens, are rejected."""
    claims: Claims = Claims()
    """Names of the claims to read."""
    required_claims: dict[
        str, ClaimValue | Annotated[tuple[ClaimValue, ...], Field(min_length=1)]
    ] = Field(default={})
    """Values by claim, of which the token must contain one: `{acr: phr, amr: [mfa, hwk]}`. Scopes
    in `scp` and `scope` are compared one by one."""
    keys_refresh_s: Seconds = 300.0
    """Interval of key refreshes in the background, in seconds."""
    keys_age_max_s: Seconds = 86_400.0
    """Longest use of cached keys while the issuer is unavailable, in seconds. It must exceed
    `keys_refresh_s`."""
    unknown_kid_cooldown_s: Seconds = 30.0
    """Shortest time in seconds between two refreshes that tokens cause: by an unknown `kid`, or by
    a signature that no key verifies, as after the issuer replaced a key under its `kid`."""

    login: IssuerLogin | None = None
    """Login with a browser. Requires `keys.discovery` and `listen.public_url`. Unset: people send
    tokens of this issuer, and cannot log in with a browser."""
    cli: IssuerCli | None = None
    """Login with `gateway login`. Requires `keys.discovery`. Unset: people bring their own tokens
    to the commands."""

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if name == CERTIFICATE_ISSUER:
            raise ValueError(f"`{name}` is reserved: administrators' certificates have this issuer")
        if name == ANY_ISSUER:
            raise ValueError(f"`{ANY_ISSUER}` is reserved: a rule with it applies to every issuer")
        return name

    @model_validator(mode="after")
    def _keys_outlive_a_refresh(self) -> Self:
        if self.keys_age_max_s <= self.keys_refresh_s:
            problem = (
                f"{self.keys_age_max_s:g} must be more than `keys_refresh_s`, which is"
                f" {self.keys_refresh_s:g}"
            )
            raise InvalidKey(("keys_age_max_s",), problem)
        return self

    @model_validator(mode="after")
    def _login_finds_its_addresses(self) -> Self:
        if self.login is not None and not isinstance(self.keys, DiscoveryKeys):
            raise InvalidKey(("login",), "requires `keys.discovery`")
        if self.cli is not None and not isinstance(self.keys, DiscoveryKeys):
            raise InvalidKey(("cli",), "requires `keys.discovery`")
        return self

    @model_validator(mode="after")
    def _takes_the_tokens_of_commands(self) -> Self:
        cli, login = self.cli, self.login
        if cli is None or not cli.sends_id_token:
            return self
        if cli.client_id not in self.audience:
            problem = "`id_token` requires that `audience` contains `cli.client_id`"
            raise InvalidKey(("cli", "token"), problem)
        if login is not None and login.client_id == cli.client_id:
            # At a logout the browser's address has an ID token (`id_token_hint`).
            problem = "`id_token` requires another client than `login.client_id`"
            raise InvalidKey(("cli", "token"), problem)
        return self

    @model_validator(mode="after")
    def _algorithms_fit_the_kind_of_keys(self) -> Self:
        allowed = SYMMETRIC if isinstance(self.keys, SharedSecretKey) else ASYMMETRIC
        for i, name in enumerate(self.algorithms):
            if name not in allowed:
                problem = f"does not fit this kind of `keys`; allowed: {', '.join(allowed)}"
                raise InvalidKey(("algorithms", i), problem)
        return self

    @model_validator(mode="after")
    def _algorithms_fit_the_key_file(self) -> Self:
        if isinstance(self.keys, StaticKeys):
            try:
                found = parse_key_file(read_key_file(self.keys.public_key_file))
                keys_for_algorithms(found, self.algorithms)
            except UnusableKeys as error:
                raise InvalidKey(("algorithms",), str(error)) from None
        return self
