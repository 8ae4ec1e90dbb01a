"""`lfq merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display

Inputs = Annotated[
    list[str], typer.Argument(metavar="CODES", parser=options.place, help="Codes files of samples, folders or globs.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        parser=options.path,
        help="Name of the one file, in .safetensors; or folder for the files 00000.codes.safetensors, ...",
    ),
]


@takes_display
def merge(
    inputs: Inputs,
    output: Output,
    samples_per_file: options.SamplesPerFile = None,
    file_size: options.FileSize = None,
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = True,
    dry_run: options.DryRun = False,
    fail_fast: options.FailFast = False,
    *,
    display: Display,
) -> None:
    """Merge codes files, without encoding again.

    They hold samples, or parts of a file. `lfq merge tokens -o all.codes.safetensors` puts the samples of all files
    below tokens into one file, in the order of the files, with their keys, labels and captions; `lfq merge tokens -o
    packed --samples-per-file 100000` makes packed/00000.codes.safetensors and so on. The files must have the same
    encoding, and keys must be unique.

    The parts that `lfq encode --part-rows` made become the file that a single run would have made, bit for bit: `lfq
    merge parts -o whole` makes whole/a.codes.safetensors from parts/a.00000.codes.safetensors and so on.
    """
    run_merge("merge", inputs, output, samples_per_file, file_size, overwrite, fsync, dry_run, fail_fast, display)


def run_merge(
    title: str,
    inputs: Sequence[str],
    output: Path,
    samples_per_file: int | None,
    file_size: str | None,
    overwrite: bool,
    fsync: bool,
    dry_run: bool,
    fail_fast: bool,
    display: Display,
) -> None:
    """What `lfq merge` and `lfq split` do once their options are checked."""
    from lfq_cli.cli.run import run_packing
    from lfq_cli.errors import OptionError
    from lfq_cli.jobs.draft import Limits
    from lfq_cli.jobs.merge import MergeOptions, name_codes
    from lfq_cli.jobs.merge import merge as merge_files
    from lfq_cli.jobs.merge_parts import holds_parts, merge_parts, name_wholes

    limits = Limits(*options.file_limits(samples_per_file, file_size))
    paths, outputs = name_codes(inputs, output, limits)
    chosen = MergeOptions(limits, overwrite=overwrite, durable=fsync, dry_run=dry_run, fail_fast=fail_fast)
    if holds_parts(paths[0]):
        if limits != Limits():
            raise OptionError("parts of a file hold no samples", "lfq merge PARTS -o OUT, without a size, joins them")
        jobs = name_wholes(inputs, output)
        run_packing(title, paths, lambda progress: merge_parts(jobs, chosen, progress), display)
        return
    run_packing(title, paths, lambda progress: merge_files(paths, outputs, chosen, progress), display)
