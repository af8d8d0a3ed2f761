"""SIGINT to a command that runs an event loop, at moments that asyncio.run loses."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gateway.commands import interrupts
from gateway.commands.interrupts import run_async


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
    interrupts._received.is_set = False


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


async def work() -> str:
    await asyncio.sleep(0)
    return "done"


def test_result_is_returned_without_sigint() -> None:
    assert run_async(work()) == "done"
    assert not interrupts.was_received()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_of_the_coroutine_are_raised() -> None:
    async def fail() -> None:
        raise ValueError("canary")

    with pytest.raises(ValueError, match="canary"):
        run_async(fail())


def test_sigint_ends_a_coroutine_that_swallows_cancellations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupts, "_CANCEL_INTERVAL_S", 0.01)
    swallowed = 0

    async def swallow() -> None:
        nonlocal swallowed
        while swallowed < 3:
            if not swallowed:
                interrupt()
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                swallowed += 1

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_async(swallow())
    assert swallowed == 3
    assert time.monotonic() - began < 10
    assert interrupts.was_received()


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, SystemExit])
def test_sigint_outweighs_the_error_of_a_coroutine(error: type[BaseException]) -> None:
    async def fail() -> None:
        interrupt()
        raise error

    with pytest.raises(KeyboardInterrupt):
        run_async(fail())


def test_sigint_runs_the_cleanup_of_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_CANCEL_INTERVAL_S", 60.0)  # it takes less than that
    cleaned: list[str] = []

    async def wait() -> None:
        try:
            interrupt()
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")

    with pytest.raises(KeyboardInterrupt):
        run_async(wait())
    assert cleaned == ["up"]


def test_second_sigint_ends_a_coroutine_that_blocks() -> None:
    async def block() -> None:
        interrupt()
        interrupt()
        time.sleep(20)  # noqa: ASYNC251 - it blocks the loop

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_async(block())
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("moment", ["new_event_loop", "create_task", "shutdown_asyncgens", "close"])
def test_sigint_while_the_loop_starts_or_stops(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """asyncio.run raises CancelledError or RuntimeError at some of these moments."""
    owner = asyncio.events if moment == "new_event_loop" else asyncio.BaseEventLoop
    if moment == "close":
        owner = asyncio.SelectorEventLoop
    real = getattr(owner, moment)

    def interrupted(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(owner, moment, real)
        interrupt()
        return real(*arguments, **options)

    monkeypatch.setattr(owner, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_async(work())


def test_ignored_sigint_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def ignore() -> str:
        interrupt()
        return await work()

    assert run_async(ignore()) == "done"
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_sigint_is_recorded_when_its_exception_is_swallowed() -> None:
    interrupts.install()
    try:
        interrupt()
        time.sleep(1)
    except KeyboardInterrupt:
        pass
    assert interrupts.was_received()
