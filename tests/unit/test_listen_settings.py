"""The keys of `listen`: Unix socket, PROXY protocol, trusted proxies, pages of other origins."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config.listen import PublicListen
from gateway.process.wiring.listeners import open_cors, trusted_proxies


def listen(directory: Path, **keys: object) -> PublicListen:
    return PublicListen.model_validate(keys, context={"base": directory})


def problem(directory: Path, **keys: object) -> str:
    with pytest.raises(ValidationError) as found:
        listen(directory, **keys)
    return str(found.value)


def test_idle_timeout_is_above_an_hour(tmp_path: Path) -> None:
    assert listen(tmp_path).idle_timeout_s > 3_600


def test_unix_socket_is_relative_to_the_config(tmp_path: Path) -> None:
    settings = listen(tmp_path, unix_socket="run/public.sock", unix_socket_mode="0600")
    assert settings.unix_socket == tmp_path / "run" / "public.sock"
    assert settings.unix_mode == 0o600
    assert listen(tmp_path).unix_mode == 0o660


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"unix_socket": "x.sock", "port": 8080}, "must not be combined with `host` and `port`"),
        ({"unix_socket": "x.sock", "host": "0.0.0.0"}, "must not be combined"),
        ({"unix_socket": "x" * 108}, "at most 107 bytes"),
        ({"unix_socket": ""}, "must not be empty"),
        ({"unix_socket": "."}, "is a directory"),
        ({"unix_socket": "x.sock", "unix_socket_mode": "660"}, "^0[0-7]{3}$"),
        ({"unix_socket": "x.sock", "unix_socket_mode": 432}, "unix_socket_mode"),
        ({"trusted_proxies": ["unix"]}, "`unix` requires `unix_socket`"),
        ({"trusted_proxies": ["10.0.0.1/8x"]}, "trusted_proxies"),
        ({"proxy_protocol": True}, "requires `trusted_proxies`"),
        ({"cors": {"origins": []}}, "at least 1"),
        ({"cors": {"origins": ["*"]}}, "must be an origin"),
        ({"cors": {"origins": ["null"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://portal.example.com/"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://portal.example.com/x"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://Portal.example.com"]}}, "must be an origin"),
        ({"cors": {"origins": ["http://portal.example.com"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://*.example.com"]}}, "must be an origin"),
        ({"cors": {"origins": ["https://a.example"], "max_age_s": 86_401}}, "86400"),
    ],
)
def test_invalid_key_is_rejected(tmp_path: Path, keys: dict[str, object], expected: str) -> None:
    assert expected in problem(tmp_path, **keys)


def test_trusted_proxies_are_networks_and_the_unix_socket(tmp_path: Path) -> None:
    proxies = ["10.0.0.0/8", "::ffff:192.168.0.0/112", "unix"]
    trusted = trusted_proxies(listen(tmp_path, unix_socket="x.sock", trusted_proxies=proxies))
    assert trusted.networks == (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))
    assert trusted.has_unix_peers
    assert not trusted_proxies(listen(tmp_path))


def test_origins_are_exact(tmp_path: Path) -> None:
    origins = ["https://portal.example.com", "https://[::1]:8443", "http://localhost:3000"]
    settings = listen(tmp_path, cors={"origins": origins})
    assert settings.cors is not None
    assert settings.cors.origins == tuple(origins)
    assert open_cors(None, ()) is None
