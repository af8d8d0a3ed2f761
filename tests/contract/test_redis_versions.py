"""The oldest Redis that the documents name, and a proxy that knows only RESP2."""

from gateway.config.store import RedisServer
from tests.support.store_check import problem_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import RealValkey


async def test_proxy_without_hello_and_client_is_enough(own_valkey: RealValkey) -> None:
    async with TcpProxy(own_valkey.port, refused=(b"HELLO", b"CLIENT")).serve() as proxy:
        assert await problem_of(RedisServer(url=proxy.url)) == ""


async def test_proxy_without_scripts_is_rejected_with_the_version(own_valkey: RealValkey) -> None:
    async with TcpProxy(own_valkey.port, refused=(b"EVAL",)).serve() as proxy:
        assert await problem_of(RedisServer(url=proxy.url)) == (
            "unknown command: Redis 6.2 or Valkey 7.2 or later is required, with scripts and "
            "pub/sub"
        )
