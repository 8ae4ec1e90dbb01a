"""What training needs from its data: vectors in a fixed order, in runs that can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lfq_cli.floats import Floats


@dataclass(frozen=True)
class Run:
    """`vectors` vectors from number `first` of the data on; `place` is for the source to find them."""

    first: int
    vectors: int
    place: int


class Source(Protocol):
    """Vectors of `dim` features."""

    @property
    def dim(self) -> int:
        """Features per vector."""
        ...

    def scan(self) -> Iterator[Floats]:
        """All vectors in order, in blocks of float32 [n, dim]; afterwards `runs` is known."""
        ...

    @property
    def runs(self) -> Sequence[Run]:
        """The runs that make up the data, in order."""
        ...

    def read(self, run: Run) -> Iterator[Floats]:
        """The vectors of one run."""
        ...

    def name(self, number: int) -> str:
        """Where vector `number` is, for messages."""
        ...
