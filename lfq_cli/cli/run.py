"""Jobs run with a progress bar, shown, and turned into the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeAlias

import typer

from lfq_cli.cli.exits import ExitCode, exit_if_failed
from lfq_cli.cli.messages import error_lines
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import note
from lfq_cli.cli.render.outcomes import show_outcomes, tell_assumptions_of
from lfq_cli.cli.render.progress import progress_bar
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.shards import sizes_of
from lfq_cli.wording import counted

Run: TypeAlias = Callable[[Callable[[int], None]], Generator[Outcome]]


def run_jobs(title: str, jobs: Sequence[Job], run: Run, display: Display) -> None:
    """Runs the jobs with a progress bar and shows their outcomes; exits with 3 if some of several failed."""
    _run(title, lambda: sum(sizes_of(jobs)), run, display, expected=len(jobs))


def run_packing(title: str, paths: Iterable[Path], run: Run, display: Display) -> None:
    """The same where the number of outputs is not known in advance; `paths`: what is read."""
    _run(title, lambda: total_size(paths), run, display, expected=None)


def _run(title: str, total: Callable[[], int], run: Run, display: Display, *, expected: int | None) -> None:
    started = time.perf_counter()
    outcomes: list[Outcome] = []
    with progress_bar(title, total, display) as progress, closing(run(progress)) as running:
        for outcome in running:
            outcomes.append(outcome)
            if outcome.error is not None and expected != 1:
                note(error_lines(outcome.error))
    tell_assumptions_of(outcomes)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if not failed or display.json or len(outcomes) > 1:
        show_outcomes(outcomes, time.perf_counter() - started, display)
    if expected is not None and len(outcomes) < expected:
        note(f"lfq: stopped at the first failure: {counted(expected - len(outcomes), 'input')} not tried")
        raise typer.Exit(ExitCode.FAILED)
    if failed and len(outcomes) == 1 and expected is None:
        raise typer.Exit(ExitCode.FAILED)
    exit_if_failed(failed, len(outcomes))


def total_size(paths: Iterable[Path]) -> int:
    """Bytes of the files that exist."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.stat().st_size
    return total
