"""`lfq export`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display

if TYPE_CHECKING:
    from lfq_cli.jobs.outcome import Outcome

Format = Annotated[
    Literal["bin", "megatron", "webdataset", "parquet", "mds", "npy"],
    typer.Argument(metavar="FORMAT", help="bin, megatron, webdataset, parquet, mds or npy."),
]
Inputs = Annotated[
    list[str], typer.Argument(metavar="CODES", parser=options.place, help="Codes files, folders or globs.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", parser=options.path, help="The folder of the export.")
]
Style = Annotated[
    Literal["1x"] | None, typer.Option("--style", help="1x: bin as 1xgpt reads it, video.bin and segment_ids.bin.")
]
Tensor = Annotated[str | None, typer.Option("--tensor", metavar="NAME", help="Which tensor, if there are several.")]
Flatten = Annotated[
    Literal["position", "codebook"],
    typer.Option("--flatten", help="Ids vector by vector, or all of one codebook and then of the next."),
]
CodebookOffset = Annotated[
    str,
    typer.Option(
        "--codebook-offset",
        metavar="auto|N",
        help="Distance between the ids of one codebook and the next; auto: its number of codes.",
    ),
]
Offset = Annotated[int, typer.Option("--offset", metavar="N", min=0, help="Added to the id of every code.")]
Bos = Annotated[int | None, typer.Option("--bos", metavar="ID", min=0, help="Id before each sample.")]
Eos = Annotated[int | None, typer.Option("--eos", metavar="ID", min=0, help="Id after each sample.")]
RowEnd = Annotated[
    int | None, typer.Option("--row-end", metavar="ID", min=0, help="Id after each row of an image's codes.")
]
Labels = Annotated[
    str | None, typer.Option("--labels", metavar="NAME", help="The carried column of labels to export as well.")
]
LabelOffset = Annotated[
    int | None,
    typer.Option(
        "--label-offset",
        metavar="N",
        min=0,
        help="Put label + N in front of a sample's codes, instead of storing it separately.",
    ),
]
Dtype = Annotated[
    Literal["uint16", "int32", "uint32", "int64"] | None,
    typer.Option("--dtype", help="Integer type of ids; default: what the readers of the format expect."),
]
PerFile = Annotated[
    int | None,
    typer.Option(
        "--samples-per-file",
        metavar="N",
        min=1,
        help="Samples in each part of webdataset (default: 10,000) and parquet (100,000).",
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="NAME=SHARE,…",
        help="Splits of the data set, by a hash of the key, which never changes.",
    ),
]


@takes_display
def export(
    format: Format,  # noqa: A002 - what it is called in help
    inputs: Inputs,
    output: Output,
    style: Style = None,
    tensor: Tensor = None,
    codebook_dims: options.Cut = None,
    order: options.Order = None,
    flatten: Flatten = "position",
    codebook_offset: CodebookOffset = "auto",
    offset: Offset = 0,
    bos: Bos = None,
    eos: Eos = None,
    row_end: RowEnd = None,
    labels: Labels = None,
    label_offset: LabelOffset = None,
    dtype: Dtype = None,
    samples_per_file: PerFile = None,
    split: Split = "train=1",
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = True,
    dry_run: options.DryRun = False,
    *,
    display: Display,
) -> None:
    """Write the samples of codes files in a trainer's format.

    bin for nanoGPT (and 1xgpt), megatron for Megatron-Core, webdataset, parquet for datasets, polars and Spark, mds for
    mosaicml-streaming, npy for LlamaGen. OUT/lfq.json describes the ids and is written last. Complete parts are kept,
    so an interrupted run can be repeated. docs/export.md shows how to read each format.
    """
    from lfq_cli.cli.run import run_packing
    from lfq_cli.errors import CodesFileError, OptionError
    from lfq_cli.exports.run import ExportOptions
    from lfq_cli.exports.run import export as export_samples
    from lfq_cli.exports.splits import parse_splits
    from lfq_cli.jobs.file_types import is_codes_file
    from lfq_cli.jobs.inputs import find_inputs, sorted_out

    step = None if codebook_offset == "auto" else int(codebook_offset) if codebook_offset.isdecimal() else -1
    if step is not None and step < 0:
        raise OptionError(f"--codebook-offset {codebook_offset}: expected auto or a number")
    chosen = ExportOptions(
        style,
        tensor,
        options.dims(codebook_dims),
        order,
        flatten,
        step,
        offset,
        bos,
        eos,
        row_end,
        labels,
        label_offset,
        dtype,
        samples_per_file,
        parse_splits(split),
        overwrite,
        fsync,
        dry_run,
    )
    paths, missed = sorted_out(find_inputs(inputs, is_codes_file, CodesFileError))
    for error in missed.values():
        raise error

    def run(progress: Callable[[int], None]) -> Generator[Outcome]:
        return export_samples(format, [str(path) for path in paths], output, chosen, progress)

    run_packing("export", paths, run, display)
