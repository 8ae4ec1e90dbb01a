"""`lfq inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lfq_cli.cli import options
from lfq_cli.cli.options import Display, takes_display, takes_facts

Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH", parser=options.path, help="Checkpoints, tensor files or codes files.")
]
Against = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="CHECKPOINT",
        parser=options.path,
        help="Show which tensors this checkpoint would encode.",
    ),
]


@takes_facts
@takes_display
def inspect(paths: Paths, checkpoint: Against = None, *, display: Display, facts: Any) -> None:
    """Show what checkpoints, tensor files and codes files hold.

    Only headers are read. For a folder that is not a checkpoint, the codes files in it are shown, or else the tensor
    files.
    """
    from lfq_cli import checkpoints
    from lfq_cli.cli.exits import exit_if_failed
    from lfq_cli.cli.messages import error_lines
    from lfq_cli.cli.render.console import note
    from lfq_cli.cli.render.inspection import show_inspection
    from lfq_cli.errors import LfqError
    from lfq_cli.jobs.inspect import inspect as inspect_path
    from lfq_cli.jobs.inspect import paths_in

    against = checkpoints.load(checkpoint, facts) if checkpoint else None
    views, failed = [], {}
    found = [each for path in paths for each in paths_in(path)]
    for path in found:
        try:
            views.append(inspect_path(path, facts, against))
        except LfqError as error:
            failed[path] = error
            if len(found) > 1:
                note(error_lines(error))
    show_inspection(views, display)
    exit_if_failed(list(failed.values()), len(found))
