"""`lfq encode`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_cluster, takes_display, takes_facts, takes_threads
from lfq_cli.cli.order import load_first

if TYPE_CHECKING:
    from lfq_cli.cluster import Cluster
    from lfq_cli.jobs.encode import EncodeOptions
    from lfq_cli.jobs.outcome import Outcome
    from lfq_cli.jobs.pack import PackOptions
    from lfq_cli.jobs.plan import Job
    from lfq_cli.quantizer import Quantizer

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
    typer.Option(
        "--index-dtype", help="Integer type for --packing ints; default: the smallest that holds the indices."
    ),
]
Nan = Annotated[
    Literal["error", "zero"],
    typer.Option("--nan", help="NaN in the input or its projection: stop, or encode it as bit 0."),
]
Stats = Annotated[
    Path | None,
    typer.Option(
        "--stats", metavar="OUT", parser=options.path, help="Save counts of all codes in .safetensors, for lfq stats."
    ),
]

Stacked = Annotated[
    bool,
    typer.Option("--stacked", help="Axis 0 of the tensors counts samples; default: each input is one sample."),
]
Carry = Annotated[
    list[str] | None,
    typer.Option(
        "--carry", metavar="GLOB", help="Copy these tensors of each sample unchanged, such as labels; may be repeated."
    ),
]
CarryText = Annotated[
    list[str] | None,
    typer.Option(
        "--carry-text", metavar="GLOB", help="Copy these texts of each sample, such as captions; may be repeated."
    ),
]
Ragged = Annotated[
    bool, typer.Option("--ragged", help="Samples may differ in length (their first axis without features).")
]
Append = Annotated[
    bool,
    typer.Option("--append", help="Keep existing files, and add files for samples that are in none of them."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out samples that cannot be encoded; they are reported and counted.")
]

PartRows = Annotated[
    int | None,
    typer.Option(
        "--part-rows",
        metavar="N",
        min=1,
        help="A codes file for every N entries of axis 0: NAME.00000.codes.safetensors, ...; lfq merge joins them.",
    ),
]
Status = Annotated[
    bool,
    typer.Option("--status", help="Report what is done, stale and missing, from headers; exit code 0 if all is done."),
]

_STORED = {"uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64", "uint64": "U64"}


@takes_facts
@takes_cluster
@takes_display
@takes_threads
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
    samples_per_file: options.SamplesPerFile = None,
    file_size: options.FileSize = None,
    stacked: Stacked = False,
    carry: Carry = None,
    carry_text: CarryText = None,
    ragged: Ragged = False,
    append: Append = False,
    skip_bad: SkipBad = False,
    part_rows: PartRows = None,
    shard: options.ShardOption = None,
    status: Status = False,
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
    cluster: Any,
) -> None:
    """Encode float tensors to packed indices in codes files.

    Inputs are .safetensors, .npy, .npz, .pt, .pth and .h5 files, and tar shards and .parquet files of samples. Every
    input becomes a codes file. A folder's tree is mirrored under OUT: `lfq encode CHECKPOINT latents -o OUT` makes
    OUT/a/b.codes.safetensors from latents/a/b.npy. `lfq encode CHECKPOINT latents -o OUT --samples-per-file 10000`
    packs all inputs into OUT/00000.codes.safetensors and so on, each with its key "a/b". --part-rows cuts inputs that
    are too large for one process; with --shard several processes share the parts of a file.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.exits import exit_if_work_is_left
    from lfq_cli.cli.render.checkpoints import tell_assumptions
    from lfq_cli.cli.render.status import show_status
    from lfq_cli.cli.run import run_jobs
    from lfq_cli.errors import OptionError
    from lfq_cli.jobs.encode import EncodeOptions
    from lfq_cli.jobs.parts import cut_jobs
    from lfq_cli.jobs.plan import plan_encoding, refuse_idle_options, refuse_to_replace
    from lfq_cli.jobs.shards import parse_shard, sizes_of
    from lfq_cli.packings import PACKINGS

    if index_dtype is not None and not PACKINGS[packing].holds_indices:
        raise OptionError("--index-dtype belongs to --packing ints", "leave it out, or add --packing ints")
    samples_per_file, file_bytes = options.file_limits(samples_per_file, file_size)
    together = samples_per_file is not None or file_bytes is not None
    _refuse_contradictions(
        together,
        stacked=stacked,
        append=append,
        status=status,
        parts=part_rows is not None,
        elsewhere=cluster is not None,
    )
    part = None if shard is None else parse_shard(shard)
    quantizer = load_first(checkpoint, facts, inputs)
    if num_quantizers is not None:
        quantizer = quantizer.first_levels(num_quantizers)
    tell_assumptions(quantizer)
    shared: dict[str, Any] = {
        "packing": packing,
        "index_dtype": index_dtype and _STORED[index_dtype],
        "device": device,
        "compute_dtype": compute_dtype,
        "overwrite": overwrite,
        "durable": fsync,
        "dry_run": dry_run or status,
        "fail_fast": fail_fast,
    }
    where = options.where_features_are(layout, channel_axis)
    patterns = tuple(tensor or ())
    alone = EncodeOptions(
        **shared, by_header=status, zero_nan=nan == "zero", tensors=patterns, layout=where, part_rows=part_rows
    )

    def packed() -> PackOptions:
        from lfq_cli.jobs.pack import PackOptions  # a dozen modules, of use only where samples are packed
        from lfq_cli.pipeline.samples import SampleOptions

        return PackOptions(
            **shared,
            samples=SampleOptions(
                tensors=patterns,
                layout=where,
                carry=tuple(carry or ()),
                carry_text=tuple(carry_text or ()),
                ragged=ragged,
                zero_nan=nan == "zero",
            ),
            samples_per_file=samples_per_file,
            file_bytes=file_bytes,
            stacked=stacked,
            append=append,
            skip_bad=skip_bad,
            shard=part,
        )

    kept = checkpoints.read_files(checkpoint)
    if together:
        _pack(quantizer, inputs, output, packed(), stats, display, kept=kept)
        return
    jobs = plan_encoding(inputs, output, inputs_kept=kept)
    if part_rows is not None:
        jobs = cut_jobs(jobs, quantizer, part_rows, tensors=patterns, layout=where)
        refuse_to_replace([job.output for job in jobs], [*kept, *(job.source for job in jobs)])
    if part is not None:
        jobs = list(part.of(jobs, sizes_of(jobs)))

    of_samples = {"carry": carry, "carry_text": carry_text, "ragged": ragged, "skip_bad": skip_bad}
    refuse_idle_options(jobs, of_samples, stacked=stacked)
    run = _encoding(quantizer, jobs, alone, packed, None if dry_run else cluster, display, stacked=stacked)
    if status:
        outcomes = list(run(lambda _: None))
        show_status(outcomes, display)
        exit_if_work_is_left(outcomes)
        return
    files = [path for job in jobs for path in (job.source, job.output)]
    counted = _counting(run, files, stats, expected=len(jobs), overwrite=overwrite, dry_run=dry_run)
    run_jobs("encode", jobs, counted, display)


def _refuse_contradictions(
    together: bool, *, stacked: bool, append: bool, status: bool, parts: bool, elsewhere: bool
) -> None:
    """together: whether samples of several inputs go into one file. Raises OptionError."""
    from lfq_cli.errors import OptionError

    if append and not together:
        raise OptionError("--append belongs to --samples-per-file or --file-size", "add one of them")
    if status and together:
        raise OptionError("--status needs one codes file for each input", "--dry-run shows files of samples")
    if parts and (together or stacked):
        raise OptionError("--part-rows cuts tensors, not samples", "leave it out, or --samples-per-file and --stacked")
    if elsewhere and (together or status):
        raise OptionError("--ray makes a codes file of every input", "leave it out: this runs in a single process")


def _pack(
    quantizer: Quantizer,
    inputs: Sequence[str],
    output: Path,
    options: PackOptions,
    stats: Path | None,
    display: Display,
    *,
    kept: Sequence[Path],
) -> None:
    """Packs the samples of all inputs into files of the folder `output`. kept: files that are not replaced."""
    from lfq_cli.cli.run import run_packing
    from lfq_cli.jobs.pack import pack
    from lfq_cli.jobs.plan import name_samples

    found, missed = name_samples(inputs, output, stacked=options.stacked, inputs_kept=kept)

    def run(progress: Callable[[int], None]) -> Generator[Outcome]:
        return pack(quantizer, found, output, options, progress, missed)

    overwrite, dry_run = options.overwrite, options.dry_run
    counted = _counting(run, found.paths(), stats, expected=None, overwrite=overwrite, dry_run=dry_run)
    run_packing("encode", found.paths(), counted, display)


def _encoding(
    quantizer: Quantizer,
    jobs: Sequence[Job],
    alone: EncodeOptions,
    packed: Callable[[], PackOptions],
    cluster: Cluster | None,
    display: Display,
    *,
    stacked: bool,
) -> Run:
    """Runs the jobs, locally or on a cluster."""
    from lfq_cli.jobs.encode import encode
    from lfq_cli.jobs.plan import holds_many

    if cluster is None and any(holds_many(job, stacked=stacked) for job in jobs):
        from lfq_cli.jobs.pack import encode_each

        return lambda progress: encode_each(quantizer, jobs, alone, packed(), progress)
    if cluster is None:
        return lambda progress: encode(quantizer, jobs, alone, progress)

    from lfq_cli.cli.render.console import say_unless_quiet
    from lfq_cli.cluster import EncodeWork, run_on

    elsewhere: dict[str, Any] = {"tidy": False, "fail_fast": False}
    work = EncodeWork(quantizer, replace(alone, **elsewhere), replace(packed(), **elsewhere))
    say = say_unless_quiet(display)
    return lambda progress: run_on(cluster, work, jobs, progress, fail_fast=alone.fail_fast, say=say)


def _counting(
    run: Run, files: Iterable[Path], stats: Path | None, *, expected: int | None, overwrite: bool, dry_run: bool
) -> Run:
    """The run; saves the counts of its codes at `stats` if requested."""
    if stats is None:
        return run

    from lfq_cli.jobs.stats import refuse_other_file, with_counts

    refuse_other_file(stats, files, overwrite=overwrite)
    return run if dry_run else lambda progress: with_counts(run(progress), stats, expected, overwrite=overwrite)
