"""`lfq` and `python -m lfq_cli`. Signals end the process quietly even while everything else is being imported."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Runs the command line. Until that installs its own signal handlers there is nothing to clean up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from lfq_cli.cli import main as run

    run()


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)


if __name__ == "__main__":
    main()
