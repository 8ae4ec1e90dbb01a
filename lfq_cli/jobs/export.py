"""A quantizer's codes -> tables in a tensor file."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfq_cli import backends, floats
from lfq_cli.bits import stream_bytes
from lfq_cli.errors import OptionError, OutputError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.floats import FORMATS
from lfq_cli.matching import MAX_VALUES
from lfq_cli.pipeline.table import write_table
from lfq_cli.pipeline.workers import Progress
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import bytes_of
from lfq_cli.storage.outputs import room_for
from lfq_cli.tensors import Head, head_for

BIAS = "bias"


@dataclass(frozen=True)
class Table:
    """The codes of a quantizer's one codebook, those with indices in `rows`."""

    quantizer: Quantizer
    rows: range

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, features]."""
        return self.rows.stop - self.rows.start, self.quantizer.dim


@dataclass(frozen=True)
class ExportPlan:
    """Tables to write, by name. `rows` are the requested indices: a table holds those of them that it has."""

    output: Path
    tables: dict[str, Table]
    bias: floats.Floats | None
    head: Head
    nbytes: int
    rows: range
    dtype: str
    overwrite: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of everything to write: tables [rows, features], and the bias."""
        return _shapes(self.tables, self.bias)


def plan_export(
    quantizer: Quantizer,
    output: Path,
    *,
    rows: tuple[int | None, int | None] = (None, None),
    dtype: str = "F32",
    project_out: bool = True,
    overwrite: bool = False,
) -> ExportPlan:
    """What an export would write. Raises OptionError for rows that do not exist or a format that cannot hold them."""
    widest = max(quantizer.codebook_dims)
    asked = _row_range(rows, 2**widest)
    tables = _with_rows(_tables(quantizer, project_out=project_out), asked)
    bias = _bias(quantizer) if project_out else None
    shapes = _shapes(tables, bias)
    values = sum(prod(shape) for shape in shapes.values())
    if values >= MAX_VALUES:
        raise OutputError(f"{output}: 2^{widest} codes are more than any disk holds", "--range A:B exports a part")
    of = {"checkpoint_sha256": quantizer.digest, "rows": [asked.start, asked.stop]}
    made_of = {"format": "lfq-codebook", "version": 1, **of}
    head = head_for(output, dtype, shapes, {"lfq": json.dumps(made_of, separators=(",", ":"))})
    refuse_existing(output, overwrite=overwrite)
    return ExportPlan(output, tables, bias, head, values * FORMATS[dtype].itemsize, asked, dtype, overwrite)


def require_room(plan: ExportPlan) -> None:
    """Raises OutputError if the disk has too little space."""
    free = shutil.disk_usage(room_for(plan.output)).free
    if plan.nbytes + len(plan.head.data) > free:
        raise OutputError(
            f"{plan.output}: needs {plan.nbytes / 1e9:.3g} GB, the disk has {free / 1e9:.3g} GB free",
            "--range A:B exports a part, --dtype float16 halves it",
        )


def export_codebook(plan: ExportPlan, progress: Progress = lambda _: None) -> None:
    """Writes the planned tables, a run of rows at a time."""
    spec = FORMATS[plan.dtype]
    with atomic_output(plan.output, overwrite=plan.overwrite, nbytes=plan.nbytes) as file:
        write_all(file, plan.head.data)
        for table in plan.tables.values():
            backend = backends.select("cpu", table.quantizer, "float32", decoding=True)
            with backend.working():
                write_table(file, backend, table.rows, spec, progress)
        if plan.bias is not None:
            write_all(file, bytes_of(floats.from_float32(plan.bias, spec)))


def _shapes(tables: dict[str, Table], bias: floats.Floats | None) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {name: table.shape for name, table in tables.items()}
    return shapes if bias is None else shapes | {BIAS: bias.shape}


def _with_rows(parts: dict[str, Quantizer], asked: range) -> dict[str, Table]:
    """The tables that have any of the rows."""
    rows = {name: range(asked.start, min(asked.stop, part.codebook_size)) for name, part in parts.items()}
    return {name: Table(part, rows[name]) for name, part in parts.items() if rows[name]}


def _row_range(rows: tuple[int | None, int | None], size: int) -> range:
    first = 0 if rows[0] is None else rows[0]
    last = size if rows[1] is None else rows[1]
    if not 0 <= first < last <= size:
        raise OptionError(f"--range {first}:{last} is not within the codebook's rows 0:{size}")
    return range(first, last)


def _tables(quantizer: Quantizer, *, project_out: bool) -> dict[str, Quantizer]:
    """Without a projection every codebook has the same codes: one table. With one, each has its columns of project_out.

    Each level of a residual quantizer has a table; in a group, over the group's features. So does each index where bits
    are not grouped by codebook.
    """
    if quantizer.is_residual:
        return _level_tables(quantizer, project_out=project_out)
    if quantizer.codebook_dims != (quantizer.codebook_dim,) * quantizer.num_codebooks:
        return _index_tables(quantizer, project_out=project_out)
    if not (project_out and quantizer.has_projections):
        return {"codebook": quantizer.unprojected()}
    if quantizer.num_codebooks == 1:
        return {"codebook": quantizer.part(0)}
    return {f"codebook.{k}": quantizer.part(k) for k in range(quantizer.num_codebooks)}


def _level_tables(quantizer: Quantizer, *, project_out: bool) -> dict[str, Quantizer]:
    tables = {}
    for group in range(len(quantizer.group_prefixes)):
        for level in range(len(quantizer.layer_prefixes)):
            part = quantizer.level(group, level)
            name = f"codebook.{level}" if quantizer.groups is None else f"codebook.{group}.{level}"
            tables[name] = part if project_out else part.unprojected()
    return tables


def _index_tables(quantizer: Quantizer, *, project_out: bool) -> dict[str, Quantizer]:
    """A table for each index of regrouped bits: the vector's coordinates for its bits, or their projection."""
    magnitude, matrix = _magnitude(quantizer), _matrix(quantizer, project_out=project_out)
    tables, first = {}, 0
    for place, bits in enumerate(quantizer.codebook_dims):
        weights = {}
        if matrix is not None:
            columns = matrix[:, first : first + bits].astype(np.float32)
            weights = {"project_in.weight": np.zeros(columns.T.shape, np.float32), "project_out.weight": columns}
        tables[f"codebook.{place}"] = Quantizer(
            dim=bits if matrix is None else len(matrix),
            codebook_dim=bits,
            codebook_scale=magnitude,
            bit_order=quantizer.bit_order,
            weights=weights,
        )
        first += bits
    return tables if len(tables) > 1 else {"codebook": tables["codebook.0"]}


def _magnitude(quantizer: Quantizer) -> float:
    """|coordinate| of a whole code, before rotation and projection, as decoded."""
    known = quantizer.code_magnitude()
    if known is not None:
        return float(known)
    one = replace(quantizer.unprojected(), weights={})
    backend = backends.select("cpu", one, "float32", decoding=True)
    code = backend.decode(
        np.zeros(stream_bytes(1, one.bits_per_vector), np.uint8), 1, 1, FORMATS["F32"], project_out=True
    )
    return float(-code.ravel()[0])


def _matrix(quantizer: Quantizer, *, project_out: bool) -> NDArray[np.float64] | None:
    """The matrix from a vector's code [B] to its decoded value [dim or B], without the bias; None for the identity."""
    matrix: NDArray[np.float64] | None = None
    if quantizer.has_rotation:
        rotation = quantizer.weights["orthogonal_rot"].astype(np.float64)
        matrix = np.asarray(np.kron(np.eye(quantizer.num_codebooks), rotation), np.float64)
    if project_out and quantizer.has_projections:
        weight = quantizer.weights["project_out.weight"].astype(np.float64)
        matrix = weight if matrix is None else weight @ matrix
    return matrix


def _bias(quantizer: Quantizer) -> floats.Floats | None:
    """project_out's bias [dim]; the biases of all groups, concatenated; the sum over stacked levels."""
    names = [f"{prefix}project_out.bias" for prefix in quantizer.projection_prefixes]
    found = [quantizer.weights[name] for name in names if name in quantizer.weights]
    if quantizer.stacked:
        return np.sum(found, axis=0, dtype=np.float32) if found else None
    return np.concatenate(found) if len(found) == len(names) else None
