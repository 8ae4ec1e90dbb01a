"""The backend protocol, and the size of its blocks. Blocks are [outer, channels, inner] (layout.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from lfq_cli.bits import Packed
from lfq_cli.cpus import threads
from lfq_cli.floats import FloatFormat, Floats, Raw
from lfq_cli.quantizer import Quantizer

BLOCK_VALUES = 1 << 20
"""What is computed stays in cache, and a block is worth its interpreted lines. Encoding 1 GiB with 2^19, 2^20, 2^22 and
2^23 values: 4.7, 5.0, 3.5, - GB/s (float32, 512 -> 18), 1.9, 2.0, 1.7, 1.1 GB/s (bfloat16); two cores of an AMD EPYC.
"""


_VALUES_OF_ALL_THREADS = 1 << 21
"""Memory with 64 threads: 57 MiB without a projection and 276 MiB with one; with 2^23 values 78 and 342 MiB."""


def block_values() -> int:
    """Values of a block: fewer where many threads have one each, so memory does not grow with them."""
    return min(BLOCK_VALUES, max(1 << 14, _VALUES_OF_ALL_THREADS // threads()))


class Backend(Protocol):
    """One implementation of the arithmetic, in blocks of about `block_values` floats."""

    block_values: int
    quantizer: Quantizer
    compute_dtype: str
    """What is really computed in: float32 where there is nothing but a comparison, whatever was asked for."""
    forks: bool
    """Whether a forked process can go on with it: not where torch has threads or a device."""

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
