"""Worker threads: reading, computing and writing overlap, results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import chain, islice
from typing import TypeVar

from lfq_cli.cpus import threads
from lfq_cli.layout import Block

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


class Workers:
    """Runs a function over items in threads, and yields the results in order."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool = pool
        self._ahead = 2 * threads

    def start(self, work: Callable[[], R]) -> Callable[[], R]:
        """Starts `work` in a thread; the returned function waits for its result or raises its error."""
        return self._pool.submit(work).result

    def in_order(self, work: Callable[[T], R], items: Iterable[T], *, parallel: bool = True) -> Generator[R]:
        """work(item) for every item, a few items ahead of the caller; or one by one if not `parallel`."""
        if not parallel:
            yield from map(work, items)
            return
        items = iter(items)
        first = list(islice(items, 2))
        if len(first) < 2:  # nothing to overlap: not worth a thread
            yield from map(work, first)
            return
        running: deque[Future[R]] = deque()
        try:
            for item in chain(first, items):
                running.append(self._pool.submit(work, item))
                if len(running) > self._ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # the caller is about to close what they read from

    def one_ahead(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """work(item) for every item, in order and never for two at once; it is one item ahead of the caller."""
        items = iter(items)
        first = list(islice(items, 2))
        if len(first) < 2:
            yield from map(work, first)
            return
        running = self._pool.submit(work, first.pop(0))
        try:
            for item in chain(first, items):
                done = running.result()
                running = self._pool.submit(work, item)
                yield done
            yield running.result()
        finally:
            wait([running])


MOST_THREADS = 8
"""Only one of them runs Python code at a time. Encoding float32 [n, 18] on 16 cores with 6, 8, 12 and 16 threads: 13,
16, 13 and 12 GB/s.
"""

BLOCKS_AT_ONCE = 4  # handing over costs more than what stays in cache gains: of the read floor 1 reaches 0.4, 4 0.6


def in_tasks(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """The blocks in runs, each of which a worker takes at once."""
    while run := list(islice(blocks, BLOCKS_AT_ONCE)):
        yield run


@contextmanager
def start_workers() -> Iterator[Workers]:
    """As many worker threads as `cpus.threads` says, up to MOST_THREADS, for as long as the block lasts."""
    count = min(threads(), MOST_THREADS)
    with ThreadPoolExecutor(count, thread_name_prefix="lfq") as pool:
        yield Workers(pool, count)
