"""The progress bar: on stderr, and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lfq_cli.cli import interrupts
from lfq_cli.cli.options import Display

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 60
"""Letters of a line on which speed and remaining time have room as well."""


@contextmanager
def progress_bar(title: str, total: int | Callable[[], int], display: Display) -> Iterator[Callable[[int], None]]:
    """A callback that takes bytes done; drawn on stderr, only on a terminal and if wanted.

    total: bytes in all; or a function that determines them, where that takes time.
    """
    console = _console(display)
    if console is None:
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
    console = _console(display)
    if console is None:
        yield lambda _: interrupts.check()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def advance(count: int) -> None:
            interrupts.check()
            progress.advance(task, count)

        yield advance


def _console(display: Display) -> Console | None:
    """stderr if a bar is wanted and it is a terminal."""
    if display.quiet or display.no_progress:
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None
