"""What people see: progress, tables, JSON. The only module that imports rich.

stdout is data: a table, or one JSON object. Progress and notes go to stderr, and only to a terminal where they move.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from lfq_cli.cli import interrupts
from lfq_cli.cli.messages import assumption_lines, error_lines, printable, shape, size
from lfq_cli.cli.options import Display
from lfq_cli.errors import LfqError
from lfq_cli.jobs.export import ExportPlan
from lfq_cli.jobs.inspect import CheckpointView, CodesView, QuantizerView, TensorsView, View, as_json
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.stats import Report, TensorUsage
from lfq_cli.jobs.verify import Verdict
from lfq_cli.jobs.verify import as_json as verdict_json
from lfq_cli.quantizer import Quantizer
from lfq_cli.stats import Usage

EXIT_FAILED, EXIT_SOME_FAILED, EXIT_DIFFERENT = 1, 3, 4
_MOST_ROWS = 20


def run_jobs(
    title: str, jobs: Sequence[Job], run: Callable[[Callable[[int], None]], Generator[Outcome]], display: Display
) -> None:
    """Runs the jobs with a progress bar and shows what became of them; exits with 3 if some of several failed."""
    started = time.perf_counter()
    total = total_size([job.source for job in jobs])
    outcomes = []
    with progress_bar(title, total, display) as progress, closing(run(progress)) as running:
        for outcome in running:
            outcomes.append(outcome)
            if outcome.error is not None and len(jobs) > 1:
                note(error_lines(outcome.error))
    failed = {outcome.source: outcome.error for outcome in outcomes if outcome.error is not None}
    if not failed or display.json or len(jobs) > 1:
        show_outcomes(outcomes, time.perf_counter() - started, display)
    if len(outcomes) < len(jobs):
        note(f"lfq: stopped at the first that failed: {len(jobs) - len(outcomes)} inputs were not tried")
        raise typer.Exit(EXIT_FAILED)
    exit_if_failed(failed, len(jobs))


def exit_if_failed(failed: Mapping[Path, LfqError], inputs: int) -> None:
    """Ends the command with the error of its only input, or with 3 if some of several failed (each was named)."""
    if failed and inputs == 1:
        raise next(iter(failed.values()))
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
        _print_json({"outputs": [_outcome_json(outcome) for outcome in outcomes], "seconds": round(seconds, 3)})
        return
    if display.quiet:
        return
    table = _table("input", "output", "tensors", "vectors", "in", "out", "status", right=(2, 3, 4, 5))
    shown = outcomes if display.verbose or len(outcomes) <= _MOST_ROWS else [o for o in outcomes if o.error]
    for outcome in shown:
        counts = [f"{outcome.tensors:,}", f"{outcome.vectors:,}", size(outcome.bytes_in), size(outcome.bytes_out)]
        names = [printable(str(outcome.source)), printable(str(outcome.output))]
        table.add_row(*names, *counts, outcome.status)
    if shown:
        _stdout().print(table)
    for outcome in shown:
        _tell_left_alone(outcome, display)
    note(_summary(outcomes, seconds))


def _tell_left_alone(outcome: Outcome, display: Display) -> None:
    items = list(outcome.left_alone.items())
    shown = items if display.verbose else items[:5]
    for name, reason in shown:
        note(f"lfq: {printable(str(outcome.source))}: {printable(repr(name))} left alone: {printable(reason)}")
    if len(shown) < len(items):
        note(f"lfq: … and {len(items) - len(shown)} more left alone (-v names them)")


def _summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    counts = {status: sum(o.status == status for o in outcomes) for status in dict.fromkeys(o.status for o in outcomes)}
    done = [outcome for outcome in outcomes if outcome.status == "written"]
    bytes_in, bytes_out = sum(o.bytes_in for o in done), sum(o.bytes_out for o in done)
    parts = [", ".join(f"{count} {status}" for status, count in counts.items())]
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
    if outcome.error is not None:
        told |= {"error": outcome.error.message, "hint": outcome.error.hint}
    return told


def show_stats(report: Report, display: Display) -> None:
    """A table per tensor and one overall; or JSON."""
    if len(report.failed) + len({item.file for item in report.tensors}) > 1:
        for error in report.failed.values():
            note(error_lines(error))
    if display.json:
        tensors = [
            {"file": str(item.file), "tensor": item.name, "codebooks": [usage.figures() for usage in item.codebooks]}
            for item in report.tensors
        ]
        overall = None if report.overall is None else [usage.figures() for usage in report.overall]
        failed = {str(path): error.message for path, error in report.failed.items()}
        _print_json({"tensors": tensors, "overall": overall, "failed": failed})
        return
    if display.quiet or not report.tensors:
        return
    shown = report.tensors if display.verbose or len(report.tensors) <= _MOST_ROWS else []
    rows = [(_label(item, report), item.codebooks) for item in shown]
    if report.overall is not None and len(report.tensors) > 1:
        rows.append((f"all {len(report.tensors)}", report.overall))
    _stdout().print(_usage_table(rows))
    _stdout().print()
    _stdout().print(_ones_table(rows))
    if report.overall is None:
        note("lfq: the files have different codebooks: no overall figures")
    if len(shown) < len(report.tensors):
        note("lfq: -v shows every tensor")


def _label(item: TensorUsage, report: Report) -> str:
    files = {other.file for other in report.tensors}
    if len(files) == 1:
        return printable(item.name)
    folder = os.path.commonpath([file.parent for file in files])
    file = os.path.relpath(item.file, folder).removesuffix(".safetensors").removesuffix(".codes")
    return printable(f"{file}: {item.name}")


def _usage_table(rows: Sequence[tuple[str, Sequence[Usage]]]) -> Table:
    columns = ("tensor", "codebook", "indices", "used", "of", "utilisation", "perplexity", "entropy bits")
    table = _table(*columns, right=range(1, 8))
    for label, usages in rows:
        for k, usage in enumerate(usages):
            table.add_row(
                label if k == 0 else "",
                str(k),
                f"{usage.count:,}",
                f"{usage.codes_used:,}",
                f"{2**usage.bits:,}" if usage.bits <= 24 else f"2^{usage.bits}",
                f"{usage.utilisation:.3%}",
                f"{usage.perplexity:,.1f}",
                f"{usage.entropy_bits:.3f} of {usage.bits}",
            )
    return table


def _ones_table(rows: Sequence[tuple[str, Sequence[Usage]]]) -> Table:
    table = _table("tensor", "codebook", "share of ones, % per bit", right=(1,))
    for label, usages in rows:
        for k, usage in enumerate(usages):
            shares = " ".join(f"{100 * share:.0f}" for share in usage.ones)
            table.add_row(label if k == 0 else "", str(k), shares or "nothing counted")
    return table


def announce_export(plan: ExportPlan, display: Display) -> None:
    """What is about to be written, and how large it is."""
    if not display.quiet:
        tables = ", ".join(f"{name} {shape(sizes)}" for name, sizes in plan.shapes.items())
        note(f"lfq: {tables}: {size(plan.nbytes)} of {plan.dtype}")


def show_export(plan: ExportPlan, display: Display, *, written: bool) -> None:
    """What was written."""
    status = "written" if written else "planned"
    if display.json:
        tables = {name: list(sizes) for name, sizes in plan.shapes.items()}
        _print_json(
            {"output": str(plan.output), "status": status, "tables": tables, "rows": [plan.first, plan.last]}
            | {"dtype": plan.dtype, "bytes": plan.nbytes}
        )
    elif not display.quiet:
        table = _table("output", "table", "shape", "status")
        for name, sizes in plan.shapes.items():
            table.add_row(printable(str(plan.output)), name, shape(sizes), status)
        _stdout().print(table)


def show_verdicts(verdicts: Sequence[Verdict], display: Display) -> None:
    """A row per file, figures per bit where the source was encoded again; exits with 4 for damage or a difference."""
    bad = [verdict for verdict in verdicts if verdict.status in ("damaged", "different")]
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    if display.json:
        _print_json({"files": [verdict_json(verdict) for verdict in verdicts]})
    else:
        for verdict in (*bad, *failed):
            if verdict.error is not None:
                note(error_lines(verdict.error))
        if not display.quiet:
            _show_verdict_table(verdicts, display)
    if bad:
        raise typer.Exit(EXIT_DIFFERENT)
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED if len(verdicts) > 1 else EXIT_FAILED)


def _show_verdict_table(verdicts: Sequence[Verdict], display: Display) -> None:
    table = _table("codes", "vectors", "status", "indices differ", "bits differ", "|z| < 1e-5", right=(1, 3, 4, 5))
    shown = verdicts if display.verbose or len(verdicts) <= _MOST_ROWS else [v for v in verdicts if v.status != "whole"]
    for verdict in shown[: None if display.verbose else _MOST_ROWS]:
        row = [printable(str(verdict.path)), f"{verdict.vectors:,}", verdict.status]
        figures = [comparison.figures() for comparison in verdict.comparisons.values()]
        if figures:
            worst = {key: max(figure[key] for figure in figures) for key in ("indices_differ", "bits_differ")}
            row += [f"{share:.3%}" for share in worst.values()]
            row.append(f"{max(figure['margin']['1e-05'] for figure in figures):.3%}")
        table.add_row(*row)
    _stdout().print(table)
    for verdict in verdicts:
        if verdict.status == "different" or (verdict.comparisons and display.verbose):
            _show_bits(verdict)
    counts = {v.status: sum(o.status == v.status for o in verdicts) for v in verdicts}
    note("lfq: " + ", ".join(f"{count} {status}" for status, count in counts.items()))


def _show_bits(verdict: Verdict) -> None:
    for name, comparison in verdict.comparisons.items():
        figures = comparison.figures()
        _heading(f"{verdict.path}: {name}, {comparison.vectors:,} vectors encoded again")
        table = _table("bit", "differ", *(f"|z| < {margin}" for margin in figures["margin_by_bit"]), right=range(9))
        for bit, share in enumerate(figures["bits_differ_by_bit"]):
            table.add_row(str(bit), f"{share:.3%}", *(f"{m[bit]:.3%}" for m in figures["margin_by_bit"].values()))
        _stdout().print(table)


def show_import(output: Path, quantizer: Quantizer, display: Display, *, written: bool) -> None:
    """The native checkpoint that was written, or would be."""
    status = "written" if written else "planned"
    if display.json:
        told = {"output": str(output), "status": status, "config": quantizer.full_config()}
        tensors = {name: list(weight.shape) for name, weight in quantizer.weights.items()}
        told |= {"assumed": quantizer.assumptions(), "tensors": tensors, "checkpoint_sha256": quantizer.digest}
        _print_json(told)
    elif not display.quiet:
        table = _table("fact", "value")
        for fact, value in _facts_of(quantizer).items():
            table.add_row(fact, printable(value))
        _heading(f"{output}: {status}")
        _stdout().print(table)


def show_inspection(views: Sequence[View], display: Display) -> None:
    """What each path holds."""
    if display.json:
        _print_json({"paths": [as_json(view) for view in views]})
        return
    for view in () if display.quiet else views:
        if isinstance(view, CodesView):
            _show_codes(view)
        elif isinstance(view, TensorsView):
            _show_tensors(view)
        else:
            _show_checkpoint(view)


def _show_checkpoint(view: CheckpointView) -> None:
    _heading(f"{view.path}: checkpoint, {len(view.quantizers) or 'no'} quantizer(s)")
    for item in view.quantizers:
        _show_quantizer(item)


def _show_quantizer(view: QuantizerView) -> None:
    where = f"module {view.found.module!r}, " if view.found.module else ""
    shown_by = f", shown by {', '.join(view.found.shown_by[:4])}" if view.found.shown_by else ""
    if len(view.found.shown_by) > 4:
        shown_by += f" and {len(view.found.shown_by) - 4} more"
    if view.quantizer is None:
        _heading(f"  {where}family {view.found.family}{shown_by}: {view.error.message if view.error else ''}")
        if view.error is not None and view.error.hint:
            _heading(f"    hint: {view.error.hint}")
        return
    table = _table("fact", "value")
    for fact, value in _facts_of(view.quantizer).items():
        table.add_row(fact, printable(value))
    _heading(f"  {where}family {view.found.family}{shown_by}")
    _stdout().print(table)


def _facts_of(quantizer: Quantizer) -> dict[str, str]:
    facts = {key: "not set" if value is None else str(value) for key, value in quantizer.full_config().items()}
    facts |= {key: f"{facts.get(key, 'not set')} (assumed, the file does not say)" for key in sorted(quantizer.assumed)}
    facts["bits per vector"] = f"{quantizer.bits_per_vector}: {'+'.join(map(str, quantizer.codebook_dims))}"
    facts["tensors"] = ", ".join(f"{name} {shape(w.shape)}" for name, w in quantizer.weights.items()) or "none needed"
    return facts | {"sha256": quantizer.digest}


def _show_tensors(view: TensorsView) -> None:
    _heading(f"{view.path}: tensors")
    if view.no_quantizer is not None:
        _heading(f"  {view.no_quantizer.message.removeprefix(f'{view.path}: ')}")
        _heading(f"    hint: {view.no_quantizer.hint}")
    table = _table("name", "dtype", "shape", *(["encoded"] if any(t.encodes for t in view.tensors) else []))
    for tensor in view.tensors:
        told = [] if tensor.encodes is None else [tensor.encodes]
        table.add_row(printable(tensor.name), tensor.dtype, shape(tensor.shape), *map(printable, told))
    _stdout().print(table)
    for name, reason in view.left_alone.items():
        _heading(f"  {name!r} is no tensor: {reason}")


def _show_codes(view: CodesView) -> None:
    header = view.header
    _heading(f"{view.path}: codes, {size(view.nbytes)}, computed in {header.compute_dtype}")
    _heading(f"  checkpoint sha256 {header.checkpoint_sha256}")
    table = _table("tensor", "indices", "bits each", "order", "packing", "stored", "from")
    for info in header.tensors.values():
        source = f"{info.source.dtype} {shape(info.source.shape)} {info.source.layout}"
        bits = "+".join(map(str, info.codebook_dims))
        stored = f"{info.dtype} {size(info.stored_bytes)}"
        table.add_row(printable(info.name), shape(info.shape), bits, info.bit_order, info.packing, stored, source)
    _stdout().print(table)


@contextmanager
def progress_bar(title: str, total: int, display: Display) -> Iterator[Callable[[int], None]]:
    """A callback that takes bytes done; drawn on stderr, only on a terminal and if wanted."""
    console = Console(stderr=True)
    if not console.is_terminal or display.quiet or display.no_progress:
        yield lambda _: interrupts.check()
        return
    columns = (
        TextColumn(title),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)

        def advance(nbytes: int) -> None:
            interrupts.check()
            progress.advance(task, nbytes)

        yield advance


def tell_assumptions(quantizer: Quantizer) -> None:
    """A line on stderr for what nobody told of the quantizer; with its hint."""
    for line in assumption_lines(quantizer):
        note(line)


def once(tell: Callable[[Quantizer], None]) -> Callable[[Quantizer], None]:
    """`tell`, but not twice for the same assumptions."""
    told: list[dict[str, Any]] = []

    def tell_new(quantizer: Quantizer) -> None:
        if quantizer.assumptions() not in told:
            told.append(quantizer.assumptions())
            tell(quantizer)

    return tell_new


def note(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    aligned = set(right)
    for k, column in enumerate(columns):
        if k in aligned:
            table.add_column(column, justify="right", no_wrap=True)  # half a number is a wrong number
        else:
            table.add_column(column, overflow="fold")
    return table


def _heading(text: str) -> None:
    _stdout().print(printable(text), highlight=False, markup=False)


def _stdout() -> Console:
    """stdout; as wide as the terminal, and never wrapped where there is none."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 400
    return console


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
