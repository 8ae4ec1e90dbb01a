"""What runs on the cluster's machines: an actor that holds the work and does some jobs per call."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfq_cli.cluster.work import Work
from lfq_cli.cpus import use_threads
from lfq_cli.errors import LfqError, LfqNote
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

Report = tuple[list[Outcome], list[str], list[Quantizer]]
"""An outcome for each job, notes, and the quantizers that codes were decoded with."""


class Actor:
    """Holds the work. threads: how many to use. folder: where relative paths begin."""

    def __init__(self, work: Work, threads: int, folder: str) -> None:
        self._work = work
        self._threads = threads
        self._folder = folder
        self._reported: list[dict[str, Any]] = []

    def ready(self) -> LfqError | None:
        """Why this machine cannot do the work; None if it can."""
        try:
            os.chdir(self._folder)
        except OSError as reason:
            return LfqError(
                f"--ray: {socket.gethostname()} cannot enter {self._folder}: {reason.strerror}",
                "all machines of the cluster must see the folder in which the command is run",
            )
        try:
            with use_threads(self._threads):
                self._work.check()
        except ImportError as reason:
            return LfqError(f"--ray: {socket.gethostname()} lacks a library: {reason}", "install what lfq needs there")
        except LfqError as error:
            return error
        return None

    def run(self, jobs: Sequence[Job]) -> Report:
        """Does the jobs and reports on them."""
        os.chdir(self._folder)  # a restarted actor begins elsewhere
        decoded_with: list[Quantizer] = []

        def tell(quantizer: Quantizer) -> None:
            if quantizer.assumptions() not in self._reported:
                self._reported.append(quantizer.assumptions())
                decoded_with.append(quantizer)

        outcomes: dict[Path, Outcome] = {}
        with use_threads(self._threads), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LfqNote)
            for outcome in self._work.run(jobs, tell):
                outcomes[outcome.output] = outcome
        notes = [str(each.message) for each in caught if issubclass(each.category, LfqNote)]
        return [outcomes[job.output] for job in jobs], notes, decoded_with
