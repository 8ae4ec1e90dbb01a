"""`lfq split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfq_cli.cli import options
from lfq_cli.cli.merge import Inputs, run_merge
from lfq_cli.cli.options import Display, takes_display

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="OUT", parser=options.path, help="Folder for the files 00000.codes.safetensors, ..."
    ),
]


@takes_display
def split(
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
    """Split codes files of samples, without encoding again.

    `lfq split all.codes.safetensors -o parts --samples-per-file 1000` makes parts/00000.codes.safetensors and so on, of
    1000 samples each, with their keys, labels and captions. Several inputs are one data set, so only the last file has
    fewer samples. `lfq merge parts -o all.codes.safetensors` joins them again.
    """
    from lfq_cli.errors import OptionError

    if samples_per_file is None and file_size is None:
        raise OptionError("nothing says how large the parts are", "add --samples-per-file N or --file-size SIZE")
    run_merge("split", inputs, output, samples_per_file, file_size, overwrite, fsync, dry_run, fail_fast, display)
