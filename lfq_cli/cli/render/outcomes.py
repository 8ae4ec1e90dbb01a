"""What became of the inputs of encode and decode: a row for each, notes, a line of totals, the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeAlias

import typer

from lfq_cli.cli.messages import error_lines, printable, size
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import MOST_ROWS, more_rows, new_table, note, print_json, print_table
from lfq_cli.cli.render.progress import progress_bar
from lfq_cli.errors import LfqError
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.shards import sizes_of

EXIT_FAILED, EXIT_SOME_FAILED = 1, 3


Run: TypeAlias = Callable[[Callable[[int], None]], Generator[Outcome]]


def run_jobs(title: str, jobs: Sequence[Job], run: Run, display: Display) -> None:
    """Runs the jobs with a progress bar and shows what became of them; exits with 3 if some of several failed."""
    _run(title, lambda: sum(sizes_of(jobs)), run, display, expected=len(jobs))


def run_packing(title: str, paths: Iterable[Path], run: Run, display: Display) -> None:
    """The same where it shows only on the way how many outputs there are; `paths`: what is read."""
    _run(title, lambda: total_size(paths), run, display, expected=None)


def _run(title: str, total: Callable[[], int], run: Run, display: Display, *, expected: int | None) -> None:
    started = time.perf_counter()
    outcomes: list[Outcome] = []
    with progress_bar(title, total, display) as progress, closing(run(progress)) as running:
        for outcome in running:
            outcomes.append(outcome)
            if outcome.error is not None and expected != 1:
                note(error_lines(outcome.error))
    _tell_assumptions(outcomes)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if not failed or display.json or len(outcomes) > 1:
        show_outcomes(outcomes, time.perf_counter() - started, display)
    if expected is not None and len(outcomes) < expected:
        note(f"lfq: stopped at the first that failed: {expected - len(outcomes)} inputs were not tried")
        raise typer.Exit(EXIT_FAILED)
    if failed and len(outcomes) == 1 and expected is None:
        raise typer.Exit(EXIT_FAILED)
    exit_if_failed(failed, len(outcomes))


def _tell_assumptions(outcomes: Sequence[Outcome]) -> None:
    """Each thing that was assumed once, of the first input and how many more."""
    sources: dict[str, list[Path]] = {}
    for outcome in outcomes:
        for text in outcome.assumptions:
            sources.setdefault(text, []).append(outcome.source)
    for text, paths in sources.items():
        more = f" (and {len(paths) - 1:,} more)" if len(paths) > 1 else ""
        note(f"lfq: note: {printable(str(paths[0]))}{more}: {text}")


def exit_if_failed(failed: Sequence[LfqError], inputs: int) -> None:
    """Ends the command with the error of its only input, or with 3 if some of several failed (each was named)."""
    if failed and inputs == 1:
        raise failed[0]
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def total_size(paths: Iterable[Path]) -> int:
    """Bytes of the files that are there."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.stat().st_size
    return total


def show_outcomes(outcomes: Sequence[Outcome], seconds: float, display: Display) -> None:
    """A row per input (or, for many, those worth a look) and a line of totals."""
    if display.json:
        print_json({"outputs": [_outcome_json(outcome) for outcome in outcomes], "seconds": round(seconds, 3)})
        return
    if display.quiet:
        return
    table = new_table("input", "output", "tensors", "vectors", "in", "out", "status", right=(2, 3, 4, 5))
    shown = outcomes if display.verbose or len(outcomes) <= MOST_ROWS else [o for o in outcomes if o.error]
    for outcome in shown:
        counts = [f"{outcome.tensors:,}", f"{outcome.vectors:,}", size(outcome.bytes_in), size(outcome.bytes_out)]
        names = [printable(str(outcome.source)), printable(str(outcome.output))]
        table.add_row(*names, *counts, outcome.status)
    if shown:
        print_table(table)
    for outcome in shown:
        _tell_left_alone(outcome, display)
    for outcome in outcomes:
        _tell_notes(outcome, display)
    note(_summary(outcomes, seconds) + more_rows(len(shown), len(outcomes)))


def _tell_left_alone(outcome: Outcome, display: Display) -> None:
    items = list(outcome.left_alone.items())
    shown = items if display.verbose else items[:5]
    for name, reason in shown:
        note(f"lfq: {printable(str(outcome.source))}: {printable(repr(name))} left alone: {printable(reason)}")
    if len(shown) < len(items):
        note(f"lfq: … and {len(items) - len(shown)} more left alone (-v names them)")


def _tell_notes(outcome: Outcome, display: Display) -> None:
    shown = outcome.notes if display.verbose else outcome.notes[:5]
    for text in shown:
        note(f"lfq: {printable(str(outcome.output))}: left out: {printable(text)}")
    if len(shown) < len(outcome.notes):
        note(f"lfq: … and {len(outcome.notes) - len(shown):,} more left out (-v names them)")


def _summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    counts = {status: sum(o.status == status for o in outcomes) for status in dict.fromkeys(o.status for o in outcomes)}
    done = [outcome for outcome in outcomes if outcome.status == "written"]
    bytes_in, bytes_out = sum(o.bytes_in for o in done), sum(o.bytes_out for o in done)
    parts = [", ".join(f"{count} {status}" for status, count in counts.items())]
    good = [outcome for outcome in outcomes if outcome.error is None]
    samples, skipped = sum(o.samples or 0 for o in good), sum(o.skipped for o in good)
    if samples or skipped:
        parts.append(f"{samples:,} samples" + (f", {skipped:,} bad ones left out" if skipped else ""))
    if done and bytes_in and bytes_out:
        big, small = max(bytes_in, bytes_out), min(bytes_in, bytes_out)
        parts.append(f"{sum(o.vectors for o in done):,} vectors")
        parts.append(f"{size(bytes_in)} -> {size(bytes_out)} (1:{big / small:.3g})")
        parts.append(f"{seconds:.2f} s, {big / seconds / 1e9:.2f} GB/s")
    return "lfq: " + "; ".join(parts)


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = {
        "input": str(outcome.source),
        "output": str(outcome.output),
        "status": outcome.status,
        "tensors": outcome.tensors,
        "vectors": outcome.vectors,
        "bytes_in": outcome.bytes_in,
        "bytes_out": outcome.bytes_out,
        "left_alone": outcome.left_alone,
    }
    if outcome.part is not None:
        told["part"] = outcome.part
    if outcome.samples is not None:
        told |= {"samples": outcome.samples, "skipped": outcome.skipped, "notes": outcome.notes}
    if outcome.assumptions:
        told["assumptions"] = outcome.assumptions
    if outcome.error is not None:
        told |= {"error": outcome.error.message, "hint": outcome.error.hint}
    return told
