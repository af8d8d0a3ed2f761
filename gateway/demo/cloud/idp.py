"""The simulated identity provider: discovery, key rotation, valid and forged tokens, logins."""

import base64
import hashlib
import hmac
import json
import uuid
from typing import Any, ClassVar

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.demo.cloud.clock import now
from gateway.demo.cloud.faults import Fault
from gateway.demo.cloud.idp_device import DeviceEndpoints
from gateway.demo.cloud.idp_login import LoginEndpoints
from gateway.demo.cloud.listener import Listener

AUDIENCE = "console-gateway"
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "Ed448",
)  # fmt: skip
_EDWARDS = ("EdDSA", "Ed25519", "Ed448")
FORGERIES = ("none", "hs256", "signature", "foreign_key")


class _SigningKey:
    def __init__(self, algorithm: str, kid: str | None = None) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
        self.algorithm = algorithm
        self.kid = kid or uuid.uuid4().hex[:12]
        self.private: Any
        encode: Any
        if algorithm.startswith(("RS", "PS")):
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            encode = RSAAlgorithm
        elif algorithm.startswith("ES"):
            curve = ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1()
            self.private = ec.generate_private_key(curve)
            encode = ECAlgorithm
        else:
            curve_key = ed448.Ed448PrivateKey if algorithm == "Ed448" else ed25519.Ed25519PrivateKey
            self.private = curve_key.generate()
            encode = OKPAlgorithm
        published = json.loads(encode.to_jwk(self.private.public_key()))
        self.published = {**published, "kid": self.kid, "use": "sig", "alg": algorithm}


class IdentityProvider(Listener):
    settable: ClassVar[tuple[str, ...]] = ("issuer",)

    def __init__(self, *, port: int = 0, algorithm: str = "RS256") -> None:
        response_faults = {
            "keys_garbage": _keys_garbage,
            "keys_empty": lambda _: web.json_response({"keys": []}),
            "issuer_foreign": self._issuer_foreign,
        }
        super().__init__("idp", port=port, response_faults=response_faults)
        self.keys = [_SigningKey(algorithm)]
        self.fetches = 0
        """Number of times the key set was served."""
        self.issuer: str | None = None
        """The issuer in discovery and tokens; None: the listener's URL."""
        self.app.router.add_get("/.well-known/openid-configuration", self._discovery)
        self.app.router.add_get("/jwks", self._jwks)
        self.login = LoginEndpoints(self.app, self)
        self.devices = DeviceEndpoints(self.app, self.login)
        self.app.router.add_post("/_box/tokens", self._mint)
        self.app.router.add_post("/_box/rotate", self._rotate)

    @property
    def issuer_url(self) -> str:
        """Return `iss` of tokens and of the discovery document."""
        return self.issuer or self.url

    def token(  # noqa: PLR0913 - one parameter per part of a token
        self,
        subject: str | None,
        *,
        groups: list[str] | None = None,
        life_s: float = 3_600.0,
        claims: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        key: int = -1,
        forged: str | None = None,
    ) -> str:
        """Return a signed token, valid except where the parameters change it.

        `claims` and `headers` add or replace members of a valid token; None removes one.
        `key` is an index into `keys`, the newest by default. `forged` breaks the signature:
        `none` (alg none), `hs256` (HMAC with the public key as secret), `signature` (one character
        changed), `foreign_key` (an unpublished key under the kid of a published one).
        """
        signing = self.keys[key]
        at = int(now())
        payload: dict[str, Any] = {
            "iss": self.issuer_url,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": at,
            "exp": int(at + life_s),
            "jti": uuid.uuid4().hex,
            "groups": groups or [],
            **(claims or {}),
        }
        header = {"alg": signing.algorithm, "typ": "JWT", "kid": signing.kid, **(headers or {})}
        payload = {name: value for name, value in payload.items() if value is not None}
        header = {name: value for name, value in header.items() if value is not None}
        return _sign(header, payload, signing, forged)

    def rotate(
        self, algorithm: str = "RS256", *, keep_old: bool = False, keep_kid: bool = False
    ) -> None:
        """Sign with a new key; withdraw the old ones unless `keep_old`.

        With `keep_kid` it has the `kid` of the newest key, as some issuers do it.
        """
        new = _SigningKey(algorithm, self.keys[-1].kid if keep_kid else None)
        self.keys = [*(self.keys if keep_old else []), new]

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "fetches": self.fetches}

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self._document(self.issuer_url))

    def _issuer_foreign(self, _: Fault) -> web.Response:
        return web.json_response(self._document("https://elsewhere.example"))

    def _document(self, issuer: str) -> dict[str, Any]:
        return {
            "issuer": issuer,
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.keys}),
            **self.login.metadata(self.url),
            **self.devices.metadata(self.url),
        }

    async def _jwks(self, _: web.Request) -> web.Response:
        self.fetches += 1
        return web.json_response({"keys": [key.published for key in self.keys]})

    async def _mint(self, request: web.Request) -> web.Response:
        parameters = await request.json()
        subject = parameters.pop("subject", None)
        return web.json_response({"token": self.token(subject, **parameters)})

    async def _rotate(self, request: web.Request) -> web.Response:
        parameters = await request.json() if request.can_read_body else {}
        self.rotate(**parameters)
        return web.json_response({"kid": self.keys[-1].kid})


def _keys_garbage(fault: Fault) -> web.Response:
    del fault
    return web.json_response({"keys": [{"kty": "RSA", "kid": "x", "n": "!", "e": "AQAB"}, 7]})


def _sign(
    header: dict[str, Any], payload: dict[str, Any], signing: _SigningKey, forged: str | None
) -> str:
    match forged:
        case None:
            return _signed(header, payload, signing)
        case "foreign_key":
            return _signed(header, payload, _SigningKey(signing.algorithm))
        case "signature":
            content, _, signature = _signed(header, payload, signing).rpartition(".")
            turned = "A" if signature[0] != "A" else "B"
            return f"{content}.{turned}{signature[1:]}"
        case "none":
            return f"{_content({**header, 'alg': 'none'}, payload)}."
        case "hs256":
            content = _content({**header, "alg": "HS256"}, payload)
            pem = signing.private.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            return f"{content}.{_base64url(hmac.digest(pem, content.encode(), hashlib.sha256))}"
        case _:
            raise ValueError(f"unknown forgery {forged!r}; known: {', '.join(FORGERIES)}")


def _signed(header: dict[str, Any], payload: dict[str, Any], signing: _SigningKey) -> str:
    """Sign with the key's own algorithm, independent of `header`."""
    content = _content(header, payload)
    name = "EdDSA" if signing.algorithm in _EDWARDS else signing.algorithm
    algorithm = jwt.get_algorithm_by_name(name)
    return f"{content}.{_base64url(algorithm.sign(content.encode(), signing.private))}"


def _content(header: dict[str, Any], payload: dict[str, Any]) -> str:
    return ".".join(
        _base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, payload)
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
