"""`mds`: shards of mosaicml-streaming (extra `[mds]`), columns key, tokens, label; a folder per split."""

from __future__ import annotations

from pathlib import Path

from lfq_cli.exports.format import Format, Part


def write(part: Part, folder: Path, stem: str) -> None:
    """STEM/index.json and STEM/shard.00000.mds, ...."""
    import streaming

    columns = {"key": "str", "tokens": f"ndarray:{part.dtype.name}"}
    if part.label:
        columns[part.label] = "int"
    with streaming.MDSWriter(out=str(folder / stem), columns=columns) as writer:
        for rows in part.rows():
            for k, (key, ids) in enumerate(zip(rows.keys, rows.ids, strict=True)):
                sample = {"key": key, "tokens": ids}
                if part.label and rows.labels is not None:
                    sample[part.label] = int(rows.labels[k])
                writer.write(sample)


FORMAT = Format(
    write,
    ("int32", "int64", "uint16", "uint32"),
    readers="mosaicml-streaming",
    columns=("key", "tokens"),
    library=("streaming", "mds"),
)
