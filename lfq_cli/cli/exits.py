"""Exit codes, and when they are used (docs/cli.md, "Exit codes")."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import typer

from lfq_cli.errors import LfqError

if TYPE_CHECKING:
    from lfq_cli.jobs.outcome import Outcome
    from lfq_cli.jobs.verify import Verdict


class ExitCode(IntEnum):
    """Besides 0, and 128 + n for a signal."""

    FAILED = 1
    USAGE = 2
    SOME_FAILED = 3
    DIFFERENT = 4
    WORK_LEFT = 5
    BUG = 70


def exit_if_failed(failed: Sequence[LfqError], inputs: int) -> None:
    """Ends the command with the error of its only input, or with 3 if some of several failed (each was named)."""
    if failed and inputs == 1:
        raise failed[0]
    if failed:
        raise typer.Exit(ExitCode.SOME_FAILED)


def exit_if_different(verdicts: Sequence[Verdict]) -> None:
    """Ends the command with 4 for damage or a difference, otherwise as for failed inputs."""
    found = {verdict.status for verdict in verdicts}
    if found & {"damaged", "different"}:
        raise typer.Exit(ExitCode.DIFFERENT)
    if "failed" in found:
        raise typer.Exit(ExitCode.SOME_FAILED if len(verdicts) > 1 else ExitCode.FAILED)


def exit_if_work_is_left(outcomes: Sequence[Outcome]) -> None:
    """Ends the command with 5 unless every output exists and is current."""
    if any(outcome.status != "up to date" for outcome in outcomes):
        raise typer.Exit(ExitCode.WORK_LEFT)
