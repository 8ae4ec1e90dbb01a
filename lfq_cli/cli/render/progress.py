"""The progress bar: on stderr, and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from lfq_cli.cli import interrupts
from lfq_cli.cli.options import Display

_WIDE = 60
"""Letters of a line on which speed and remaining time have room as well."""


@contextmanager
def progress_bar(title: str, total: int | Callable[[], int], display: Display) -> Iterator[Callable[[int], None]]:
    """A callback that takes bytes done; drawn on stderr, only on a terminal and if wanted.

    total: bytes in all; or a function that determines them, where that takes time.
    """
    console = Console(stderr=True)
    if not console.is_terminal or display.quiet or display.no_progress:
        yield lambda _: interrupts.check()
        return
    # late: a quarter of what rich takes to import
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn(title), BarColumn(), DownloadColumn(binary_units=True)]
    if console.width >= _WIDE:
        columns += [TransferSpeedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total if isinstance(total, int) else total())

        def advance(nbytes: int) -> None:
            interrupts.check()
            progress.advance(task, nbytes)

        yield advance


@contextmanager
def count_bar(title: str, display: Display) -> Iterator[Callable[[int], None]]:
    """As `progress_bar`, for things whose total is unknown."""
    console = Console(stderr=True)
    if not console.is_terminal or display.quiet or display.no_progress:
        yield lambda _: interrupts.check()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def advance(count: int) -> None:
            interrupts.check()
            progress.advance(task, count)

        yield advance
