"""The functions of the extension. All raise ValueError if sizes do not match or a buffer is not aligned.

Buffers are C-contiguous and in the machine's (little-endian) byte order; `itemsize` is in bytes.
"""

from _typeshed import ReadableBuffer, WriteableBuffer

version: int
"""Of the functions here and their arguments. An extension before 1 does not say it."""

def signs(
    raw: ReadableBuffer, itemsize: int, largest: int, outer: int, channels: int, inner: int, out: WriteableBuffer
) -> bool:
    """raw [outer, channels, inner], floats of 2 or 4 bytes -> out, the stream of value > 0; -> whether one is NaN."""

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
    """raw [outer, channels, inner] -> out, the stream of (group, level, depth) of each vector.

    number: 0 for float32, 1 for float16, 2 for bfloat16. Returns whether a value is NaN.
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
    """Fields of `width` bits, one every `stride` bits from bit `first` on -> one column of out [count, columns]."""

def count(
    stream: ReadableBuffer,
    first: int,
    stride: int,
    width: int,
    lsb: bool,
    count: int,
    table: WriteableBuffer,
    itemsize: int,
    least: int,
    number: int,
) -> None:
    """Counts fields in table [2^width], integers of 4 or 8 bytes; width is at most 25.

    Of all codes only `number`, from `least` on, are counted.
    """

def decode(
    stream: ReadableBuffer,
    outer: int,
    channels: int,
    inner: int,
    out: WriteableBuffer,
    minus: ReadableBuffer,
    plus: ReadableBuffer,
) -> None:
    """stream of outer * inner vectors -> out [outer, channels, inner], each value `minus` or `plus`."""

def read_rows(descriptor: int, positions: ReadableBuffer, nbytes: int, out: WriteableBuffer) -> int:
    """Fills out [n, nbytes] from positions (int64 [n]) in a file; returns the number of rows before a failure."""

def sets() -> list[str]:
    """The instruction sets that there are kernels for and that this processor supports, best first."""

def use(name: str) -> None:
    """Selects one of `sets()` for the whole process."""
