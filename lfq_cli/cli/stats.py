"""`lfq stats`."""

from __future__ import annotations

from typing import Annotated

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display

Inputs = Annotated[list[str], typer.Argument(metavar="CODES", help="Codes files, folders or globs.")]


@takes_display
def stats(inputs: Inputs, tensor: options.Tensors = None, *, display: Display) -> None:
    """Report how the codebook is used: codes used, entropy, perplexity and the balance of every bit.

    Per tensor and overall, for every codebook. Needs no checkpoint.
    """
    from lfq_cli.cli import render
    from lfq_cli.errors import CodesFileError
    from lfq_cli.jobs.kinds import is_codes_file
    from lfq_cli.jobs.plan import find_inputs
    from lfq_cli.jobs.stats import stats as count_stats

    paths = find_inputs(inputs, is_codes_file, CodesFileError)
    tensors = tuple(tensor or ())
    with render.progress_bar("stats", render.total_size(paths), display) as progress:
        report = count_stats(paths, tensors, progress)
    render.show_stats(report, display)
    render.exit_if_failed(report.failed, len(paths))
