"""`lfq import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_facts

Foreign = Annotated[
    Path,
    typer.Argument(
        metavar="FOREIGN",
        parser=options.path,
        help="A state dict, alone or inside a larger model: file, folder or shard index.",
    ),
]

Layout = Annotated[
    Literal["auto", "channel-first", "channel-last"],
    typer.Option("--layout", help="Where inputs have their features, recorded in the checkpoint; auto: not recorded."),
]


@takes_facts
@takes_display
def import_checkpoint(
    foreign: Foreign,
    output: options.Native,
    layout: Layout = "auto",
    num_quantizers: options.Levels = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    *,
    display: Display,
    facts: Any,
) -> None:
    """Write any model's quantizer as a native checkpoint.

    It has the quantizer's few tensors and all facts about it, but nothing else of the model. Facts that the file does
    not state are given by options, or assumed, reported, and marked as assumed in the native checkpoint. Codes made
    with one of the two checkpoints can be decoded with the other.
    """
    from dataclasses import replace

    from lfq_cli import checkpoints
    from lfq_cli.cli.render.checkpoints import show_import, tell_assumptions
    from lfq_cli.jobs.plan import refuse_to_replace
    from lfq_cli.native import refuse_existing_checkpoint, write, written_files

    refuse_to_replace([output, *written_files(output)], checkpoints.read_files(foreign))
    stated = replace(facts, channel_first=None if layout == "auto" else layout == "channel-first")
    quantizer = checkpoints.load(foreign, stated)
    if num_quantizers is not None:
        quantizer = quantizer.first_levels(num_quantizers)
    tell_assumptions(quantizer)
    refuse_existing_checkpoint(output, overwrite=overwrite)
    if not dry_run:
        write(quantizer, output, overwrite=overwrite)
    show_import(output, quantizer, display, written=not dry_run)
