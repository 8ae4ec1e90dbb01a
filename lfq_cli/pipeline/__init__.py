"""Every loop over data, in constant memory: floats to codes, codes to floats, codes to counts, codes to a table.

A worker reads a block by position into its own buffer and computes. Codes go to the caller, who writes them in order;
floats are written by position. Workers run a few blocks ahead, so reading, computing and writing overlap. Knows blocks
and backends; files are opened, named and finished by `jobs`.
"""

from __future__ import annotations

from lfq_cli.pipeline.compare import Comparison, check_indices, compare, compare_item
from lfq_cli.pipeline.count import count, count_ranges
from lfq_cli.pipeline.decode import DecodeTask, write_decoded
from lfq_cli.pipeline.encode import EncodeTask, Encoding
from lfq_cli.pipeline.merge import Part, PartsJoiner, SamplesJoiner, StoredFile, StoredReader
from lfq_cli.pipeline.samples import Batch, Plan, SampleEncoder, SampleOptions
from lfq_cli.pipeline.survey import (
    SAMPLE_BYTES,
    check_keys,
    check_texts,
    hash_of_key,
    hashes_of_keys,
    key_at,
    sizes_of,
    survey,
)
from lfq_cli.pipeline.table import write_table
from lfq_cli.pipeline.vectors import all_vectors, read_vectors, vector_blocks
from lfq_cli.pipeline.workers import Progress, Workers, start_workers

__all__ = [
    "SAMPLE_BYTES",
    "Batch",
    "Comparison",
    "DecodeTask",
    "EncodeTask",
    "Encoding",
    "Part",
    "PartsJoiner",
    "Plan",
    "Progress",
    "SampleEncoder",
    "SampleOptions",
    "SamplesJoiner",
    "StoredFile",
    "StoredReader",
    "Workers",
    "all_vectors",
    "check_indices",
    "check_keys",
    "check_texts",
    "compare",
    "compare_item",
    "count",
    "count_ranges",
    "hash_of_key",
    "hashes_of_keys",
    "key_at",
    "read_vectors",
    "sizes_of",
    "start_workers",
    "survey",
    "vector_blocks",
    "write_decoded",
    "write_table",
]
