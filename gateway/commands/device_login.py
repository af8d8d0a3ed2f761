"""Logins with a code that the person enters on another device (RFC 8628)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.commands.cli_issuer import CliIssuer, new_login
from gateway.commands.exit_codes import (
    LATER,
    NOT_AUTHENTICATED,
    REJECTED,
    UNREACHABLE,
    CommandFailed,
)
from gateway.commands.login_provider import LoginProvider, TokenError
from gateway.commands.stored_logins import StoredLogin
from gateway.commands.terminal import print_error

_ENDPOINT: Final = "device_authorization_endpoint"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL_S: Final = 5.0
"""Of providers that send none, and what `slow_down` adds (RFC 8628, 3.2 and 3.5)."""
_INTERVAL_MAX_S: Final = 60.0
_LIFE_MAX_S: Final = 1_800.0
_CHARS_MAX: Final = 2_000


def offers_device_login(issuer: CliIssuer, provider: LoginProvider) -> bool:
    """Return whether the gateway allows it and the provider has it; raise CommandFailed."""
    return issuer.device and isinstance(provider.metadata.get(_ENDPOINT), str)


def log_in_by_device(
    gateway: str,
    issuer: CliIssuer,
    provider: LoginProvider,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> StoredLogin:
    """Show the person an address and a code, and wait for the login; raise CommandFailed."""
    if not offers_device_login(issuer, provider):
        message = f"{issuer.name} offers no login with a code (`issuers[].cli.device`)."
        raise CommandFailed(REJECTED, message)
    code = _DeviceCode.parse(provider.request_device_code(issuer.scopes), provider)
    _show(code)
    return new_login(gateway, issuer, _poll(code, provider, wait), nonce=None)


@dataclass(frozen=True, slots=True)
class _DeviceCode:
    device_code: str
    user_code: str
    address: str
    whole_address: str
    """The address with the code in it; empty: the provider has none."""
    life_s: float
    interval_s: float

    @classmethod
    def parse(cls, answer: Mapping[str, Any], provider: LoginProvider) -> "_DeviceCode":
        device_code, user_code, address, whole = (
            one if isinstance(one := answer.get(name), str) and len(one) < _CHARS_MAX else ""
            for name in (
                "device_code",
                "user_code",
                "verification_uri",
                "verification_uri_complete",
            )
        )
        if not device_code or not user_code or not address:
            raise CommandFailed(REJECTED, f"{provider.issuer} sent no usable code.")
        return cls(
            device_code,
            user_code,
            address,
            whole,
            _number(answer.get("expires_in"), _LIFE_MAX_S, _LIFE_MAX_S),
            _number(answer.get("interval"), _INTERVAL_S, _INTERVAL_MAX_S),
        )


def _number(value: Any, default: float, maximum: float) -> float:
    is_usable = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return min(float(value), maximum) if is_usable else default


def _show(code: _DeviceCode) -> None:
    """Show the code also beside an address that has it: people compare them (RFC 8628, 3.3)."""
    print_error(f"On any device, open {code.address}")
    print_error(f"and enter the code {code.user_code}")
    if code.whole_address:
        print_error(f"or open {code.whole_address} and compare the code.")
    minutes = max(1, round(code.life_s / 60))
    print_error(
        f"It is good for {minutes} min. Enter codes only that you requested yourself: whoever sends"
        " you one would be logged in as you."
    )


def _poll(
    code: _DeviceCode, provider: LoginProvider, wait: Callable[[float], None]
) -> dict[str, Any]:
    """Return the tokens; raise CommandFailed."""
    form = {"grant_type": _GRANT, "device_code": code.device_code}
    interval_s, left_s = code.interval_s, code.life_s
    while left_s > 0:
        wait(interval_s)
        left_s -= interval_s
        try:
            return provider.request_tokens(form)
        except TokenError as error:
            match error.error:
                case "authorization_pending":
                    pass
                case "slow_down":
                    interval_s += _INTERVAL_S
                case "access_denied":
                    message = "The login was denied at the identity provider."
                    raise CommandFailed(NOT_AUTHENTICATED, message) from None
                case "expired_token":
                    break
                case _ if error.code != UNREACHABLE:
                    raise
                case _:
                    # Poll an unreachable provider less often (RFC 8628, 3.5).
                    interval_s = min(2 * interval_s, _INTERVAL_MAX_S)
    raise CommandFailed(LATER, "The code has expired. Run `gateway login` again.")
