"""What the driver reports, and how it goes through a pipe."""

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
    """address: "local" for a cluster of this machine that ends with the run, "auto" for the one that is running here,
    or HOST:PORT. num_cpus and num_gpus: of each actor.
    """

    address: str
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def threads(self) -> int:
        """Threads of each actor."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True)
class Request:
    """The driver's task. folder: where relative paths begin."""

    cluster: Cluster
    work: Work
    jobs: Sequence[Job]
    folder: str


@dataclass(frozen=True)
class Done:
    """The outcomes of some jobs, by their positions in the list."""

    places: Sequence[int]
    outcomes: Sequence[Outcome]
    notes: Sequence[str] = ()
    decoded_with: Sequence[Quantizer] = ()


@dataclass(frozen=True)
class Lost:
    """An actor was killed while it worked: what it was writing may lie around."""


@dataclass(frozen=True)
class Failed:
    """Nothing more can be done. bug: a traceback, where the cause is a bug."""

    error: LfqError | None = None
    bug: str | None = None


@dataclass(frozen=True)
class Ended:
    """All jobs were reported, by so many actors. Seconds: until the first of them was up, and from then on."""

    actors: int
    starting: float
    working: float


Message = Done | Lost | Failed | Ended


def send(pipe: IO[bytes], message: Message | Request) -> None:
    """Writes a message. Raises BrokenPipeError where nobody reads."""
    pickle.dump(message, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Iterator[Message | Request]:
    """The messages up to the end of the pipe, which may come early."""
    while True:
        try:
            yield pickle.load(pipe)  # our own process wrote it
        except (EOFError, pickle.UnpicklingError):
            return


@dataclass
class InOrder:
    """Outcomes that come in any order, given out in the order of the jobs."""

    _next: int = 0
    _waiting: dict[int, Outcome] = field(default_factory=dict)

    def add(self, done: Done) -> Iterator[Outcome]:
        """What can be given out now."""
        self._waiting.update(zip(done.places, done.outcomes, strict=True))
        while self._next in self._waiting:
            yield self._waiting.pop(self._next)
            self._next += 1
