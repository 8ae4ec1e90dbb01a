"""`lfq decode`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_cluster, takes_display, takes_facts, takes_threads
from lfq_cli.cli.order import load_first

if TYPE_CHECKING:
    from lfq_cli.jobs.outcome import Outcome

Inputs = Annotated[
    list[str], typer.Argument(metavar="CODES", parser=options.place, help="Codes files, folders or globs.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        parser=options.path,
        help="Folder for the tensors; for one input also a name in .safetensors or .npy.",
    ),
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16", "float64"], typer.Option("--dtype", help="Float type of the output.")
]
ProjectOut = Annotated[
    bool, typer.Option("--project-out/--no-project-out", help="Apply project_out to the codes, if there is one.")
]
Format = Annotated[
    Literal["safetensors", "npy"],
    typer.Option("--format", help="Format of output files in a folder; npy holds one tensor."),
]

Split = Annotated[bool, typer.Option("--split", help="Write a file for each sample, named by its key.")]


@takes_facts
@takes_cluster
@takes_display
@takes_threads
def decode(
    checkpoint: options.Checkpoint,
    inputs: Inputs,
    output: Output,
    dtype: Dtype = "float32",
    project_out: ProjectOut = True,
    format: Format = "safetensors",  # noqa: A002 - the option's name
    split: Split = False,
    tensor: options.Tensors = None,
    num_quantizers: options.Levels = None,
    device: options.Device = "auto",
    compute_dtype: options.ComputeDtype = "float32",
    overwrite: options.Overwrite = False,
    fsync: options.Fsync = True,
    dry_run: options.DryRun = False,
    shard: options.ShardOption = None,
    fail_fast: options.FailFast = False,
    *,
    display: Display,
    facts: Any,
    cluster: Any,
) -> None:
    """Decode codes files to float tensors.

    The tensors are what the model's quantizer returns for the encoded inputs. The checkpoint must be the one they were
    encoded with; codes of another are refused. A folder's tree is mirrored under OUT. Samples come out stacked, or with
    --split in one file each, OUT/KEY.safetensors, in their original layout.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.render.checkpoints import once, tell_assumptions
    from lfq_cli.cli.run import run_jobs
    from lfq_cli.codesfile import SUFFIX
    from lfq_cli.dtypes import PLAIN_FLOATS
    from lfq_cli.errors import CodesFileError, OptionError
    from lfq_cli.jobs.decode import DecodeOptions
    from lfq_cli.jobs.decode import decode as decode_jobs
    from lfq_cli.jobs.file_types import is_codes_file
    from lfq_cli.jobs.plan import plan_jobs
    from lfq_cli.jobs.shards import parse_shard, sizes_of

    quantizer = load_first(checkpoint, facts, inputs)
    jobs = plan_jobs(
        inputs,
        output,
        accepts=is_codes_file,
        rename=lambda name: f"{name.removesuffix(SUFFIX).removesuffix('.safetensors')}.{format}",
        file_suffixes=(".safetensors", ".npy"),
        error=CodesFileError,
        inputs_kept=checkpoints.read_files(checkpoint),
    )
    if shard is not None:
        jobs = list(parse_shard(shard).of(jobs, sizes_of(jobs)))
    chosen = DecodeOptions(
        dtype=PLAIN_FLOATS[dtype],
        project_out=project_out,
        tensors=tuple(tensor or ()),
        device=device,
        compute_dtype=compute_dtype,
        levels=num_quantizers,
        overwrite=overwrite,
        durable=fsync,
        dry_run=dry_run,
        fail_fast=fail_fast,
    )
    tell = once(tell_assumptions)
    if split and cluster is not None:
        raise OptionError("--split with --ray", "leave one of them out: --split runs in a single process")
    if split:
        from lfq_cli.jobs.decode_samples import decode_samples

        if any(job.output == output for job in jobs):
            raise OptionError(f"{output}: is the name of a file, expected a folder for samples")
        run_jobs(
            "decode",
            jobs,
            lambda progress: decode_samples(quantizer, jobs, output, f".{format}", chosen, progress, tell),
            display,
        )
        return

    def run(progress: Callable[[int], None]) -> Generator[Outcome]:
        if cluster is None or dry_run:
            return decode_jobs(quantizer, jobs, chosen, progress, tell)

        from lfq_cli.cli.render.console import say_unless_quiet
        from lfq_cli.cluster import DecodeWork, run_on

        work = DecodeWork(quantizer, replace(chosen, tidy=False, fail_fast=False))
        say = say_unless_quiet(display)
        return run_on(cluster, work, jobs, progress, fail_fast=fail_fast, tell=tell, say=say)

    run_jobs("decode", jobs, run, display)
