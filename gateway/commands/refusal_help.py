"""Help after a refusal: the contact of the operators, and the roles that may be requested."""

from typing import Any, Final

from gateway.commands.exit_codes import CommandFailed
from gateway.commands.gateway_client import GatewayClient

_LIMIT_S: Final = 3.0
_CHARS_MAX: Final = 1_000


def add_help(failure: CommandFailed, gateway: GatewayClient) -> None:
    """Add the contact of the gateway's operators and the roles that the person may request.

    Both depend on the person and the rules only, never on whether a server exists. An error leaves
    them out: the refusal itself is what the person must see.
    """
    found = _document(gateway, "/.well-known/console-gateway").get("contact")
    contact = found if isinstance(found, dict) else {}
    texts = {name: _text(contact.get(name)) for name in ("text", "url")}
    if any(texts.values()):
        failure.fields["contact"] = {name: text or None for name, text in texts.items()}
        failure.help.append(f"Contact: {' '.join(filter(None, texts.values()))}")
    rules = _document(gateway, "/requests/rules").get("rules")
    roles = sorted(
        {
            str(one["role"])
            for one in (rules if isinstance(rules, list) else [])
            if isinstance(one, dict) and one.get("role")
        }
    )
    if roles:
        failure.fields["requestable_roles"] = roles
        failure.help.append(
            "Request access by: gateway requests create PROJECT/SERVER --role"
            f" {roles[0] if len(roles) == 1 else 'ROLE'} --for 1h --reason TEXT"
        )


def _document(gateway: GatewayClient, path: str) -> dict[str, Any]:
    try:
        return gateway.within(_LIMIT_S).request(path).data
    except CommandFailed:
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _CHARS_MAX else ""
