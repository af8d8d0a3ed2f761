"""Paths of the config: relative ones are resolved against the config file's directory."""

import os
import ssl
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema

from gateway.config.key_material import UnusableKeys, parse_key_file, read_key_file

_SOCKET_PATH_BYTES_MAX: Final = 107
"""unix(7)."""


def _resolve(value: object, info: ValidationInfo) -> object:
    if value == "":
        raise ValueError("must not be empty")
    return (info.context or {})["base"] / value if isinstance(value, str) else value


def _readable(file: Path) -> Path:
    try:
        file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    return file


def _no_directory(file: Path) -> Path:
    if os.path.isdir(file):  # noqa: PTH112 - Path.is_dir raises without search permission
        raise ValueError(f"{file} is a directory; name a file")
    return file


def _directory(directory: Path) -> Path:
    existing = directory
    while not os.path.exists(existing):  # noqa: PTH110 - Path.exists raises without permission
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{existing} is not a directory")
    return directory


def _in_a_directory(file: Path) -> Path:
    _directory(file.parent)
    return file


def _socket_path(file: Path) -> Path:
    absolute = file.absolute()
    if len(os.fsencode(absolute)) > _SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"{absolute} must have at most {_SOCKET_PATH_BYTES_MAX} bytes")
    return absolute


def _with_certificates(file: Path, what: str) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        raise ValueError(f"{file} has no {what} in PEM") from None
    return file


def _with_public_keys(file: Path) -> Path:
    try:
        parse_key_file(read_key_file(file))
    except UnusableKeys as error:
        raise ValueError(f"{file}: {error}") from None
    return file


def load_certificate(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> None:
    """Load a listener's certificate and key into a context; raise ValueError if they do not fit.

    An encrypted key is rejected: OpenSSL would read its password from the terminal.
    """
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key_file} is not the key of {certificate_file}") from None
        raise ValueError(f"{certificate_file} and {key_file} are not a pair in PEM") from None
    except OSError as error:
        raise ValueError(f"the pair cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password")


_PATH_SCHEMA = WithJsonSchema({"type": "string", "format": "path", "minLength": 1})

ConfigPath = Annotated[Path, BeforeValidator(_resolve), _PATH_SCHEMA]
File = Annotated[ConfigPath, AfterValidator(_no_directory)]
"""A file that need not exist yet."""
FileInDirectory = Annotated[File, AfterValidator(_in_a_directory)]
"""A file that `serve` creates, with its directory."""
SocketFile = Annotated[File, AfterValidator(_socket_path)]
"""The absolute path of a Unix socket that `serve` creates."""
Directory = Annotated[ConfigPath, AfterValidator(_directory)]
"""A directory that exists or that `serve` creates."""
ReadableFile = Annotated[ConfigPath, AfterValidator(_readable)]
PublicKeyFile = Annotated[ReadableFile, AfterValidator(_with_public_keys)]
CertificateFile = Annotated[
    ReadableFile, AfterValidator(partial(_with_certificates, what="certificate"))
]
AuthoritiesFile = Annotated[
    ReadableFile, AfterValidator(partial(_with_certificates, what="authority's certificate"))
]
