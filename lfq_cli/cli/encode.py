"""`lfq encode`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_facts

if TYPE_CHECKING:
    from lfq_cli.jobs.outcome import Outcome
    from lfq_cli.jobs.plan import Job

    Run: TypeAlias = Callable[[Callable[[int], None]], Generator[Outcome]]

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", parser=options.place, help="Tensor files, folders or globs.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        parser=options.path,
        help="Folder for the codes files; for one input also a name in .safetensors.",
    ),
]
Packing = Annotated[
    Literal["bits", "rows", "ints"],
    typer.Option("--packing", help="bits: no bit wasted; rows: each vector starts at a byte; ints: plain integers."),
]
IndexDtype = Annotated[
    Literal["uint8", "int16", "int32", "int64", "uint64"] | None,
    typer.Option("--index-dtype", help="Integers of --packing ints; unset: the smallest that hold the indices."),
]
Nan = Annotated[Literal["error", "zero"], typer.Option("--nan", help="NaN in the input: stop, or encode it as bit 0.")]
Stats = Annotated[
    Path | None,
    typer.Option(
        "--stats", metavar="OUT", parser=options.path, help="Save counts of all codes in .safetensors, for lfq stats."
    ),
]

_STORED = {"uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64", "uint64": "U64"}


@takes_facts
@takes_display
def encode(
    checkpoint: options.Checkpoint,
    inputs: Inputs,
    output: Output,
    packing: Packing = "bits",
    index_dtype: IndexDtype = None,
    nan: Nan = "error",
    tensor: options.Tensors = None,
    layout: options.LayoutOption = "auto",
    channel_axis: options.ChannelAxis = None,
    num_quantizers: options.Levels = None,
    device: options.Device = "auto",
    compute_dtype: options.ComputeDtype = "float32",
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = True,
    dry_run: options.DryRun = False,
    fail_fast: options.FailFast = False,
    stats: Stats = None,
    *,
    display: Display,
    facts: Any,
) -> None:
    """Encode float tensors to packed indices, a codes file for every input.

    Inputs are .safetensors, .npy, .npz, .pt and .pth files. A folder's tree is mirrored under OUT:
    `lfq encode CHECKPOINT latents -o OUT` makes OUT/a/b.codes.safetensors from latents/a/b.npy.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.render.checkpoints import tell_assumptions
    from lfq_cli.cli.render.outcomes import run_jobs
    from lfq_cli.codesfile import SUFFIX
    from lfq_cli.errors import OptionError
    from lfq_cli.jobs.encode import EncodeOptions
    from lfq_cli.jobs.encode import encode as encode_jobs
    from lfq_cli.jobs.kinds import is_tensor_file
    from lfq_cli.jobs.plan import plan_jobs

    if index_dtype is not None and packing != "ints":
        raise OptionError("--index-dtype belongs to --packing ints", "leave it out, or add --packing ints")
    quantizer = checkpoints.load(checkpoint, facts)
    if num_quantizers is not None:
        quantizer = quantizer.first_levels(num_quantizers)
    tell_assumptions(quantizer)
    jobs = plan_jobs(
        inputs,
        output,
        accepts=is_tensor_file,
        rename=lambda name: Path(name).stem + SUFFIX,
        file_suffixes=(".safetensors",),
        inputs_kept=checkpoints.read_files(checkpoint),
    )
    chosen = EncodeOptions(
        packing=packing,
        index_dtype=index_dtype and _STORED[index_dtype],
        zero_nan=nan == "zero",
        tensors=tuple(tensor or ()),
        layout=options.where_features_are(layout, channel_axis),
        device=device,
        compute_dtype=compute_dtype,
        overwrite=overwrite,
        durable=fsync,
        dry_run=dry_run,
        fail_fast=fail_fast,
    )

    def run(progress: Callable[[int], None]) -> Generator[Outcome]:
        return encode_jobs(quantizer, jobs, chosen, progress)

    run_jobs("encode", jobs, _counting(run, jobs, stats, overwrite=overwrite, dry_run=dry_run), display)


def _counting(run: Run, jobs: Sequence[Job], stats: Path | None, *, overwrite: bool, dry_run: bool) -> Run:
    """The run, which saves the counts of its codes at `stats` if that was asked for."""
    if stats is None:
        return run

    from lfq_cli.jobs.stats import refuse_other_file, with_counts

    refuse_other_file(stats, jobs, overwrite=overwrite)
    return run if dry_run else lambda progress: with_counts(run(progress), jobs, stats, overwrite=overwrite)
