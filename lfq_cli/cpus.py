"""How many threads to use: as many as requested, else one for each core that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from math import ceil
from pathlib import Path

_asked_for: ContextVar[int | None] = ContextVar("threads", default=None)


def threads() -> int:
    """The number of threads to use, at least 1."""
    return _asked_for.get() or _usable_cpus()


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Makes `threads()` return `count` within the block; None changes nothing."""
    token = _asked_for.set(count or _asked_for.get())
    try:
        yield
    finally:
        _asked_for.reset(token)


@cache
def _usable_cpus() -> int:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus(Path("/"))
    return affinity if quota is None else max(1, min(affinity, ceil(quota)))


def cgroup_cpus(root: Path) -> float | None:
    """The CPU time that this process's control groups allow it, in cores; None if there is no limit.

    The tightest limit of nested groups counts. root: the folder that has proc and sys. Source: the Linux kernel's
    cgroup-v2.rst ("cpu.max") and, for version 1, sched-bwc.rst ("cpu.cfs_quota_us").
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = (mount / controllers if controllers else mount) / path.lstrip("/")
        while True:
            found += _limit_of_2(folder) if not controllers else _limit_of_1(folder)
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
    return min(found, default=None)


def _limit_of_2(folder: Path) -> list[float]:
    """cpu.max is "200000 100000" for two cores, "max 100000" for no limit."""
    words = _words(folder / "cpu.max")
    return [int(words[0]) / int(words[1])] if len(words) == 2 and words[0] != "max" else []


def _limit_of_1(folder: Path) -> list[float]:
    """cpu.cfs_quota_us is -1 for no limit."""
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return [int(quota[0]) / int(period[0])] if quota and period and int(quota[0]) > 0 else []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
