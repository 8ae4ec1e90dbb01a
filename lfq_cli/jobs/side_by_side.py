"""Small objects read concurrently: each waits for the network several times, however fast the processor is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from lfq_cli.jobs.plan import Job
from lfq_cli.pipeline.workers import Workers
from lfq_cli.storage.ranges import RANGE_BYTES
from lfq_cli.storage.urlpath import UrlPath

AT_ONCE = 16
"""Of objects up to 8 MiB each; a larger one has as many ranges under way by itself."""
_LOOKED_AT = 256

T = TypeVar("T")
R = TypeVar("R")


def are_small_objects(jobs: Sequence[Job]) -> bool:
    """Whether the jobs read small objects in a store."""
    some = jobs[:: max(1, len(jobs) // _LOOKED_AT)]
    if len(jobs) < 2 or not any(isinstance(path, UrlPath) for job in some for path in (job.source, job.output)):
        return False
    return sum(map(_size_of, some)) <= RANGE_BYTES * len(some)


def _size_of(job: Job) -> int:
    with suppress(OSError):
        return job.source.stat().st_size
    return 0


def at_once(work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """work(item) for every item, in order; later items are worked on while the caller uses the first."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lfq-objects") as pool:
        yield from Workers(pool, AT_ONCE).in_order(work, items)
