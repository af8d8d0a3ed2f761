"""A closing listening socket serves its accept queue and drops new connections."""

import socket

import pytest

from gateway.drivers.network.accept_queue import drop_new_handshakes


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_queued_connection_is_served_and_new_one_dropped(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen()
        address = listening.getsockname()[:2]
        with socket.create_connection(address) as early:
            early.sendall(b"query")
            assert drop_new_handshakes(listening)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(5) == b"query"
                accepted.sendall(b"response")
                assert early.recv(8) == b"response"
            listening.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listening.accept()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_unsupported_filter_returns_false() -> None:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.close()
        assert not drop_new_handshakes(closed)
