"""What training reads: vectors in an order that never changes, and runs of them that can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lfq_cli.floats import Floats


@dataclass(frozen=True)
class Run:
    """`vectors` vectors from number `first` of the data on; `place`: where the source finds them."""

    first: int
    vectors: int
    place: int


class Source(Protocol):
    """Vectors of `dim` features."""

    @property
    def dim(self) -> int:
        """Features of a vector."""
        ...

    def scan(self) -> Iterator[Floats]:
        """All vectors in order, float32 [n, dim] at a time; at its end `runs` is known."""
        ...

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of which the data consists, in order."""
        ...

    def read(self, run: Run) -> Iterator[Floats]:
        """The vectors of one run."""
        ...

    def name(self, number: int) -> str:
        """Where vector `number` stands, for messages."""
        ...
