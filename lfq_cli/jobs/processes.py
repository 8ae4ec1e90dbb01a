"""Many small files in several processes: opening, naming and describing a file is Python's work, which one process does
on one core only.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import BinaryIO

from lfq_cli.errors import LfqError
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.pipeline import Progress
from lfq_cli.regions import CPUS

MANY_JOBS = 256
SMALL_BYTES = 1 << 20
"""10,000 files of 64 KiB: 3.8 s in two processes, 5.0 s in one. Larger files fill the cores by their own blocks."""
PROCESSES_THAT_WAIT = 2
"""For each core. 10,000 files with fsync: 1 takes 6.4 to 8.3 s, 2 5.2 s, 3 4.9 s."""

Run = Callable[[Sequence[Job], Progress], Iterator[Outcome]]


def are_many_and_small(jobs: Sequence[Job]) -> bool:
    """Whether several processes would be faster: on Linux, where a fork shares what is loaded already."""
    if sys.platform != "linux" or CPUS < 2 or len(jobs) < MANY_JOBS:
        return False
    total = 0
    for job in jobs:
        with suppress(OSError):
            total += job.source.stat().st_size
    return total <= SMALL_BYTES * len(jobs)


def in_processes(
    jobs: Sequence[Job], run: Run, progress: Progress, *, fail_fast: bool, waits: bool
) -> Iterator[Outcome]:
    """The outcomes of `run(jobs, progress)`, in order; every process runs its share of the jobs.

    waits: whether each file waits for the disk, where others can work meanwhile.

    Processes end with the caller: when it is interrupted or does not want more outcomes they are told to, and when it
    is killed they find nobody to report to.
    """
    processes = CPUS * (PROCESSES_THAT_WAIT if waits else 1)
    shares = [jobs[k::processes] for k in range(processes)]
    children: list[_Child] = []
    try:
        for share in shares:
            children.append(_start(share, run))
        for number, job in enumerate(jobs):
            outcome = children[number % processes].next_outcome(job)
            progress(outcome.bytes_in)
            yield outcome
            if fail_fast and outcome.error is not None:
                return
    finally:
        for child in children:
            child.end()


@dataclass
class _Child:
    """A process at work, and the pipe on which it reports."""

    pid: int
    reports: BinaryIO

    def next_outcome(self, job: Job) -> Outcome:
        """What became of its next job."""
        try:
            report: Outcome | str = pickle.load(self.reports)  # our own process wrote it
        except (EOFError, pickle.UnpicklingError):
            error = LfqError(f"{job.source}: the process that worked on it was killed", "run the same command again")
            return Outcome(job.source, job.output, "failed", error=error)
        if isinstance(report, str):
            raise RuntimeError(report)
        return report

    def end(self) -> None:
        """Ends the process, which cleans up, and waits for it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self.reports.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _start(jobs: Sequence[Job], run: Run) -> _Child:
    reading, writing = os.pipe()
    # signals wait: in the calls that Python makes around a fork an exception is printed and lost
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the thread that draws the progress bar
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches all; the parent then tells the others
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _report_all(jobs, run, writing)
    finally:
        os._exit(0)  # nothing of the parent's is flushed or finished here


def _stop(signum: int, frame: FrameType | None) -> None:
    """Ends the process after its clean-up, which another signal does not disturb."""
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit


def _report_all(jobs: Sequence[Job], run: Run, descriptor: int) -> None:
    with os.fdopen(descriptor, "wb") as reports:
        try:
            for outcome in run(jobs, lambda _: None):
                pickle.dump(outcome, reports)
                reports.flush()
        except BrokenPipeError:  # the parent wants no more
            return
        except Exception:
            pickle.dump(traceback.format_exc(), reports)
