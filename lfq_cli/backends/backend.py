"""The backend protocol, and the size of its blocks. Blocks are [outer, channels, inner] (layout.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from lfq_cli.bits import Packed
from lfq_cli.floats import FloatFormat, Floats, Raw
from lfq_cli.quantizer import Quantizer

BLOCK_BYTES = 4 << 20
"""Of floats as stored, where they are only compared: what is read stays in cache, and a block is worth its Python
code, which only one thread runs at a time. Encoding float32 [n, 18] on two cores of an Intel Xeon with 1, 2, 4 and 8
MiB: 3.5, 4.5, 5.5 and 5.5 GB/s; on 16 cores with 4, 8 and 16 MiB: 15.8, 12.0 and 11.1 GB/s.
"""


def widening(quantizer: Quantizer) -> int:
    """How many times as many values as its input a block has while levels are computed side by side, at least 1."""
    return -(-quantizer.bits_per_vector // quantizer.dim)


class Backend(Protocol):
    """One implementation of the arithmetic, in blocks."""

    quantizer: Quantizer
    compute_dtype: str
    """What is really computed in: float32 where there is nothing but a comparison, whatever was asked for."""
    forks: bool
    """Whether a forked process can go on with it: not where torch has threads or a device."""

    def block_values(self, spec: FloatFormat) -> int:
        """About how many floats, stored as `spec`, a block should have."""
        ...

    def working(self) -> AbstractContextManager[object]:
        """A context in which the backend works: process-wide settings are restored at its end."""
        ...

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """raw [outer, dim, inner] as stored -> (stream of its outer * inner vectors, whether there is NaN).

        NaN gives bit 0. It may be in raw, or come of what is computed: infinity minus infinity, for one.
        """
        ...

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """raw [outer, dim, inner] as stored -> z [outer * inner, B], whose signs are the bits (except at float32's
        extremes).
        """
        ...

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """The stream of outer * inner vectors -> floats as stored [outer, dim, inner].

        They may lie in a buffer that this thread's next call overwrites.
        """
        ...


class FloatsToRead(NamedTuple):
    """A block to encode: `read_into` fills an array of this shape [outer, dim, inner], as stored."""

    shape: tuple[int, int, int]
    read_into: Callable[[Raw], None]


class CodesToRead(NamedTuple):
    """A block to decode: `read` returns the stream of its outer * inner vectors."""

    outer: int
    inner: int
    read: Callable[[], Packed]
