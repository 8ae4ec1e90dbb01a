"""Every code as a row of a table."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from lfq_cli.backends import Backend
from lfq_cli.bits import indices_to_bits, pack
from lfq_cli.files import write_all
from lfq_cli.floats import FloatFormat
from lfq_cli.pipeline.workers import Progress
from lfq_cli.regions import bytes_of

_TABLE_ROWS = 1 << 14


def write_table(file: BinaryIO, backend: Backend, indices: range, spec: FloatFormat, progress: Progress) -> None:
    """Writes what the indices of the backend's one codebook decode to, one per row."""
    quantizer = backend.quantizer
    for start in range(indices.start, indices.stop, _TABLE_ROWS):
        rows = np.arange(start, min(start + _TABLE_ROWS, indices.stop), dtype=np.uint64)[:, None]
        stream = pack(indices_to_bits(rows, quantizer.codebook_dims, quantizer.bit_order))
        raw = backend.decode(stream, len(rows), 1, spec, project_out=True)
        write_all(file, bytes_of(raw))
        progress(raw.nbytes)
