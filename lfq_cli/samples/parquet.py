"""Parquet files (extra `[parquet]`): every row is a sample, every column a tensor or text of it.

A column of lists (nested to any depth), of fixed-size lists or of Arrow's fixed-shape tensors gives a tensor, a number
or bool a tensor without axes, a string a text; the fields of a struct are columns "struct.field". A row without a value
in a column lacks that tensor or text. Bytes, dates and other types are ignored. The key of a row is its string in the
column `__key__` or `key`; in a file without either it is NAME/ROW.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lfq_cli.errors import LfqError, TensorError
from lfq_cli.extras import require
from lfq_cli.samples.arrow import Cells, cells_of, is_text, leaf_dtype
from lfq_cli.samples.sample import BadSample, Sample
from lfq_cli.samples.selection import Selection
from lfq_cli.signatures import unreadable
from lfq_cli.storage.remote import open_input
from lfq_cli.tensors import StoredTensor

KEY_COLUMNS = ("__key__", "key")
_BATCH_BYTES = 1 << 22
_MOST_ROWS = 4096
_READ_BYTES = 1 << 20
_BROKEN = (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError, OverflowError)
"""What pyarrow raises for damaged files; its own exceptions derive from these."""


class _Column(NamedTuple):
    """A column to read; `path`: the fields that lead to it."""

    name: str
    path: tuple[str, ...]
    is_text: bool


def read(path: Path, name: str, selection: Selection) -> Generator[Sample | BadSample]:
    """The rows in order. Raises TensorError if the file is damaged or has no column to encode."""
    parquet = require("pyarrow.parquet", "parquet", path, TensorError)
    file = open_input(path, TensorError)
    try:
        table = parquet.ParquetFile(file.file, buffer_size=_READ_BYTES, pre_buffer=False)
        columns = _selected(path, table.schema_arrow, selection)
        wanted = [".".join(column.path) for column in columns]
        row = 0
        for batch in table.iter_batches(_rows_at_once(table.metadata), columns=wanted, use_threads=False):
            yield from _samples(batch, columns, path, name, row)
            row += batch.num_rows
    except _BROKEN as reason:
        raise unreadable(file, "a parquet file", " ".join(str(reason).split())[:200], TensorError) from reason
    finally:
        file.close()


def _rows_at_once(metadata: Any) -> int:
    nbytes = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    return int(min(max(_BATCH_BYTES * max(metadata.num_rows, 1) // max(nbytes, 1), 1), _MOST_ROWS))


def _selected(path: Path, schema: Any, selection: Selection) -> list[_Column]:
    """The columns with keys, those to encode and those to carry."""
    selected, is_encoded = [], False
    for names, arrow_type in _leaves((), schema):
        name = ".".join(names)
        if is_text(arrow_type):
            if name in KEY_COLUMNS or selection.carries_text(name):
                selected.append(_Column(name, names, is_text=True))
            continue
        dtype = leaf_dtype(arrow_type)
        encoded = dtype is not None and selection.encodes(name, dtype.name, is_number=dtype.is_number)
        if encoded or (dtype is not None and selection.carries(name)):
            selected.append(_Column(name, names, is_text=False))
        is_encoded = is_encoded or encoded
    if not is_encoded:
        held = ", ".join(f"{'.'.join(names)!r} ({arrow_type})" for names, arrow_type in _leaves((), schema))
        raise TensorError(f"{path}: no column of floats to encode", f"it holds {held or 'no column'}")
    return selected


def _leaves(path: tuple[str, ...], fields: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of names, type) of each column, including those in structs."""
    from pyarrow import types

    for field in fields:
        if types.is_struct(field.type):
            yield from _leaves((*path, field.name), [field.type.field(k) for k in range(field.type.num_fields)])
        else:
            yield (*path, field.name), field.type


def _samples(batch: Any, columns: Sequence[_Column], path: Path, name: str, first: int) -> Iterator[Sample | BadSample]:
    texts = {column.name: _texts(_field(batch, column.path)) for column in columns if column.is_text}
    cells = {column.name: cells_of(_field(batch, column.path)) for column in columns if not column.is_text}
    keys = next((texts[column] for column in KEY_COLUMNS if column in texts), None)
    for row in range(batch.num_rows):
        key = f"{name}/{first + row}" if keys is None else keys[row]
        if not isinstance(key, str):
            reason = "has no key" if key is None else f"has a key that is {key.reason}"
            yield BadSample(f"{name}/{first + row}", TensorError(f"{path}: row {first + row} {reason}"))
            continue
        where = f"{path}: {key!r}"
        try:
            yield Sample(key, where, _tensors(cells, row), _texts_of(texts, row))
        except LfqError as error:
            yield BadSample(key, TensorError(f"{where}: {error.message}", error.hint))


def _tensors(cells: Mapping[str, Cells], row: int) -> dict[str, StoredTensor]:
    found = {name: column.tensor(name, row) for name, column in cells.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _texts_of(texts: Mapping[str, Sequence[str | _Damaged | None]], row: int) -> dict[str, str]:
    found = {}
    for name, rows in texts.items():
        text = rows[row]
        if isinstance(text, _Damaged):
            raise TensorError(f"{name!r} is {text.reason}")
        if text is not None:
            found[name] = text
    return found


@dataclass(frozen=True)
class _Damaged:
    """Stands in place of a text: what is wrong with it."""

    reason: str


def _texts(column: Any) -> list[str | _Damaged | None]:
    """The column's strings, row by row."""
    try:
        texts: list[str | _Damaged | None] = column.to_pylist()
    except UnicodeDecodeError:
        texts = [_text(column[row]) for row in range(len(column))]
    return texts


def _text(cell: Any) -> str | _Damaged | None:
    try:
        text: str | None = cell.as_py()
    except UnicodeDecodeError as reason:
        return _Damaged(f"not UTF-8: {reason}")
    return text


def _field(batch: Any, path: tuple[str, ...]) -> Any:
    """The column at the end of a path of fields; its value is missing wherever one on the path is."""
    import pyarrow.compute as pc

    column = batch.column(path[0])
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column
