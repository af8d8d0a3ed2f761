"""TLS of both listeners: certificate renewal and client certificates."""

import http.client
import json
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.commands.parser import main
from tests.support.stack import TIMEOUT_S, RunningGateway, Stack, console_path, eventually
from tests.support.steady_load import SteadyLoad, Target, Wanted
from tests.support.tls import Authority, CertificatePair


@dataclass
class Site:
    """A gateway with client certificates: optional on the public listener, required on admin."""

    gateway: RunningGateway
    authority: Authority
    stranger: Authority
    pair: CertificatePair
    directory: Path

    @property
    def files(self) -> tuple[Path, Path]:
        return self.directory / "tls.crt", self.directory / "tls.key"

    def client(self, pair: CertificatePair | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if pair is not None:
            files = self.directory / "client.crt", self.directory / "client.key"
            pair.write(*files)
            context.load_cert_chain(*files)
        return context

    def get(
        self, port: int, path: str, pair: CertificatePair | None = None, token: str = ""
    ) -> bytes:
        """Return the body of a successful response."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT_S, context=self.client(pair)
        )
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            assert response.status == 200
            return response.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the value of the series whose line begins with this."""
        page = self.get(self.gateway.admin_port, "/metrics", self.authority.issue("prometheus"))
        (line,) = [line for line in page.decode().splitlines() if line.startswith(name)]
        return float(line.rpartition(" ")[2])

    def link(self, pair: CertificatePair | None = None) -> bytes:
        cloud = self.gateway.cloud
        path = console_path(cloud.project, cloud.servers[0])
        return self.get(self.gateway.port, path, pair, cloud.token())

    def serial(self) -> int:
        """Return the serial number of the certificate of a new connection."""
        with self.client().wrap_socket(
            _connected(self.gateway.port), server_hostname="127.0.0.1"
        ) as connection:
            shown = connection.getpeercert()
            assert shown is not None
            return int(str(shown["serialNumber"]), 16)


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def site(stack: Stack) -> Iterator[Site]:
    authority = Authority()
    gateway = stack.replica(start=False)
    pair = authority.issue("gateway", rsa_key=True)
    made = Site(gateway, authority, Authority(), pair, gateway.directory)
    pair.write(*made.files)
    (gateway.directory / "ca.crt").write_bytes(authority.certificate)
    tls = {"certificate_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt"}
    gateway.config["listen"]["tls"] = {**tls, "client_certificates": "optional"}
    gateway.config["admin"]["tls"] = {**tls, "client_certificates": "required"}
    gateway.write_config()
    gateway.start(wait=False)
    eventually(lambda: gateway.log_lines("serving"), gateway.log_text)
    yield made
    gateway.close()


def test_renewed_certificate_drops_no_connection(site: Site) -> None:
    gateway, cloud = site.gateway, site.gateway.cloud
    site.pair.write(*site.files)
    eventually(lambda: site.serial() == site.pair.serial)
    head = (
        f"GET {console_path(cloud.project, cloud.servers[0])} HTTP/1.1\r\nHost: gateway\r\n"
        f"Authorization: Bearer {cloud.token()}\r\n\r\n"
    ).encode()
    wanted = [Wanted("link", 1, lambda: head, lambda status, _: status == 200)]
    load = SteadyLoad([Target(gateway.port)], wanted, per_s=100, tls=site.client())
    with load.running():
        load.goes_on(0.5)
        for renewed in (site.authority.issue("gateway"), site.authority.issue("g", rsa_key=True)):
            renewed.write(*site.files)
            eventually(lambda one=renewed: site.serial() == one.serial, gateway.log_text)
            load.goes_on(0.3)
        gateway.config["cache"] = {"links_max": 10_000}
        gateway.write_config()
        eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
        load.goes_on(0.5)  # on the new worker
        # Most of the requests repeat the same bytes.
        eventually(lambda: site.metric("gateway_hit_path_requests_") > 0)
    assert load.failures == []
    assert load.reused > 30
    assert load.connects > 5
    for listener in ("public", "admin"):
        name = f'gateway_certificate_expires_timestamp_seconds{{listener="{listener}"}} '
        assert site.metric(name) == pytest.approx(renewed.ends_at, abs=1)


@pytest.mark.parametrize("what", ["expired", "not yet valid", "half written", "of another key"])
def test_invalid_certificate_never_replaces_a_valid_one(site: Site, what: str) -> None:
    site.pair.write(*site.files)
    eventually(lambda: site.serial() == site.pair.serial)
    certificate_file, key_file = site.files
    before = len(site.gateway.log_lines("certificate_rejected"))
    if what == "half written":
        certificate_file.write_bytes(site.authority.issue("gateway").certificate[:200])
    elif what == "of another key":
        certificate_file.write_bytes(site.authority.issue("gateway").certificate)
    else:
        days = (-2, -1) if what == "expired" else (1, 2)
        site.authority.issue("gateway", days=days).write(certificate_file, key_file)
    # Both listeners use the same files.
    eventually(
        lambda: (
            {one["listener"] for one in site.gateway.log_lines("certificate_rejected")[before:]}
            == {"public", "admin"}
        )
    )
    assert site.serial() == site.pair.serial
    assert site.link()


def test_optional_client_certificate_is_verified(site: Site) -> None:
    assert site.link()
    assert site.link(site.authority.issue("olga"))
    for bad in (site.stranger.issue("olga"), site.authority.issue("olga", days=(-2, -1))):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            site.link(bad)


def test_required_client_certificate_is_enforced(site: Site) -> None:
    port = site.gateway.admin_port
    assert b"alive" in site.get(port, "/healthz", site.authority.issue("olga"))
    for bad in (None, site.stranger.issue("olga"), site.authority.issue("o", days=(-2, -1))):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            site.get(port, "/healthz", bad)


def test_listener_requires_tls_1_2_and_http_1_1(site: Site) -> None:
    for highest, is_spoken in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = site.client()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = highest
        with _connected(site.gateway.port) as plain:
            if not is_spoken:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(plain, server_hostname="127.0.0.1")
                continue
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                assert connection.selected_alpn_protocol() == "http/1.1"


def test_console_command_uses_ca_file_and_certificate(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, cloud = site.directory, site.gateway.cloud
    site.authority.issue("olga").write(directory / "olga.crt", directory / "olga.key")
    site.stranger.issue("olga").write(directory / "bad.crt", directory / "bad.key")
    monkeypatch.setenv("CONSOLE_GATEWAY_TOKEN", cloud.token())
    arguments = ["console", "--print", "--gateway", f"https://127.0.0.1:{site.gateway.port}"]
    arguments += ["--ca-file", str(directory / "ca.crt"), f"{cloud.project}/{cloud.servers[0]}"]
    assert main(arguments) == 0
    assert (
        main([*arguments, "--cert", f"{directory}/olga.crt", "--key", f"{directory}/olga.key"]) == 0
    )
    assert (
        main([*arguments, "--cert", f"{directory}/bad.crt", "--key", f"{directory}/bad.key"]) == 6
    )
    assert "Check the scheme (https?) and --cert." in capsys.readouterr().err
    assert main([*arguments, "--cert", f"{directory}/none"]) == 2
    assert "--cert" in capsys.readouterr().err
    assert main([*arguments, "--key", f"{directory}/olga.key"]) == 2
    assert "--key requires --cert" in capsys.readouterr().err
    own, address = arguments.index("--ca-file"), arguments.index("--gateway") + 1
    assert main([*arguments[:own], *arguments[own + 2 :]]) == 6
    output = capsys.readouterr().err
    assert "its certificate is not trusted: self-signed certificate in" in output
    assert "Check the host and --ca-file." in output
    plain = arguments[address].replace("https", "http")
    without = [*arguments[:address], plain, *arguments[address + 1 : own], *arguments[own + 2 :]]
    assert main(without) == 6
    assert "Check the scheme (https?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "key", "message"),
    [
        ("good", "", "listen.tls: ok, until 20"),
        ("expired", "listen.tls.certificate_file", "expired 20"),
        ("not yet", "listen.tls.certificate_file", "is not valid before 20"),
        ("mismatch", "listen.tls.key_file", "is not the key of"),
        ("encrypted", "listen.tls.key_file", "the key is encrypted"),
        ("no key", "listen.tls.key_file", "cannot be read: No such file"),
        ("no certificate", "listen.tls.certificate_file", "has no certificate in PEM"),
        ("no ca", "listen.tls.client_ca_file", "has no authority's certificate in PEM"),
        ("no client ca", "listen.tls.client_certificates", "requires `client_ca_file`"),
    ],
)
def test_check_reports_errors_of_a_certificate(
    stack: Stack, capsys: pytest.CaptureFixture[str], what: str, key: str, message: str
) -> None:
    gateway, authority = stack.replica(start=False), Authority()
    days = {"expired": (-2, -1), "not yet": (1, 2)}.get(what, (-1, 1))
    pair = authority.issue("gateway", days=days)
    files = gateway.directory / "tls.crt", gateway.directory / "tls.key"
    pair.write(*files)
    tls = {"certificate_file": "tls.crt", "key_file": "tls.key"}
    match what:
        case "mismatch":
            files[1].write_bytes(authority.issue("gateway").key)
        case "encrypted":
            files[1].write_bytes(pair.with_password(b"secret").key)
        case "no key":
            files[1].unlink()
        case "no certificate":
            files[0].write_text("x")
        case "no ca":
            (gateway.directory / "ca.crt").write_text("x")
            tls["client_ca_file"] = "ca.crt"
        case "no client ca":
            tls["client_certificates"] = "required"
    gateway.config["listen"]["tls"] = tls
    gateway.write_config()
    code = main(["check", "--config", str(gateway.config_file)])
    output = capsys.readouterr()
    gateway.close()
    if not key:
        assert code == 0
        assert message in output.out
        return
    assert code == 1
    (line,) = output.err.splitlines()
    place, _, error = line.partition(f": {key}: ")
    assert place.startswith(f"{gateway.config_file}:")
    assert message in error
    name = key.rpartition(".")[2]
    lines = json.dumps(gateway.config, indent=1).splitlines()
    assert f'"{name}"' in lines[int(place.rpartition(":")[2]) - 1]
