"""What became of the inputs of a run, one by one: a bad one does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lfq_cli.errors import LfqError, OutputError
from lfq_cli.jobs.plan import Job


@dataclass(frozen=True)
class Outcome:
    """What became of one input. Bytes count the tensors' data, not headers."""

    source: Path
    output: Path
    status: Literal["written", "up to date", "planned", "failed"]
    tensors: int = 0
    vectors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    left_alone: dict[str, str] = field(default_factory=dict)
    error: LfqError | None = None


def each(jobs: Sequence[Job], work: Callable[[Job], Outcome]) -> Iterator[Outcome]:
    """The outcome of every job, in order, as soon as it is there."""
    for job in jobs:
        try:
            yield work(job)
        except LfqError as error:
            yield Outcome(job.source, job.output, "failed", error=error)
        except OSError as reason:  # a name too long, a folder that may not be entered
            refused = LfqError(f"{reason.filename or job.source}: {reason.strerror or reason}")
            yield Outcome(job.source, job.output, "failed", error=refused)


def refuse_older(job: Job) -> None:
    """Raises OutputError where the output is older than the input it should have been made from."""
    if job.output.stat().st_mtime_ns < job.source.stat().st_mtime_ns:
        raise OutputError(f"{job.output}: exists and is older than {job.source}", "--overwrite replaces it")
