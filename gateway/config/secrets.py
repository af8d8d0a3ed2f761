"""Secrets of the config: each is read from a file or from an environment variable."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema

from gateway.config.errors import KeyPath
from gateway.config.values import Section
from gateway.domain.model import Secret

_BYTE_ORDER_MARK: Final = "\ufeff"


class SecretOfFile(Secret):
    """A secret that was read from a file, which may have another one now."""

    __slots__ = ("file", "has_byte_order_mark")

    def __init__(self, text: str, file: Path, *, has_byte_order_mark: bool = False) -> None:
        super().__init__(text)
        self.file = file
        self.has_byte_order_mark = has_byte_order_mark
        """The file begins with one, which some editors add. It is no part of the secret."""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the secret in a file; raise ValueError if it has none."""
        try:
            content = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"secret file {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"secret file {file} is not UTF-8") from error
        text = content.removeprefix(_BYTE_ORDER_MARK).strip("\r\n")
        if not text:
            raise ValueError(f"secret file {file} is empty")
        return cls(text, file, has_byte_order_mark=content.startswith(_BYTE_ORDER_MARK))

    def read_again(self) -> Self:
        """Return the secret that the file has now; raise ValueError if it has none."""
        return self.read(self.file)


_SOURCE_REQUIRED: Final = "must name the secret's source: {file: PATH} or {env: NAME}"


def _read_secret(source: object, info: ValidationInfo) -> Secret:
    context = info.context or {}
    match source:
        case Secret():
            return source
        case {"file": str(name), **rest} if not rest:
            return SecretOfFile.read(context["base"] / name)
        case {"env": str(name), **rest} if not rest:
            text = context["environ"].get(name, "")
            if not text:
                raise ValueError(f"environment variable {name} is not set")
            return Secret(text)
    raise ValueError(_SOURCE_REQUIRED)


def secrets_of(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Secret]]:
    """Yield each secret in a section of the config, with its key."""
    match value:
        case Secret():
            yield path, value
        case Section():
            for key in type(value).model_fields:
                yield from secrets_of(getattr(value, key), (*path, key))
        case tuple():
            for i, inner in enumerate(value):
                yield from secrets_of(inner, (*path, i))
        case _:
            pass


def _encryption_key(key: Secret) -> Secret:
    try:
        size = len(base64.b64decode(key.reveal(), validate=True))
    except ValueError:
        size = 0
    if size != 32:
        raise ValueError("must be 32 bytes in base64; create one with: openssl rand -base64 32")
    return key


def _ed25519_key(key: Secret) -> Secret:
    try:
        loaded = load_pem_private_key(key.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        loaded = None
    if isinstance(loaded, Ed25519PrivateKey):
        return key
    raise ValueError(
        "must be an Ed25519 private key in PEM; create one with: openssl genpkey -algorithm ed25519"
    )


def _source_schema(key: str, description: str) -> Mapping[str, object]:
    return {
        "type": "object",
        "properties": {key: {"type": "string", "minLength": 1, "description": description}},
        "required": [key],
        "additionalProperties": False,
    }


SECRET_SCHEMA: Final = {
    "description": "The source of a secret. The secret itself is rejected here.",
    "oneOf": [
        _source_schema("file", "File that holds the secret; relative to the config file."),
        _source_schema("env", "Environment variable that holds the secret."),
    ],
}

SecretValue = Annotated[Secret, BeforeValidator(_read_secret), WithJsonSchema(SECRET_SCHEMA)]
EncryptionKey = Annotated[SecretValue, AfterValidator(_encryption_key)]
SigningKey = Annotated[SecretValue, AfterValidator(_ed25519_key)]
