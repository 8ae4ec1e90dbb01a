"""`lfq stats`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_threads

if TYPE_CHECKING:
    from lfq_cli.errors import LfqError
    from lfq_cli.jobs.stats import Report

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="CODES", parser=options.place, help="Codes files, folders or globs; counts that were saved."
    ),
]
MinCount = Annotated[
    int, typer.Option("--min-count", metavar="K", min=1, help="Also report the codes used at least K times.")
]
Joint = Annotated[
    bool, typer.Option("--joint/--no-joint", help="Count whole tokens too, where vectors have several codebooks.")
]
ByPosition = Annotated[
    bool,
    typer.Option("--by-position", help="Also report each position of the sequence or image: all axes but the first."),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Count samples separately by a value that they carry: a label, a flag, a text.",
    ),
]
Memory = Annotated[
    int,
    typer.Option(
        "--memory",
        metavar="MIB",
        min=1,
        help="MiB for exact counts of one codebook above 26 bits; beyond, statistics are estimated, and marked.",
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="OUT",
        parser=options.path,
        help="Save the counts in .safetensors; lfq stats merges such files.",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option("--compare", metavar="CODES", parser=options.place, help="Compare with these codes; may be repeated."),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", metavar="OUT", parser=options.path, help="Write the count of every used code in .csv."),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="OUT",
        parser=options.path,
        help="Draw the statistics in .png, .svg or .pdf; needs lfq-cli[plot].",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="OUT",
        parser=options.path,
        help="Write tables and pictures in one page, .html; needs lfq-cli[plot].",
    ),
]


@takes_display
@takes_threads
def stats(
    inputs: Inputs,
    tensor: options.Tensors = None,
    min_count: MinCount = 1,
    joint: Joint = True,
    by_position: ByPosition = False,
    by: By = None,
    codebook_dims: options.Cut = None,
    bit_order: options.Order = None,
    memory: Memory = 1024,
    compare: Compare = None,
    save: Save = None,
    csv: Csv = None,
    plot: Plot = None,
    html: Html = None,
    overwrite: options.Overwrite = False,
    *,
    display: Display,
) -> None:
    """Report how the codebook is used, and what to do about it.

    Codes used, entropy, perplexity, every bit's balance and correlations, for each codebook and for whole tokens, per
    tensor and overall. Needs no checkpoint. docs/statistics.md has the formulas.
    """
    from lfq_cli.cli.exits import exit_if_failed
    from lfq_cli.cli.render.comparison import show_comparison
    from lfq_cli.cli.render.console import note
    from lfq_cli.cli.render.progress import progress_bar
    from lfq_cli.cli.render.stats import show_stats
    from lfq_cli.cli.run import total_size
    from lfq_cli.errors import CodesFileError
    from lfq_cli.jobs.file_types import is_counted_file
    from lfq_cli.jobs.inputs import find_inputs, sorted_out
    from lfq_cli.jobs.plan import refuse_to_replace
    from lfq_cli.jobs.stats import compare_stats, stats_by
    from lfq_cli.jobs.stats import stats as count_stats
    from lfq_cli.statistics import CountOptions

    groups = [
        sorted_out(find_inputs(arguments, is_counted_file, CodesFileError))
        for arguments in (inputs, compare or [])
        if arguments
    ]
    paths = [path for found, _ in groups for path in found]
    _check_outputs(save, csv, plot, html, overwrite=overwrite)
    refuse_to_replace([output for output in (save, csv, plot, html) if output is not None], paths)
    chosen = CountOptions(
        joint=joint,
        by_position=by_position,
        min_count=min_count,
        memory_bytes=memory << 20,
        dims=options.dims(codebook_dims),
        order=bit_order,
    )
    with progress_bar("stats", total_size(paths), display) as progress:
        counting = count_stats if by is None else partial(stats_by, by)
        reports = [counting(found, tuple(tensor or ()), chosen, progress, missed) for found, missed in groups]
    refused = _write_outputs(reports[0], save, csv, plot, html, overwrite=overwrite)
    if compare:
        if any((save, csv, plot, html)):
            note("lfq: note: the written files are those of CODES only, without --compare")
        show_comparison(compare_stats(*reports), display)
    else:
        show_stats(reports[0], display)
    if refused is not None:
        raise refused
    failed = {path: error for report in reports for path, error in report.failed.items()}
    exit_if_failed(list(failed.values()), len(paths) + sum(len(missed) for _, missed in groups))


def _check_outputs(
    save: Path | None, csv: Path | None, plot: Path | None, html: Path | None, *, overwrite: bool
) -> None:
    """Raises, before anything is counted, for outputs that cannot be written."""
    from lfq_cli.errors import OptionError
    from lfq_cli.files import refuse_existing

    given = [output for output in (save, csv, plot, html) if output is not None]
    for output in given:
        if given.count(output) > 1:
            raise OptionError(f"{output}: is named twice as an output", "give every output a name of its own")
    for other, suffix in ((save, ".safetensors"), (csv, ".csv"), (html, ".html")):
        if other is not None and other.suffix != suffix:
            raise OptionError(f"{other}: expected a name that ends in {suffix}")
        if other is not None:
            refuse_existing(other, overwrite=overwrite)
    if plot is not None:
        from lfq_cli.report.plot import check_plot

        check_plot(plot, overwrite=overwrite)
    if html is not None:
        from lfq_cli.report.page import check_page

        check_page(html, overwrite=overwrite)


def _write_outputs(
    report: Report, save: Path | None, csv: Path | None, plot: Path | None, html: Path | None, *, overwrite: bool
) -> LfqError | None:
    """Writes the requested outputs; returns why some could not be written, after everything counted was shown."""
    from lfq_cli.errors import LfqError
    from lfq_cli.jobs.stats import save_counts, write_csv

    if not report.tensors:
        return None  # the command ends with the error of its inputs
    try:
        if save is not None:
            save_counts(report, save, overwrite=overwrite)
        if csv is not None:
            write_csv(report, csv, overwrite=overwrite)
        if plot is not None or html is not None:
            _draw(report, plot, html, overwrite=overwrite)
    except LfqError as error:
        return error
    return None


def _draw(report: Report, plot: Path | None, html: Path | None, *, overwrite: bool) -> None:
    """The plots of the overall statistics, and the page of all."""
    from lfq_cli.report.page import write_page
    from lfq_cli.report.plot import write_plot
    from lfq_cli.statistics.advice import advice

    items = [(f"{item.file.name}: {item.label}", item.usage) for item in report.tensors]
    if report.overall is not None and len(items) != 1:
        items.insert(0, (f"all {len(items)}", report.overall))
    if plot is not None:
        write_plot(items[:1] if report.overall is not None else items, plot, overwrite=overwrite)
    if html is not None:
        rows = [(label, usage, advice(usage)) for label, usage in items]
        notes = [f"not counted: {error.message}" for error in report.failed.values()]
        write_page(rows, html, title="How the codes are used", overwrite=overwrite, notes=notes)
