"""What an actor does with jobs: the same calls that the commands make in one process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lfq_cli import backends
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, require_certain_bits
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.pack import PackOptions, encode_each
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

Tell = Callable[[Quantizer], None]
"""Called with the quantizer that codes are decoded with."""


class Work(Protocol):
    """Something to do with jobs that can be sent to another machine."""

    def check(self) -> None:
        """Raises LfqError or ImportError where it cannot be done on this machine, whatever the jobs."""
        ...

    def run(self, jobs: Sequence[Job], tell: Tell) -> Generator[Outcome]:
        """An outcome for every job."""
        ...


@dataclass(frozen=True)
class EncodeWork:
    """As `encode_each` takes it."""

    quantizer: Quantizer
    alone: EncodeOptions
    packed: PackOptions

    def check(self) -> None:
        """As in Work."""
        require_certain_bits(self.quantizer)
        backends.select(self.alone.device, self.quantizer, self.alone.compute_dtype, decoding=False)

    def run(self, jobs: Sequence[Job], tell: Tell) -> Generator[Outcome]:
        """Encodes the jobs' inputs."""
        return encode_each(self.quantizer, jobs, self.alone, self.packed)


@dataclass(frozen=True)
class DecodeWork:
    """As `decode` takes it."""

    quantizer: Quantizer
    options: DecodeOptions

    def check(self) -> None:
        """As in Work."""
        backends.select(self.options.device, self.quantizer, self.options.compute_dtype, decoding=True)

    def run(self, jobs: Sequence[Job], tell: Tell) -> Generator[Outcome]:
        """Decodes the jobs' codes."""
        return decode(self.quantizer, jobs, self.options, tell=tell)
