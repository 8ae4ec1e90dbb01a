"""What every tensor container provides: names, shapes, formats, and regions to read bytes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lfq_cli.container import tensor_bytes
from lfq_cli.regions import Region, RestRegion

if TYPE_CHECKING:
    from lfq_cli.torchfile.values import OddTensor


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, in C order. `dtype` is safetensors' name for it ("F32", "BF16", "I64", ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    region: Region

    def rows(self, first: int, last: int) -> StoredTensor:
        """The tensor's entries `first` to `last` of axis 0."""
        start = first * tensor_bytes(self.dtype, self.shape[1:])
        return replace(self, shape=(last - first, *self.shape[1:]), region=RestRegion(self.region, start))


@dataclass(frozen=True)
class Source:
    """An open tensor file. No data is read until a region is read."""

    path: Path
    tensors: dict[str, StoredTensor]
    left_alone: dict[str, str] = field(default_factory=dict)
    """Everything else in the file: name -> what it is."""
    odd: dict[str, OddTensor] = field(default_factory=dict)
    """The tensors in `left_alone` that are not plain arrays of numbers."""
    metadata: dict[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


SOLE_TENSOR = "data"
"""The name of the tensor in a file that holds one without a name."""
