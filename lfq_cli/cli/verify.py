"""`lfq verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_facts, takes_threads

if TYPE_CHECKING:
    from lfq_cli.errors import LfqError

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="CODES", parser=options.place, help="Codes files, folders or globs; folders of exports."),
]
WithCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="CHECKPOINT", parser=options.path, help="Check that this checkpoint made them."
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="INPUT",
        parser=options.place,
        help="Encode these inputs (file, folder or glob) again and compare; needs --checkpoint; may be repeated.",
    ),
]
Sample = Annotated[
    int | None,
    typer.Option(
        "--sample",
        metavar="N",
        min=1,
        help="How many vectors of each tensor to encode again, evenly spread; default: all.",
    ),
]
ComputeDtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--compute-dtype", help="Precision of projections; default: what the codes file says."),
]


@takes_facts
@takes_display
@takes_threads
def verify(
    inputs: Inputs,
    checkpoint: WithCheckpoint = None,
    source: Sources = None,
    sample: Sample = None,
    tensor: options.Tensors = None,
    device: options.Device = "auto",
    compute_dtype: ComputeDtype = None,
    *,
    display: Display,
    facts: Any,
) -> None:
    """Check that codes files are intact and match their source.

    With --checkpoint and --source the source is encoded again. This shows the share of indices and bits that differ,
    and the margin: the share of |z| below 1e-6 to 1e-2, which tells how far tokens depend on hardware and precision.
    One source belongs to one codes file; folders are paired as by `lfq encode SOURCES -o CODES`; samples of many inputs
    are found by key. The exit code is 4 if something is damaged or differs; a file that cannot be read, or that was
    made with another checkpoint, is an error. The folder of an `lfq export` can be checked too: every part by the
    digest in its lfq.json.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.exits import exit_if_different
    from lfq_cli.cli.render.progress import progress_bar
    from lfq_cli.cli.render.verdicts import show_verdicts
    from lfq_cli.cli.run import total_size
    from lfq_cli.errors import OptionError
    from lfq_cli.exports import verify as exported
    from lfq_cli.jobs.verify import VerifyOptions, sources_of
    from lfq_cli.jobs.verify import verify as verify_files
    from lfq_cli.storage.urlpath import path_of

    if source and checkpoint is None:
        raise OptionError("--source needs --checkpoint", "the checkpoint that encoded it")
    if sample is not None and not source:
        raise OptionError("--sample belongs to --source", "leave it out, or name what to encode again")
    exports = [path_of(each) for each in inputs if exported.is_export(path_of(each))]
    codes = [each for each in inputs if path_of(each) not in exports or _holds_codes(each)]
    if checkpoint is not None and not codes:
        raise OptionError("--checkpoint belongs to codes files, and an export has none", "leave it out")
    paths, missed = _find(codes)
    quantizer = None if checkpoint is None else checkpoints.load(checkpoint, facts)
    sources = sources_of(source, inputs, paths) if source else None
    chosen = VerifyOptions(tensors=tuple(tensor or ()), sample=sample, device=device, compute_dtype=compute_dtype)
    total = total_size(paths) + sum(map(exported.size_of, exports))
    with progress_bar("verify", total, display) as progress:
        verdicts = list(verify_files(paths, chosen, quantizer, sources, progress, missed))
        for folder in exports:
            verdicts += exported.verify(folder, progress)
    show_verdicts(verdicts, display)
    exit_if_different(verdicts)


def _find(arguments: list[str]) -> tuple[list[Path], dict[Path, LfqError]]:
    from lfq_cli.errors import CodesFileError
    from lfq_cli.jobs.file_types import is_codes_file
    from lfq_cli.jobs.inputs import find_inputs, sorted_out

    return sorted_out(find_inputs(arguments, is_codes_file, CodesFileError))


def _holds_codes(folder: str) -> bool:
    """Whether an export is among the codes files."""
    from lfq_cli.errors import CodesFileError

    try:
        _find([folder])
    except CodesFileError:  # it has none
        return False
    return True
