"""The messages between the command and the driver, and how they pass through a pipe."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from lfq_cli.cluster.work import Work
from lfq_cli.errors import LfqError
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer


@dataclass(frozen=True)
class Cluster:
    """Which cluster to use, and how much of it per actor.

    address: "local" for a cluster on this machine that ends with the run, "auto" for one that is already running here,
    or HOST:PORT. num_cpus, num_gpus: for each actor.
    """

    address: str
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def threads(self) -> int:
        """Threads per actor."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True)
class Request:
    """What the driver is to do. folder: where relative paths begin."""

    cluster: Cluster
    work: Work
    jobs: Sequence[Job]
    folder: str


@dataclass(frozen=True)
class Done:
    """The outcomes of some jobs; places: their positions in the list of all."""

    places: Sequence[int]
    outcomes: Sequence[Outcome]
    notes: Sequence[str] = ()
    decoded_with: Sequence[Quantizer] = ()


@dataclass(frozen=True)
class Lost:
    """An actor was killed while it worked, and may have left a temporary file."""


@dataclass(frozen=True)
class Failed:
    """The run cannot continue. bug: a traceback, if the cause is a bug."""

    error: LfqError | None = None
    bug: str | None = None


@dataclass(frozen=True)
class Ended:
    """All jobs are done. starting: seconds until the first actor was up; working: seconds from then on."""

    actors: int
    starting: float
    working: float


Message = Done | Lost | Failed | Ended


def send(pipe: IO[bytes], message: Message | Request) -> None:
    """Writes a message. Raises BrokenPipeError if nobody reads any more."""
    pickle.dump(message, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Iterator[Message | Request]:
    """Yields messages up to the end of the pipe, which may come early."""
    while True:
        try:
            yield pickle.load(pipe)  # written by our own process
        except (EOFError, pickle.UnpicklingError):
            return


@dataclass
class InOrder:
    """Puts outcomes that arrive in any order into the order of the jobs."""

    _next: int = 0
    _waiting: dict[int, Outcome] = field(default_factory=dict)

    def add(self, done: Done) -> Iterator[Outcome]:
        """Yields the outcomes whose turn it is now."""
        self._waiting.update(zip(done.places, done.outcomes, strict=True))
        while self._next in self._waiting:
            yield self._waiting.pop(self._next)
            self._next += 1
