"""The gateway's own Lua scripts under Lua 5.1, over an in-memory keyspace and a test clock.

For simulations in virtual time, where a real server's clock would not do. It has the commands that
the scripts use and refuses all others; the contract tests run the same scripts on a real server.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from typing import Any

from lupa import lua51

from gateway.drivers.valkey.script import LuaScript
from tests.support.clock import FakeClock

Reply = Any


class SortedSet:
    """Members by score, then by name, as ZSETs order them."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.order: list[tuple[float, str]] = []

    def add(self, score: float, member: str) -> int:
        new = member not in self.scores
        if not new:
            self.remove(member)
        self.scores[member] = score
        insort(self.order, (score, member))
        return int(new)

    def remove(self, member: str) -> int:
        score = self.scores.pop(member, None)
        if score is None:
            return 0
        del self.order[bisect_left(self.order, (score, member))]
        return 1


class LuaRedis:
    """One server; `now_us` is its clock, `publish` gets what scripts publish."""

    def __init__(
        self, now_us: Callable[[], int], publish: Callable[[bytes, bytes], None] = lambda *_: None
    ) -> None:
        self._now_us = now_us
        self._announce = publish
        self._lua = lua51.LuaRuntime(unpack_returned_tuples=True, encoding="latin-1")
        self._scripts: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.expires: dict[str, int] = {}
        commands = {"call": self._call, "pcall": self._try}
        self._lua.globals()["redis"] = self._lua.table_from(commands)

    def run(self, text: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Reply:
        """Evaluate a script; its reply is what redis-py would give."""
        function = self._scripts.get(text)
        if function is None:
            function = self._lua.eval(f"function(KEYS, ARGV) {text}\nend")
            self._scripts[text] = function
        texts = [one.decode("latin-1") if isinstance(one, bytes) else str(one) for one in args]
        found = function(self._lua.table_from(list(keys)), self._lua.table_from(texts))
        return self._reply(found)

    def flush(self) -> None:
        self.data.clear()
        self.expires.clear()

    def _reply(self, found: Any) -> Reply:
        if lua51.lua_type(found) == "table":
            return [self._reply(found[i + 1]) for i in range(len(found))]
        if isinstance(found, str):
            return found.encode("latin-1")
        if isinstance(found, float):
            return int(found)  # as Redis does: the fraction is lost
        if found is True:
            return 1
        return None if found is False else found

    def _call(self, name: str, *args: Any) -> Any:
        texts = [_text(one) for one in args]
        found = getattr(self, f"_{name.lower()}")(*texts)
        if isinstance(found, list):
            return self._lua.table_from(found)
        return False if found is None else found

    def _try(self, name: str, *args: Any) -> Any:
        """Run a command; one that this server does not have succeeds without effect."""
        return self._call(name, *args) if hasattr(self, f"_{name.lower()}") else False

    def _live(self, key: str, kind: type) -> Any:
        expires = self.expires.get(key)
        if expires is not None and expires <= self._now_us():
            self.data.pop(key, None)
            del self.expires[key]
        found = self.data.get(key)
        assert found is None or isinstance(found, kind), f"WRONGTYPE {key}"
        return found

    def _time(self) -> list[str]:
        now = self._now_us()
        return [str(now // 1_000_000), str(now % 1_000_000)]

    def _get(self, key: str) -> str | None:
        found: str | None = self._live(key, str)
        return found

    def _set(self, key: str, value: str, *options: str) -> Any:
        if "NX" in options and self._live(key, str) is not None:
            return None
        self.data[key] = value
        self.expires.pop(key, None)
        if "PX" in options:
            self._pexpire(key, options[options.index("PX") + 1])
        return "OK"

    def _del(self, key: str) -> int:
        self.expires.pop(key, None)
        return int(self.data.pop(key, None) is not None)

    def _pttl(self, key: str) -> int:
        return (self.expires[key] - self._now_us()) // 1000 if key in self.expires else -1

    def _expire(self, key: str, seconds: str) -> int:
        return self._pexpire(key, str(int(seconds) * 1000))

    def _pexpire(self, key: str, ms: str) -> int:
        if key not in self.data:
            return 0
        self.expires[key] = self._now_us() + int(ms) * 1000
        return 1

    def _publish(self, channel: str, message: str) -> int:
        self._announce(channel.encode("latin-1"), message.encode("latin-1"))
        return 1

    def _hgetall(self, key: str) -> list[str]:
        found: dict[str, str] = self._live(key, dict) or {}
        return [part for pair in found.items() for part in pair]

    def _hset(self, key: str, *pairs: str) -> int:
        found = self._live(key, dict)
        if found is None:
            found = self.data[key] = {}
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(pairs) // 2

    def _zset(self, key: str, *, make: bool = False) -> SortedSet:
        found: SortedSet | None = self._live(key, SortedSet)
        if found is None:
            found = SortedSet()
            if make:
                self.data[key] = found
        return found

    def _zadd(self, key: str, score: str, member: str) -> int:
        return self._zset(key, make=True).add(float(score), member)

    def _zrem(self, key: str, member: str) -> int:
        found = self._zset(key)
        removed = found.remove(member)
        if not found.order:
            self._del(key)
        return removed

    def _zcard(self, key: str) -> int:
        return len(self._zset(key).order)

    def _zscore(self, key: str, member: str) -> str | None:
        score = self._zset(key).scores.get(member)
        return None if score is None else repr(score)

    def _zincrby(self, key: str, by: str, member: str) -> str:
        found = self._zset(key, make=True)
        score = found.scores.get(member, 0.0) + float(by)
        found.add(score, member)
        return repr(score)

    def _zrank(self, key: str, member: str) -> int | None:
        found = self._zset(key)
        score = found.scores.get(member)
        return None if score is None else bisect_left(found.order, (score, member))

    def _zcount(self, key: str, low: str, high: str) -> int:
        order = self._zset(key).order
        return bisect_right(order, (float(high), chr(0x10FFFF))) - bisect_left(
            order, (float(low), "")
        )

    def _zrange(self, key: str, first: str, last: str, option: str = "") -> list[str]:
        order = self._zset(key).order
        if (first, last, option) == ("0", "-1", ""):
            return [member for _, member in order]
        assert (first, last) in {("0", "0"), ("-1", "-1")}
        assert option == "WITHSCORES"
        if not order:
            return []
        score, member = order[int(first)]
        return [member, repr(score)]

    def _zremrangebyscore(self, key: str, low: str, high: str) -> int:
        assert low == "-inf"
        found = self._zset(key)
        last = bisect_right(found.order, (float(high), chr(0x10FFFF)))
        for _, member in found.order[:last]:
            del found.scores[member]
        del found.order[:last]
        if not found.order:
            self._del(key)
        return last


class LuaServer:
    """The way to such a server, in the place of Valkey: it is always there and answers at once."""

    available = True
    processes = 1
    channel = "wake"

    def __init__(self, clock: FakeClock) -> None:
        self.ahead_s = 0.0
        """How far its clock is before that of the replicas."""
        self.redis = LuaRedis(lambda: round((clock.now() + self.ahead_s) * 1e6), self._publish)
        self.received: list[Any] = []

    def key(self, *parts: str, tag: str) -> str:
        return ":".join((tag, *parts))

    def on_message(self, call: Any) -> None:
        self.received.append(call)

    def on_availability_change(self, call: Any) -> None:
        pass

    async def run_script(
        self, script: LuaScript, keys: list[str], args: list[Any], *, is_short: bool = False
    ) -> Any:
        del is_short
        return self.redis.run(script.text, keys, args)

    def _publish(self, channel: bytes, message: bytes) -> None:
        for call in self.received:
            call(message)


def _text(value: Any) -> str:
    if isinstance(value, float):  # as Redis formats what a script passes straight to a command
        return f"{value:.17g}"
    return str(value)
