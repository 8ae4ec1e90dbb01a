"""`lfq` and `python -m lfq_cli`. Signals end the process quietly even while everything else is being imported."""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType

_OBJECTS_BEFORE_COLLECTING = 10_000
"""Python's default of 700 searches the modules for garbage while they are imported: 15 ms of 250 for a small file."""


def main() -> None:
    """Runs the command line. Until that installs its own signal handlers there is nothing to clean up."""
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from lfq_cli.cli import main as run

    try:
        run()
    finally:
        gc.freeze()  # Python's exit would search every module for garbage, twice: 30 ms of 250 for a small file


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(128 + signum)


if __name__ == "__main__":
    main()
