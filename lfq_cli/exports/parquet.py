"""`parquet`: columns key, tokens, label (extra `[parquet]`), as datasets, polars and Spark read them.

Ids are stored byte-split and compressed: about the size of the packed bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lfq_cli.exports.format import Format, Part, Rows, joined

_GROUP_IDS = 1 << 22
_GROUP_ROWS = 1 << 17
"""Of a row group, about: 16 MiB of ids, which are held in memory until it is written."""


def write(part: Part, folder: Path, stem: str) -> None:
    """STEM.parquet."""
    path = folder / f"{stem}.parquet"
    import pyarrow
    from pyarrow import parquet

    schema = _schema(pyarrow, part)
    split = {"tokens.list.element": "BYTE_STREAM_SPLIT"}
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, column_encoding=split) as writer:
        for rows in _row_groups(part):
            tables = [pyarrow.table(_columns(pyarrow, each, part), schema=schema) for each in rows]
            writer.write_table(pyarrow.concat_tables(tables), row_group_size=_GROUP_ROWS)


def _row_groups(part: Part) -> Iterator[list[Rows]]:
    """Rows of the part, a row group at a time."""
    group: list[Rows] = []
    ids = samples = 0
    for rows in part.rows():
        group.append(rows)
        ids += sum(map(len, rows.ids)) if isinstance(rows.ids, list) else np.size(rows.ids)
        samples += len(rows.ids)
        if ids >= _GROUP_IDS or samples >= _GROUP_ROWS:
            yield group
            group, ids, samples = [], 0, 0
    if group:
        yield group


def _schema(pyarrow: Any, part: Part) -> Any:
    fields = [("key", pyarrow.string()), ("tokens", pyarrow.list_(pyarrow.from_numpy_dtype(part.dtype)))]
    return pyarrow.schema([*fields, (part.label, pyarrow.int64())] if part.label else fields)


def _columns(pyarrow: Any, rows: Rows, part: Part) -> dict[str, Any]:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in rows.ids])]).astype(np.int32)
    columns = {
        "key": pyarrow.array(rows.keys, pyarrow.string()),
        "tokens": pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(joined(rows, part.dtype))),
    }
    if part.label is not None and rows.labels is not None:
        columns[part.label] = pyarrow.array(rows.labels.astype(np.int64))
    return columns


FORMAT = Format(
    write,
    ("int32", "int64"),
    readers="parquet readers",
    shards=".parquet",
    samples_per_file=100_000,
    columns=("key", "tokens"),
    library=("pyarrow.parquet", "parquet"),
)
