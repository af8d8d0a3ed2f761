"""Config sections `console` and `accounts[].console`: live consoles through the gateway."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, IPvAnyNetwork, PlainValidator, WithJsonSchema

from gateway.config.values import Integer, Number, Seconds, Section
from gateway.domain.consoles.model import Clipboard
from gateway.domain.consoles.socket_address import SHAPES, Network, template_problem
from gateway.domain.recordings.model import RecordingPolicy

_Count = Annotated[Integer, Field(ge=1, le=100_000)]


def _template(value: str) -> str:
    if value == "auto" or value in SHAPES:
        return value
    if problem := template_problem(value):
        raise ValueError(f"must be auto, {', '.join(sorted(SHAPES))} or a template: it {problem}")
    return value


def _network(value: object) -> Network:
    network: Network = IPvAnyNetwork(value)  # type: ignore[operator]
    return network


class AccountConsole(Section):
    """Consoles of one account: the cloud's URL, or a live console through the gateway."""

    delivery: Literal["direct", "proxied"] = "direct"
    """`direct`: the response is the cloud's own URL, which opens the console for everyone who has
    it. `proxied`: the response is a one-time address of the gateway, and the live console runs
    through the gateway. Requires `listen.public_url`."""
    websocket: Annotated[str, AfterValidator(_template)] = "auto"
    """Address of the cloud's console WebSocket: `directory`, `root`, or a template with `{host}`,
    `{directory}` and `{token}` of the console link, such as
    `wss://{host}/websockify?token={token}`. `auto` tries both, each with a fresh link."""
    subprotocol: Literal["auto", "binary", "none"] = "auto"
    """WebSocket subprotocol toward the cloud: `binary` for websockify before version 0.9, `none`
    for later ones. `auto` tries both."""
    clipboard: Clipboard = Clipboard.BOTH
    """Directions in which clipboard text may pass: `both`, `to_server`, `from_server`, `none`.
    Pasting as keystrokes is typing and always possible."""
    sessions_max: _Count = 100
    """Live consoles of the account at the same time, over all replicas."""
    recording: RecordingPolicy = RecordingPolicy.NEVER
    """`required`: screen data reaches a browser only after it is written, and a session whose
    recording fails ends. `when_possible`: a session goes on without a recording, and its page says
    so. `never`: not recorded. Requires `delivery: proxied` and `recordings.directory`."""
    record_keys: bool = False
    """Also record the keys that are pressed, passwords included, encrypted with a key of their own.
    Only `recording:keys` shows them. Requires `recording`."""


class ConsoleSettings(Section):
    """Live consoles of accounts with `console.delivery: proxied`."""

    browser_login: Literal["optional", "required"] = "optional"
    """`optional`: in a browser with a login (`issuers[].login`), a one-time address opens only for
    its own person; in other browsers for everyone who has it. `required`: only in a browser in
    which its person is logged in; recommended. While Redis is unavailable, a browser with the
    cookie of a login gets 503 with both values, and the address stays unspent. Requires an issuer
    with `login`."""
    time_limit_s: Seconds = 28_800.0
    """Longest session in seconds. The page shows a warning 60 s before."""
    idle_s: Seconds = 1_800.0
    """Seconds without a key, pointer or clipboard message after which a session ends. The page
    shows a warning 60 s before."""
    view_time_limit_s: Seconds = 3_600.0
    """Longest view-only session in seconds. It has no idle time."""
    outlive_token_s: Annotated[Number, Field(ge=0, le=86_400)] = 3_600.0
    """Seconds that a session continues after the token that opened it has expired. 0: it ends with
    the token. A newer token of the same person renews it."""
    sessions_person_max: _Count = 5
    """Sessions of one person at the same time, over all replicas."""
    sessions_server_max: _Count = 1
    """Sessions with keyboard on one server at the same time. One person more can take over
    with `console:takeover`: that ends the oldest session."""
    viewers_server_max: _Count = 5
    """View-only sessions on one server at the same time."""
    sessions_max: _Count = 1_000
    """Sessions of all accounts at the same time, over all replicas."""
    drain_s: Annotated[Number, Field(ge=0, le=3_600)] = 300.0
    """Seconds in which a stopping process moves its sessions to other processes. The grace period
    of the service manager must be longer."""
    reload_drain_s: Annotated[Number, Field(ge=0, le=86_400)] = 3_600.0
    """Seconds that a replaced process keeps its sessions after a reload of the config, before it
    moves them to the new process."""
    private_networks: tuple[
        Annotated[
            Network,
            PlainValidator(_network),
            WithJsonSchema({"type": "string", "examples": ["10.20.0.0/16", "fd00:20::/32"]}),
        ],
        ...,
    ] = ()
    """Networks without a public address in which the cloud's consoles may be. A console on any
    other loopback, private, link-local or multicast address is refused."""
