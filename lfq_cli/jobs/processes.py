"""Many small files in several processes: opening, naming and describing a file is Python code, which one process runs
on a single core.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TypeVar

from lfq_cli.cpus import threads
from lfq_cli.storage.urlpath import UrlPath

MANY_JOBS = 256
SMALL_BYTES = 1 << 20
"""10,000 files of 64 KiB: 3.8 s in two processes, 5.0 s in one. Larger files fill the cores by their own blocks."""
LOOKED_AT = 256
"""Files, spread over all, that tell what they are like."""
PROCESSES_THAT_WAIT = 2
"""For each core. 10,000 files with fsync: 1 takes 6.4 to 8.3 s, 2 5.2 s, 3 4.9 s."""

T = TypeVar("T")
R = TypeVar("R")
Working = Callable[[], AbstractContextManager[Callable[[T], Iterable[R]]]]
"""What a process enters once; inside it has the function that it calls for each of its items."""


def are_many_and_small(count: int, some: Sequence[Path]) -> bool:
    """Whether several processes would be faster for `count` files, judged by the sample `some`: only on Linux, where a
    fork shares the modules already loaded.
    """
    if sys.platform != "linux" or threads() < 2 or count < MANY_JOBS:
        return False
    if any(isinstance(path, UrlPath) for path in some):  # they wait for the network: threads suffice
        return False
    sizes = []
    for path in some:
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return sum(sizes) <= SMALL_BYTES * len(sizes)


def in_processes(items: Sequence[T], working: Working[T, R], lost: Callable[[T], R], *, waits: bool) -> Generator[R]:
    """What the work yields for each item, in the order of the items, which are divided among the processes.

    lost: the result for an item whose process was killed. waits: whether the work waits for the disk, so more processes
    than cores help. Processes end with the caller: they are stopped when it is interrupted or wants no more, and stop
    at their next report if it was killed.
    """
    processes = threads() * (PROCESSES_THAT_WAIT if waits else 1)
    children: list[_Child] = []
    try:
        for number in range(min(processes, len(items))):
            children.append(_start(items[number::processes], working))
        for number, item in enumerate(items):
            yield from children[number % processes].results(item, lost)
    finally:
        for child in children:
            child.end()


@dataclass
class _Child:
    """A worker process, and the pipe for its reports."""

    pid: int
    reports: BinaryIO

    def results(self, item: T, lost: Callable[[T], R]) -> Iterator[R]:
        """The result for its next item."""
        while True:
            try:
                event, value = pickle.load(self.reports)  # our own process wrote it
            except (EOFError, pickle.UnpicklingError):
                yield lost(item)
                return
            if event == _BUG:
                raise RuntimeError(value)
            if event == _DONE:
                return
            yield value

    def end(self) -> None:
        """Ends the process, which cleans up, and waits for it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self.reports.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


_RESULT, _DONE, _BUG = "result", "done", "bug"


def _start(items: Sequence[T], working: Working[T, R]) -> _Child:
    reading, writing = os.pipe()
    # signals wait: Python prints and drops an exception raised in its hooks around a fork
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about the thread that draws the progress bar
            pid = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid:
        os.close(writing)
        child = _Child(pid, os.fdopen(reading, "rb"))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child
    try:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches all processes; the parent ends the others
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _report_all(items, working, writing)
    finally:
        os._exit(0)  # nothing of the parent's is flushed or cleaned up here


def _stop(signum: int, frame: FrameType | None) -> None:
    """Ends the process after its clean-up, which further signals do not interrupt."""
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit


def _report_all(items: Sequence[T], working: Working[T, R], descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as reports:
        try:
            with working() as work:
                for item in items:
                    for result in work(item):
                        _report(reports, _RESULT, result)
                    _report(reports, _DONE, None)
        except BrokenPipeError:  # the parent wants no more
            return
        except Exception:
            _report(reports, _BUG, traceback.format_exc())


def _report(reports: BinaryIO, event: str, value: object) -> None:
    pickle.dump((event, value), reports, pickle.HIGHEST_PROTOCOL)
    reports.flush()
