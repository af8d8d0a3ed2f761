"""A client that hangs up while the cloud works on its link."""

import socket
from urllib.parse import urlsplit

from tests.support.stack import Stack, console_path, eventually


def test_link_of_a_client_that_hung_up_serves_its_next_request(own_stack: Stack) -> None:
    cloud, gateway = own_stack.cloud, own_stack.gateway
    token, server = cloud.token(), cloud.servers[0]
    assert gateway.console(token, cloud.servers[1]).status == 200  # logged in
    cloud.fail(cloud.upstream, "hang", path=server, times=1)
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        head = f"GET {console_path(cloud.project, server)} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        client.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        cloud.wait_for_fault(cloud.upstream)
    eventually(lambda: 499 in [one["status"] for one in gateway.log_lines("request")])
    cloud.heal()
    eventually(lambda: cloud.consoles().get(server) == 1)
    eventually(lambda: gateway.metric("gateway_fetches_in_flight") == 0)
    assert gateway.console(token, server).status == 200
    assert cloud.consoles()[server] == 1
