"""SIGINT (Ctrl-C): a command ends with exit code 130, also when a library swallows the exception.

Where the parent ignores SIGINT, as a shell script does for its background jobs, so does a command.
"""

import os
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import asyncio

EXIT_CODE: Final = 130
"""128 plus the number of SIGINT, as shells report it."""
_CANCEL_INTERVAL_S: Final = 1.0

_Result = TypeVar("_Result")


class _Received:
    """Whether SIGINT arrived. It outlives a KeyboardInterrupt that a library swallows."""

    def __init__(self) -> None:
        self.is_set = False

    def record(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        signal.default_int_handler(number, frame)


_received = _Received()


def install() -> None:
    """Record each SIGINT from now on, and raise KeyboardInterrupt as Python does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _received.record)


def was_received() -> bool:
    return _received.is_set


def exit_on_next_sigint() -> None:
    """End the process at the next SIGINT: its work is done, and Python is about to exit."""
    if signal.getsignal(signal.SIGINT) == _received.record:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_CODE))


def run_async(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine to its end; on SIGINT cancel it and raise KeyboardInterrupt.

    `asyncio.run` cancels once, which a library may swallow. It also raises CancelledError or
    RuntimeError for a SIGINT that arrives while its loop starts or stops.
    """
    import asyncio

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN or not _is_main_thread():
        return asyncio.run(main)
    interruption = _Interruption()
    previous = signal.signal(signal.SIGINT, interruption)
    try:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            result = loop.run_until_complete(interruption.cancellable(loop, main))
    except BaseException:
        if interruption.count:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        main.close()
    if interruption.count:
        raise KeyboardInterrupt
    return result


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Interruption:
    """The SIGINT handler of a running loop: the first one cancels, the second one raises."""

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        _received.is_set = True
        if self.count > 1:
            signal.default_int_handler(number, frame)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def cancellable(
        self, loop: "asyncio.AbstractEventLoop", main: Coroutine[Any, Any, _Result]
    ) -> "asyncio.Task[_Result]":
        task = loop.create_task(main)
        self._task, self._loop = task, loop
        if self.count:
            self._cancel()
        return task

    def _cancel(self) -> None:
        """Cancel until the task ends: redis-py swallows a cancellation at some moments."""
        if self._loop is not None and self._task is not None and not self._task.done():
            self._task.cancel()
            self._loop.call_later(_CANCEL_INTERVAL_S, self._cancel)
