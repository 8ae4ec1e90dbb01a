"""`lfq export-codebook`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_facts

Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", parser=options.path, help="A name in .safetensors or .npy.")
]
Range = Annotated[
    str | None, typer.Option("--range", metavar="A:B", help="Rows A to B - 1 only, by index; either may be left out.")
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16", "float64"], typer.Option("--dtype", help="Float type of the tables.")
]
ProjectOut = Annotated[
    bool,
    typer.Option(
        "--project-out/--no-project-out",
        help="Tables of what codes decode to (sum over codebooks, plus bias), or of bare codes.",
    ),
]


@takes_facts
@takes_display
def export_codebook(
    checkpoint: options.Checkpoint,
    output: Output,
    range: Range = None,  # noqa: A002 - the option's name
    dtype: Dtype = "float32",
    project_out: ProjectOut = True,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    *,
    display: Display,
    facts: Any,
) -> None:
    """Write every code as a table.

    Row i is what index i decodes to. Without a projection there is one table, `codebook` [2^D, D], for all codebooks.
    With a projection there is a table [2^D, dim] for every codebook (`codebook.0`, ...), and `bias` [dim]; their sum is
    the decoded vector, so they can initialise token embeddings. Each level of a residual quantizer has its own table,
    and they add up in the same way.

    If bits are cut into several indices (Kronos, --codebook-dims 4,8), every index has a table: [16, 4] and [256, 8],
    whose rows are parts of the vector; or, with a projection or rotation, [16, dim] and [256, dim], which add up.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.render.checkpoints import tell_assumptions
    from lfq_cli.cli.render.exports import announce_export, show_export
    from lfq_cli.cli.render.progress import progress_bar
    from lfq_cli.dtypes import PLAIN_FLOATS
    from lfq_cli.jobs.export import export_codebook as write_tables
    from lfq_cli.jobs.export import plan_export, require_room
    from lfq_cli.jobs.plan import refuse_to_replace

    refuse_to_replace([output], checkpoints.read_files(checkpoint))
    quantizer = checkpoints.load(checkpoint, facts)
    tell_assumptions(quantizer)
    plan = plan_export(
        quantizer,
        output,
        rows=_rows(range),
        dtype=PLAIN_FLOATS[dtype],
        project_out=project_out,
        overwrite=overwrite,
    )
    announce_export(plan, display)
    require_room(plan)
    if not dry_run:
        with progress_bar("export-codebook", plan.nbytes, display) as progress:
            write_tables(plan, progress)
    show_export(plan, display, written=not dry_run)


def _rows(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return (int(first) if first else None), (int(last) if last else None)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not A:B", param_hint="--range") from None
