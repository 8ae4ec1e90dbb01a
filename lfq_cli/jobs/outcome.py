"""The outcomes of a run's inputs, one by one: a failing input does not stop the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lfq_cli.errors import ExistsError, LfqError, LfqNote
from lfq_cli.files import remove_leftovers
from lfq_cli.jobs.plan import Job
from lfq_cli.pipeline.workers import Progress
from lfq_cli.storage.outputs import work_folder
from lfq_cli.wording import counted


@dataclass(frozen=True)
class Outcome:
    """What happened to one input. Byte counts are of the tensors' data, without headers."""

    source: Path
    output: Path
    status: Literal["written", "up to date", "planned", "refused", "failed", "empty"]
    """empty: no file was made, since all of its samples were bad and left out."""
    tensors: int = 0
    vectors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    left_alone: dict[str, str] = field(default_factory=dict)
    part: int | None = None
    """Which part of its input the output is, by its number; None: the whole."""
    inputs: int = 1
    """How many inputs the output is made from; `source` is the first of them."""
    samples: int | None = None
    """How many the output holds, where it holds samples."""
    skipped: int = 0
    """Bad samples that were left out."""
    assumptions: list[str] = field(default_factory=list)
    """What had to be assumed of the input."""
    notes: list[str] = field(default_factory=list)
    """What else to know of it: each bad sample that was left out."""
    error: LfqError | None = None


def each(jobs: Sequence[Job], work: Callable[[Job], Outcome], *, fail_fast: bool) -> Iterator[Outcome]:
    """The outcome of every job, in order, as soon as it is known; `fail_fast`: up to the first that fails."""
    yield from until_failure((outcome_of(job, work) for job in jobs), fail_fast=fail_fast)


def until_failure(outcomes: Iterable[Outcome], *, fail_fast: bool) -> Iterator[Outcome]:
    """The outcomes; `fail_fast`: up to the first with an error."""
    for outcome in outcomes:
        yield outcome
        if fail_fast and outcome.error is not None:
            return


def lost(job: Job) -> Outcome:
    """The outcome of a job whose process was killed from outside."""
    error = LfqError(f"{job.source}: the process that worked on it was killed", "run the same command again")
    return Outcome(job.source, job.output, "failed", part=job.part, error=error)


def outcome_of(job: Job, work: Callable[[Job], Outcome]) -> Outcome:
    """The outcome of working on the job; a user's error becomes the outcome, a bug is raised."""
    if job.error is not None:
        status: Literal["refused", "failed"] = "refused" if isinstance(job.error, ExistsError) else "failed"
        return Outcome(job.source, job.output, status, part=job.part, error=job.error)
    try:
        return work(job)
    except ExistsError as error:
        return Outcome(job.source, job.output, "refused", part=job.part, error=error)
    except LfqError as error:
        return Outcome(job.source, job.output, "failed", part=job.part, error=error)
    except OSError as reason:  # a name too long, a folder without permission
        refused = LfqError(f"{reason.filename or job.source}: {reason.strerror or reason}")
        return Outcome(job.source, job.output, "failed", part=job.part, error=refused)


def settle_output(
    outcome: Outcome,
    *,
    overwrite: bool,
    dry_run: bool,
    is_current: Callable[[], bool],
    write: Callable[[], None],
    progress: Progress,
) -> Outcome:
    """The outcome of writing the output, unless it is current already or this is a dry run.

    `is_current` raises ExistsError if something else is in its place; so does `write` if something has appeared
    since.
    """
    if not overwrite and is_current():
        progress(outcome.bytes_in)
        return replace(outcome, status="up to date")
    if dry_run:
        return replace(outcome, status="planned")
    try:
        write()
    except ExistsError:
        if not is_current():  # another run made the same in the meantime
            raise
        return replace(outcome, status="up to date")
    return outcome


def clear_leftovers(jobs: Sequence[Job]) -> None:
    """Removes temporary files of killed runs from the output folders, and reports it."""
    count = remove_leftovers(sorted({work_folder(job.output) for job in jobs}))
    if count:
        warnings.warn(f"removed {counted(count, 'temporary file')} of killed runs", LfqNote, stacklevel=2)
