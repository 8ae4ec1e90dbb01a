"""What the extension offers. Every function raises ValueError where sizes do not go together, or a buffer is unaligned.

Buffers are C-contiguous and of the machine's (little-endian) byte order; `itemsize` is in bytes.
"""

from _typeshed import ReadableBuffer, WriteableBuffer

version: int
"""Of the functions here and their arguments. An extension before 1 does not say it."""

def signs(
    raw: ReadableBuffer, itemsize: int, largest: int, outer: int, channels: int, inner: int, out: WriteableBuffer
) -> bool:
    """raw [outer, channels, inner], floats of 2 or 4 bytes -> out, the stream of value > 0; whether one is NaN."""

def residual(
    raw: ReadableBuffer,
    number: int,
    outer: int,
    channels: int,
    inner: int,
    depth: int,
    levels: int,
    out: WriteableBuffer,
) -> bool:
    """raw [outer, channels, inner] -> out, the stream of (group, level, depth) of each vector; whether one is NaN.

    number: of the format, 0 float32, 1 float16, 2 bfloat16.
    """

def unpack(
    stream: ReadableBuffer,
    first: int,
    stride: int,
    width: int,
    lsb: bool,
    count: int,
    out: WriteableBuffer,
    itemsize: int,
    column: int,
    columns: int,
) -> None:
    """Fields of `width` bits, every `stride` bits from bit `first` on -> out [count, columns], one column of it."""

def count(
    stream: ReadableBuffer,
    first: int,
    stride: int,
    width: int,
    lsb: bool,
    count: int,
    table: WriteableBuffer,
    itemsize: int,
) -> None:
    """Adds 1 to table [2^width], of 4 or 8 bytes, for each field; width at most 25."""

def decode(
    stream: ReadableBuffer,
    outer: int,
    channels: int,
    inner: int,
    out: WriteableBuffer,
    minus: ReadableBuffer,
    plus: ReadableBuffer,
) -> None:
    """stream of outer * inner vectors -> out [outer, channels, inner] of the values `minus` and `plus`."""

def read_rows(descriptor: int, positions: ReadableBuffer, nbytes: int, out: WriteableBuffer) -> int:
    """out [n, nbytes] from positions (int64 [n]) of a file; rows done before the first that was not read whole."""

def sets() -> list[str]:
    """The instruction sets that this processor has a version for, best first."""

def use(name: str) -> None:
    """Chooses one of `sets()`, for the whole process."""
