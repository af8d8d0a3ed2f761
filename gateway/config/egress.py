"""Config section `egress`: how the gateway reaches clouds, IAM and issuers."""

import re
import ssl
from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.errors import InvalidKey
from gateway.config.files import CertificateFile, ReadableFile, load_certificate
from gateway.config.secrets import SecretValue
from gateway.config.values import Section, has_host_and_port, text_schema

DIRECT = "direct"
_PROXY_URL = r"direct|https?://[A-Za-z0-9._\-\[\]:]+/?"
_HOST_PATTERN = r"\*|(?:\*?\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"


def _proxy_url(value: str) -> str:
    if value == DIRECT:
        return value
    if not re.fullmatch(_PROXY_URL, value) or not has_host_and_port(value):
        raise ValueError(
            "must be http://HOST:PORT or https://HOST:PORT; use `username` and `password`"
        )
    return value.rstrip("/")


def _as_mapping(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _no_proxy(value: str) -> str:
    if re.fullmatch(_HOST_PATTERN, value):
        return value.lower()
    try:
        return str(ip_network(value.strip("[]")))
    except ValueError:
        raise ValueError("must be a host, `*.domain`, an address or a network") from None


class EgressProxy(Section):
    """An HTTP proxy. HTTPS passes through it by CONNECT, so the proxy sees only host and port."""

    url: Annotated[str, AfterValidator(_proxy_url), text_schema(f"(?:{_PROXY_URL})")]
    """`http://HOST:PORT` of the proxy, or `https://HOST:PORT`; `direct`: no proxy."""
    username: str | None = None
    """User for Basic authentication at the proxy."""
    password: SecretValue | None = None
    """Password of the user."""

    @model_validator(mode="after")
    def _credentials_are_a_pair(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise InvalidKey(("username",), "requires `password`, and the reverse")
        return self


Proxy = Annotated[
    EgressProxy, BeforeValidator(_as_mapping, json_schema_input_type=EgressProxy | str)
]


class EgressCertificate(Section):
    """A client certificate and its key, in PEM. Changed files are used within seconds."""

    certificate_file: CertificateFile
    """The certificate, followed by its intermediate certificates."""
    key_file: ReadableFile
    """The private key of `certificate_file`. An encrypted key is rejected."""

    @field_validator("key_file")
    @classmethod
    def _matches_the_certificate(cls, file: ReadableFile, info: ValidationInfo) -> ReadableFile:
        certificate = info.data.get("certificate_file")
        if certificate is not None:
            load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, file)
        return file


class EgressSettings(Section):
    proxy: Proxy | None = None
    """Proxy for requests to clouds, IAM and issuers: a URL, or `url` with credentials. Unset:
    direct connections. Environment variables such as HTTPS_PROXY are ignored."""
    no_proxy: Annotated[tuple[Annotated[str, AfterValidator(_no_proxy)], ...], Field()] = ()
    """Hosts that are reached directly: exact names, `*.domain` for every host below a domain,
    addresses and networks."""
