"""The caller's token of a client command: from a variable, a file or a command."""

import argparse
import base64
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.commands.exit_codes import usage_error
from gateway.commands.gateway_address import GatewayAddress
from gateway.domain.model import Secret

LOGIN_VARIABLE: Final = "CONSOLE_GATEWAY_TOKEN"
"""Without a token in this variable, the login of `gateway login` counts."""
LOGIN_SOURCE: Final = "`gateway login`"
_COMMAND_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientToken:
    token: Secret | None
    """None where a client certificate authenticates the caller."""
    source: str

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token.reveal()}"}

    @property
    def description(self) -> str:
        """Return where the token came from and, if it has expired, since when."""
        if self.token is None:
            return "No token was sent, only the certificate."
        return f"The token came from {self.source}{_expiry(self.token)}."


def load_token(options: argparse.Namespace, address: GatewayAddress) -> ClientToken:
    """Raise CommandFailed when there is neither a token, a certificate nor a login."""
    if options.token_file is not None:
        text, source = _read(options.token_file), f"the file {options.token_file}"
    elif options.token_command is not None:
        text, source = _output_of(options.token_command), "--token-command"
    else:
        text, source = os.environ.get(options.token_env, ""), f"${options.token_env}"
        if not text and options.cert is not None:
            return ClientToken(None, "")
        if not text and options.token_env == LOGIN_VARIABLE:
            from gateway.commands.client_login import ClientLogins

            login = ClientLogins().current(str(address), ca_file=options.ca_file)
            text, source = login.token, LOGIN_SOURCE
    token = text.strip()
    if not token or any(char.isspace() or not char.isascii() for char in token):
        raise usage_error(f"There is no token in {source}. It must contain one JWT only.")
    return ClientToken(Secret(token), source)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError):
        raise usage_error(f"{file} cannot be read.") from None


def _output_of(command: str) -> str:
    try:
        ran = subprocess.run(  # noqa: S603 - the user's own command, without a shell
            shlex.split(command), stdout=subprocess.PIPE, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        raise usage_error("The --token-command failed.") from None
    return ran.stdout.decode("utf-8-sig", errors="replace")


def _expiry(token: Secret) -> str:
    """Describe when the token expired, if it did; its signature is not verified."""
    try:
        payload = token.reveal().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expired_at = datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, LookupError, TypeError, OSError, OverflowError):
        return ""
    if expired_at >= datetime.now(UTC):
        return ""
    return f" and expired {expired_at:%Y-%m-%d %H:%M:%S} UTC"
