"""What an actor does with its jobs: the same calls that the commands make in a single process."""

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
"""Called with the quantizer that decodes the codes."""


class Work(Protocol):
    """Something to do with jobs; can be sent to another machine."""

    def check(self) -> None:
        """Raises LfqError or ImportError if this machine cannot do the work at all."""
        ...

    def run(self, jobs: Sequence[Job], tell: Tell) -> Generator[Outcome]:
        """Does the jobs and yields an outcome for each."""
        ...


@dataclass(frozen=True)
class EncodeWork:
    """Encoding, with the arguments of `encode_each`."""

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
    """Decoding, with the arguments of `decode`."""

    quantizer: Quantizer
    options: DecodeOptions

    def check(self) -> None:
        """As in Work."""
        backends.select(self.options.device, self.quantizer, self.options.compute_dtype, decoding=True)

    def run(self, jobs: Sequence[Job], tell: Tell) -> Generator[Outcome]:
        """Decodes the jobs' codes."""
        return decode(self.quantizer, jobs, self.options, tell=tell)
