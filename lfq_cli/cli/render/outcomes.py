"""The outcomes of encode and decode: a row for each input, notes, a line of totals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfq_cli.cli.messages import printable, size
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import MOST_ROWS, more_rows, new_table, note, print_json, print_table
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.wording import counted


def tell_assumptions_of(outcomes: Sequence[Outcome]) -> None:
    """Each assumption once: the first input it was made for, and how many more."""
    sources: dict[str, list[Path]] = {}
    for outcome in outcomes:
        for text in outcome.assumptions:
            sources.setdefault(text, []).append(outcome.source)
    for text, paths in sources.items():
        more = f" (and {len(paths) - 1:,} more)" if len(paths) > 1 else ""
        note(f"lfq: note: {printable(str(paths[0]))}{more}: {text}")


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
        more = f" (and {outcome.inputs - 1:,} more)" if outcome.inputs > 1 else ""
        names = [printable(str(outcome.source)) + more, printable(str(outcome.output))]
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
        parts.append(counted(samples, "sample") + (f", {counted(skipped, 'bad sample')} left out" if skipped else ""))
    if done and bytes_in and bytes_out:
        big, small = max(bytes_in, bytes_out), min(bytes_in, bytes_out)
        parts.append(counted(sum(o.vectors for o in done), "vector"))
        parts.append(f"{size(bytes_in)} -> {size(bytes_out)} (1:{big / small:.3g})")
        parts.append(f"{seconds:.2f} s, {size(big / seconds)}/s")
    return "lfq: " + "; ".join(parts)


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {
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
        fields["part"] = outcome.part
    if outcome.samples is not None:
        fields |= {"samples": outcome.samples, "skipped": outcome.skipped, "notes": outcome.notes}
    if outcome.assumptions:
        fields["assumptions"] = outcome.assumptions
    if outcome.error is not None:
        fields |= {"error": outcome.error.message, "hint": outcome.error.hint}
    return fields
