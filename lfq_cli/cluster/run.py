"""The command's side of a run on Ray: starts the driver, reads its reports, and ends it however the run ends."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

from lfq_cli.cluster.messages import (
    Cluster,
    Done,
    Ended,
    Failed,
    InOrder,
    Lost,
    Message,
    Request,
    receive,
    send,
)
from lfq_cli.cluster.work import Tell, Work
from lfq_cli.errors import LfqError, LfqNote
from lfq_cli.files import PARTIAL_PREFIX, PARTIAL_SUFFIX, remove_leftovers
from lfq_cli.jobs.outcome import Outcome, clear_leftovers, until_failure
from lfq_cli.jobs.plan import Job
from lfq_cli.storage.outputs import work_folder
from lfq_cli.wording import counted

_SECONDS_TO_END = 20
_SECONDS_TO_DIE = 3
"""How long a killed actor may still hold the lock on the file that it was writing."""


def run_on(
    cluster: Cluster,
    work: Work,
    jobs: Sequence[Job],
    progress: Callable[[int], None],
    *,
    fail_fast: bool,
    tell: Tell = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Generator[Outcome]:
    """Runs the jobs on the cluster's actors and yields the outcome of each, in order. say: receives progress messages.

    Raises LfqError if Ray is not installed, if the cluster cannot be reached or goes away, or if actors cannot start.
    """
    require_ray()
    clear_leftovers(jobs)
    yield from until_failure(_Run(jobs, progress, tell, say).outcomes(cluster, work), fail_fast=fail_fast)


def require_ray() -> None:
    """Raises LfqError if Ray is not installed. Does not import it, which takes a second."""
    if find_spec("ray") is None:
        raise LfqError("--ray: needs ray: No module named 'ray'", "pip install 'lfq-cli[ray]'")


class _Run:
    def __init__(
        self, jobs: Sequence[Job], progress: Callable[[int], None], tell: Tell, say: Callable[[str], None]
    ) -> None:
        self._jobs = jobs
        self._progress = progress
        self._tell = tell
        self._say = say
        self._in_order = InOrder()
        self._is_clean = False
        self._actors_were_killed = False

    def outcomes(self, cluster: Cluster, work: Work) -> Generator[Outcome]:
        """Yields the outcomes in order; when this ends, the driver and its actors have ended too."""
        with TemporaryFile() as complaints:
            driver = _start(complaints)
            assert driver.stdin is not None
            assert driver.stdout is not None
            try:
                with suppress(BrokenPipeError):  # the reason is reported when the driver ends
                    send(driver.stdin, Request(cluster, work, self._jobs, str(Path.cwd())))
                for message in receive(driver.stdout):
                    yield from self._take(cast(Message, message))
                    if isinstance(message, Ended):
                        return
                raise _gone(driver, complaints)
            finally:
                _end(driver)
                if not self._is_clean:
                    _clear(self._jobs)

    def _take(self, message: Message) -> Generator[Outcome]:
        """Handles a message and yields the outcomes whose turn it is. Raises the error of a message that has one."""
        if isinstance(message, Done):
            for note in message.notes:
                warnings.warn(note, LfqNote, stacklevel=2)
            for quantizer in message.decoded_with:
                self._tell(quantizer)
            self._progress(sum(outcome.bytes_in for outcome in message.outcomes))
            yield from self._in_order.add(message)
        elif isinstance(message, Failed):
            raise message.error or RuntimeError(message.bug)
        elif isinstance(message, Lost):
            self._actors_were_killed = True
        else:
            self._is_clean = not self._actors_were_killed
            self._say(
                f"Ray: {counted(message.actors, 'actor')}, up after {message.starting:.2f} s,"
                f" at work for {message.working:.2f} s"
            )


def _start(complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts the driver in its own session, so that ^C in the terminal does not reach it; `_end` stops it."""
    command = [sys.executable, "-m", "lfq_cli.cluster.driver"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, start_new_session=True)


def _gone(driver: subprocess.Popen[bytes], complaints: IO[bytes]) -> LfqError:
    """Why the driver ended without a report: Ray's core kills a process that has lost its cluster."""
    with suppress(subprocess.TimeoutExpired):
        driver.wait(_SECONDS_TO_END)
    complaints.seek(0)
    lines = [line.strip() for line in complaints.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), f"exit code {driver.returncode}")
    return LfqError(f"Ray ended the run: {last[:300]}", "the same command continues when the cluster is back")


def _end(driver: subprocess.Popen[bytes]) -> None:
    """Makes the driver end, which ends its actors, and waits for it."""
    for pipe in (driver.stdin, driver.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()  # the driver ends when its stdin is closed
    try:
        driver.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        driver.kill()  # Ray then ends its actors itself
        driver.wait()


def _clear(jobs: Sequence[Job]) -> None:
    """Removes the temporary files of killed actors; an actor that is still dying holds its lock."""
    folders = sorted({work_folder(job.output) for job in jobs})
    deadline = time.monotonic() + _SECONDS_TO_DIE
    remove_leftovers(folders)
    while time.monotonic() < deadline and any(
        True for folder in folders for _ in folder.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}")
    ):
        time.sleep(0.2)
        remove_leftovers(folders)
