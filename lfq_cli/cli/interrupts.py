"""^C and SIGTERM as an exception, so that every `with` on the way out cleans up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


_seen: list[Interrupted] = []


def check() -> None:
    """Raises again what a signal raised in a place that suppresses exceptions: a callback, an import that tolerates
    failure.
    """
    if _seen:
        raise _seen[0]


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread; the second one ends the process at once."""

    def handler(signum: int, frame: FrameType | None) -> None:
        if _seen:
            os._exit(128 + signum)
        _seen.append(Interrupted(signum))
        raise _seen[0]

    _seen.clear()
    previous = {signum: signal.signal(signum, handler) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
