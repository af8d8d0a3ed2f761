"""One identity provider over HTTP (port `OpenIdProvider`).

oauthlib builds the requests and reads the token responses. Discovery, the issuer of responses and
all checks of tokens are the gateway's own. Redirects are not followed: the provider's metadata
names every address.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import aiohttp
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient
from oauthlib.oauth2.rfc6749.errors import InvalidGrantError
from yarl import URL

from gateway.config.issuers import DiscoveryKeys, Issuer
from gateway.config.login import IssuerLogin
from gateway.config.values import discovery_document, is_exposed
from gateway.domain.errors import LoginFailed
from gateway.domain.login import model
from gateway.domain.quoted import quoted
from gateway.drivers.issuers.issuer_keys import describe_failure
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.clock import Clock
from gateway.flow.login.openid_provider import AuthorizationRequest, ProviderTokens

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0, connect=3.0)
_BYTES_MAX: Final = 262_144
_TOKEN_CHARS_MAX: Final = 16_384
_METADATA_AGE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """What the discovery document says about logins."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    announces_iss: bool
    posts_secret: bool
    """The client's secret goes into the body: the provider does not take HTTP Basic."""
    document: Mapping[str, Any] = field(repr=False)
    """The whole discovery document."""


class HttpOpenIdProvider:
    def __init__(  # noqa: PLR0913 - one argument per collaborator
        self,
        issuer: Issuer,
        login: IssuerLogin,
        *,
        http: aiohttp.ClientSession,
        route: EgressRoute,
        redirect_uri: str,
        logged_out_uri: str,
        clock: Clock,
    ) -> None:
        """`redirect_uri` and `logged_out_uri` are registered at the provider."""
        assert isinstance(issuer.keys, DiscoveryKeys)
        self._issuer = issuer
        self._keys = issuer.keys
        self._login = login
        self._http = http
        self._route = route
        self._redirect_uri = redirect_uri
        self._logged_out_uri = logged_out_uri
        self._clock = clock
        self._metadata: ProviderMetadata | None = None
        self._fetched_at = 0.0

    async def authorization_url(self, request: AuthorizationRequest) -> str:
        metadata = await self.metadata()
        client = self._client()
        more: dict[str, str] = {"nonce": request.nonce}
        if request.max_age_s is not None:
            more["max_age"] = str(request.max_age_s)
        if self._login.acr_values:
            more["acr_values"] = " ".join(self._login.acr_values)
        # oauthlib refuses http; here only https or a loopback address gets this far.
        scheme, _, rest = metadata.authorization_endpoint.partition("://")
        url: str = client.prepare_request_uri(
            f"https://{rest}",
            redirect_uri=self._redirect_uri,
            scope=list(self._login.scopes),
            state=request.state,
            code_challenge=client.create_code_challenge(request.verifier, "S256"),
            code_challenge_method="S256",
            **more,
        )
        return f"{scheme}://{url.removeprefix('https://')}"

    async def check_issuer(self, answered: str | None) -> None:
        if answered is None:
            if not (await self.metadata()).announces_iss:
                return
            raise LoginFailed(model.MIXED_UP, "the response has no iss, which is announced")
        if answered != self._issuer.issuer:
            raise LoginFailed(model.MIXED_UP, "iss of the response is another issuer's")

    async def redeem(self, code: str, verifier: str) -> ProviderTokens:
        body = self._client().prepare_request_body(
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=verifier,
            include_client_id=self._login.client_secret is None,
        )
        tokens = await self._request_tokens(body)
        if not tokens.id_token:
            raise LoginFailed(model.TOKEN_REJECTED, "the token response has no ID token")
        return tokens

    async def refresh(self, refresh_token: str) -> ProviderTokens:
        more = {} if self._login.client_secret else {"client_id": self._login.client_id}
        body = self._client().prepare_refresh_body(refresh_token=refresh_token, **more)
        return await self._request_tokens(body)

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        metadata = await self.metadata()
        if metadata.userinfo_endpoint is None:
            raise LoginFailed(model.PROVIDER_UNAVAILABLE, "no userinfo_endpoint is published")
        headers = {"Authorization": f"Bearer {access_token}"}
        text = await self._read("GET", metadata.userinfo_endpoint, headers=headers)
        return _json_object(text, "userinfo")

    async def logout_url(self, id_token: str) -> str | None:
        endpoint = (await self.metadata()).end_session_endpoint
        if endpoint is None:
            return None
        query = {
            "id_token_hint": id_token,
            "client_id": self._login.client_id,
            "post_logout_redirect_uri": self._logged_out_uri,
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    async def revoke(self, refresh_token: str) -> None:
        metadata = await self.metadata()
        # Read only here: an address that cannot be used must not stop logins.
        endpoint = self._endpoint(metadata.document, "revocation_endpoint", is_required=False)
        if endpoint is None:
            return
        more = {} if self._login.client_secret else {"client_id": self._login.client_id}
        body = urlencode({"token": refresh_token, "token_type_hint": "refresh_token", **more})
        methods = metadata.document.get("revocation_endpoint_auth_methods_supported")
        posts_secret = metadata.posts_secret if methods is None else _posts_secret(methods)
        headers, body = self._authenticated(body, posts_secret=posts_secret)
        status, _ = await self._request("POST", endpoint, headers=headers, body=body)
        if status != 200:
            raise LoginFailed(model.PROVIDER_UNAVAILABLE, f"revocation: HTTP status {status}")

    def _client(self) -> WebApplicationClient:
        return WebApplicationClient(self._login.client_id)

    def _authenticated(self, body: str, *, posts_secret: bool) -> tuple[dict[str, str], str]:
        """Return headers and body of a request that the client authenticates."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        secret = self._login.client_secret
        if secret is not None and posts_secret:
            client = {"client_id": self._login.client_id, "client_secret": secret.reveal()}
            body = f"{body}&{urlencode(client)}"
        elif secret is not None:
            # RFC 6749, 2.3.1: both are form-encoded before they are joined.
            pair = ":".join(
                urlencode({"": one})[1:] for one in (self._login.client_id, secret.reveal())
            )
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers, body

    async def _request_tokens(self, body: str) -> ProviderTokens:
        metadata = await self.metadata()
        headers, body = self._authenticated(body, posts_secret=metadata.posts_secret)
        status, text = await self._request(
            "POST", metadata.token_endpoint, headers=headers, body=body
        )
        if status >= 500:
            raise LoginFailed(model.PROVIDER_UNAVAILABLE, f"tokens: HTTP status {status}")
        _json_object(text, "tokens")
        try:
            answer = self._client().parse_request_body_response(text)
        except InvalidGrantError:
            raise LoginFailed(model.CODE_REJECTED, "invalid_grant") from None
        except (OAuth2Error, Warning, ValueError, TypeError, AttributeError) as error:
            # The provider's own text is not repeated: it may contain what was sent.
            name = error.error if isinstance(error, OAuth2Error) else type(error).__name__
            raise LoginFailed(
                model.PROVIDER_UNAVAILABLE, f"tokens: {quoted(str(name)[:40])}"
            ) from None
        return _tokens(answer)

    async def metadata(self) -> ProviderMetadata:
        """Return the metadata; an old one goes on while the provider does not answer."""
        now = self._clock.monotonic()
        if self._metadata is not None and now - self._fetched_at < _METADATA_AGE_S:
            return self._metadata
        try:
            text = await self._read("GET", discovery_document(self._keys.discovery))
            self._metadata = self._read_metadata(_json_object(text, "discovery"))
        except LoginFailed:
            if self._metadata is None:
                raise
        self._fetched_at = now
        return self._metadata

    def _read_metadata(self, document: Mapping[str, Any]) -> ProviderMetadata:
        # OIDC Discovery 1.0, 4.3: the document must name the issuer that it was fetched for.
        if document.get("issuer") != self._issuer.issuer:
            raise LoginFailed(
                model.PROVIDER_UNAVAILABLE, "the discovery document names another issuer"
            )
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return ProviderMetadata(
            self._endpoint(document, "authorization_endpoint") or "",
            self._endpoint(document, "token_endpoint") or "",
            self._endpoint(document, "userinfo_endpoint", is_required=False),
            self._endpoint(document, "end_session_endpoint", is_required=False),
            document.get("authorization_response_iss_parameter_supported") is True,
            _posts_secret(methods),
            document,
        )

    def _endpoint(
        self, document: Mapping[str, Any], name: str, *, is_required: bool = True
    ) -> str | None:
        address = document.get(name)
        if address is None and not is_required:
            return None
        try:
            parts = urlsplit(address if isinstance(address, str) else "")
            is_url = parts.scheme in ("https", "http") and parts.hostname and not parts.fragment
            is_weaker = parts.scheme == "http" and self._keys.discovery.startswith("https:")
            is_safe = not is_exposed(str(address)) or self._keys.insecure_http
        except ValueError:
            is_url, is_weaker, is_safe = False, False, False
        if not is_url or is_weaker or not is_safe:
            raise LoginFailed(
                model.PROVIDER_UNAVAILABLE, f"the discovery document has no usable {name}"
            )
        return str(address)

    async def probe(self, url: str) -> tuple[int, str]:
        """Return status and Location of a GET; raise LoginFailed."""
        try:
            async with self._http.get(
                URL(url, encoded=True),
                allow_redirects=False,
                timeout=_TIMEOUT,
                **self._route.options(url),
            ) as response:
                return response.status, response.headers.get("Location", "")
        except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
            raise LoginFailed(
                model.PROVIDER_UNAVAILABLE, f"{url.partition('?')[0]}: {describe_failure(error)}"
            ) from None

    async def _read(
        self, method: str, address: str, *, headers: Mapping[str, str] | None = None
    ) -> str:
        """Return the text of a response with status 200; raise LoginFailed."""
        status, text = await self._request(method, address, headers=headers)
        if status != 200:
            shown = address.partition("?")[0]
            raise LoginFailed(model.PROVIDER_UNAVAILABLE, f"{shown}: HTTP status {status}")
        return text

    async def _request(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> tuple[int, str]:
        """Return status and text of a response; raise LoginFailed."""
        try:
            async with self._http.request(
                method,
                URL(address, encoded=True),
                data=body,
                allow_redirects=False,
                timeout=_TIMEOUT,
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    **(headers or {}),
                },
                **self._route.options(address),
            ) as response:
                text = bytearray()
                async for chunk in response.content.iter_chunked(65_536):
                    text += chunk
                    if len(text) > _BYTES_MAX:
                        raise LoginFailed(
                            model.PROVIDER_UNAVAILABLE, "the provider's response is too large"
                        )
                return response.status, text.decode("utf-8")
        except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
            shown = address.partition("?")[0]
            raise LoginFailed(
                model.PROVIDER_UNAVAILABLE, f"{shown}: {describe_failure(error)}"
            ) from None


def _posts_secret(methods: object) -> bool:
    return (
        isinstance(methods, list)
        and "client_secret_basic" not in methods
        and "client_secret_post" in methods
    )


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LoginFailed(model.PROVIDER_UNAVAILABLE, f"{what}: not a JSON object")
    return value


def _tokens(answer: Mapping[str, Any]) -> ProviderTokens:
    access_token = answer.get("access_token")
    texts = [answer.get(name, "") for name in ("id_token", "refresh_token")]
    if (
        not isinstance(access_token, str)
        or str(answer.get("token_type", "bearer")).lower() != "bearer"
        or not all(
            isinstance(one, str) and len(one) <= _TOKEN_CHARS_MAX for one in (access_token, *texts)
        )
    ):
        raise LoginFailed(model.PROVIDER_UNAVAILABLE, "the token response is malformed")
    expires_in = answer.get("expires_in")
    is_number = isinstance(expires_in, int | float) and not isinstance(expires_in, bool)
    return ProviderTokens(
        access_token, texts[0], texts[1], float(expires_in) if is_number and expires_in else None
    )
