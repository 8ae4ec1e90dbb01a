"""Arrow columns of numbers and of lists of numbers -> tensors, a row at a time, without copying the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfq_cli.dtypes import NUMPY, OF_ARROW
from lfq_cli.errors import TensorError
from lfq_cli.regions import MemoryRegion, bytes_of
from lfq_cli.samples.sample import MAX_SAMPLE_BYTES
from lfq_cli.tensors import StoredTensor


class LeafType(NamedTuple):
    """The numbers in a column, and whether each row is a single number."""

    name: str
    is_number: bool


def is_text(arrow_type: Any) -> bool:
    """Whether a column's values are strings."""
    from pyarrow import types

    arrow_type = arrow_type.value_type if types.is_dictionary(arrow_type) else arrow_type
    return bool(types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type))


def leaf_dtype(arrow_type: Any) -> LeafType | None:
    """The type of the numbers in a column's rows; None for a column of anything else."""
    is_number = True
    while True:
        # an extension type has a storage type: Arrow's tensors, those of `datasets`
        arrow_type = getattr(arrow_type, "storage_type", arrow_type)
        if not _is_list(arrow_type):
            name = OF_ARROW.get(str(arrow_type))
            return None if name is None else LeafType(name, is_number)
        arrow_type, is_number = arrow_type.value_type, False


def _is_list(arrow_type: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type))


class _Level(NamedTuple):
    """The lists at one depth: list k holds entries bounds[k] to bounds[k + 1] of the next; `size`: if all have the
    same.
    """

    bounds: NDArray[np.int64]
    valid: NDArray[np.bool_] | None
    size: int | None


@dataclass(frozen=True)
class Cells:
    """The values of a column in a batch. `fixed`: shape and axis order of each row, if the type gives them."""

    levels: list[_Level]
    values: NDArray[Any]
    valid: NDArray[np.bool_] | None
    dtype: str
    fixed: tuple[tuple[int, ...], tuple[int, ...]] | None

    def tensor(self, name: str, row: int) -> StoredTensor | None:
        """The row's tensor; None if it has no value. Raises TensorError for lists that are not a tensor."""
        first, last = row, row + 1
        shape: list[int] = []
        for depth, level in enumerate(self.levels):
            if level.valid is not None and not level.valid[first:last].all():
                if depth == 0:
                    return None
                raise TensorError(f"{name!r} has lists without a value")
            lengths = np.diff(level.bounds[first : last + 1])
            if len(lengths) and (lengths != lengths[0]).any():
                raise TensorError(f"{name!r} has lists of {lengths.min()} to {lengths.max()} values, not all of one")
            shape.append(int(lengths[0]) if len(lengths) else level.size or 0)
            first, last = int(level.bounds[first]), int(level.bounds[last])
        if self.valid is not None and not self.valid[first:last].all():
            if not self.levels:
                return None
            raise TensorError(f"{name!r} has entries without a value", "fill them in, or leave the row out")
        return self._tensor(name, self.values[first:last], tuple(shape))

    def _tensor(self, name: str, values: NDArray[Any], shape: tuple[int, ...]) -> StoredTensor:
        if values.nbytes > MAX_SAMPLE_BYTES:
            raise TensorError(f"{name!r} has {values.nbytes / 2**30:.3g} GiB, a sample has 1 GiB at most")
        if self.fixed is not None:
            stored, order = self.fixed
            values = values.reshape(stored).transpose(order)
            shape = values.shape
        return StoredTensor(name, self.dtype, shape, MemoryRegion(bytes_of(values)))


def cells_of(column: Any) -> Cells:
    """The cells of an Arrow array whose type `leaf_dtype` knows."""
    fixed = _fixed_shape(column.type)
    levels: list[_Level] = []
    while True:
        column = getattr(column, "storage", column)
        if not _is_list(column.type):
            break
        levels.append(_level(column))
        column = column.values
    found = leaf_dtype(column.type)
    assert found is not None
    valid = _valid(column)
    values = np.asarray(column if valid is None else column.fill_null(False if found.name == "BOOL" else 0))
    return Cells(levels, values.astype(NUMPY[found.name], copy=False), valid, found.name, fixed)


def _level(column: Any) -> _Level:
    from pyarrow import types

    if types.is_fixed_size_list(column.type):
        size = column.type.list_size
        return _Level((column.offset + np.arange(len(column) + 1, dtype=np.int64)) * size, _valid(column), size)
    return _Level(np.asarray(column.offsets).astype(np.int64), _valid(column), None)


def _valid(column: Any) -> NDArray[np.bool_] | None:
    return np.asarray(column.is_valid()) if column.null_count else None


def _fixed_shape(arrow_type: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(shape as stored, order of its axes) of Arrow's fixed-shape tensors; None for any other type."""
    import pyarrow

    if not isinstance(arrow_type, pyarrow.FixedShapeTensorType):
        return None
    shape = tuple(arrow_type.shape)
    return shape, tuple(arrow_type.permutation or range(len(shape)))
