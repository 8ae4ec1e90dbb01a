"""A quantizer's codes -> tables in a tensor file."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from lfq_cli import backends, floats
from lfq_cli.errors import OptionError, OutputError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.floats import FORMATS
from lfq_cli.matching import MAX_VALUES
from lfq_cli.pipeline import Progress, write_table
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import bytes_of
from lfq_cli.tensors import Head, head_for

BIAS = "bias"


@dataclass(frozen=True)
class ExportPlan:
    """Tables to write: name -> the quantizer of the one codebook whose codes are its rows."""

    output: Path
    tables: dict[str, Quantizer]
    bias: floats.Floats | None
    head: Head
    nbytes: int
    first: int
    last: int
    dtype: str
    overwrite: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of everything that is written: tables [rows, features], and the bias."""
        return _shapes(self.tables, self.last - self.first, self.bias)


def plan_export(
    quantizer: Quantizer,
    output: Path,
    *,
    rows: tuple[int | None, int | None] = (None, None),
    dtype: str = "F32",
    project_out: bool = True,
    overwrite: bool = False,
) -> ExportPlan:
    """What an export would write. Raises OptionError for rows that are not there or a format that cannot hold it."""
    first, last = _row_range(rows, quantizer.codebook_size)
    if (last - first) * quantizer.dim * len(quantizer.codebook_dims) >= MAX_VALUES:
        raise OutputError(
            f"{output}: 2^{quantizer.codebook_dim} codes are more than any disk holds", "--range A:B exports a part"
        )
    tables = _tables(quantizer, project_out=project_out)
    bias = _bias(quantizer) if project_out else None
    shapes = _shapes(tables, last - first, bias)
    made_of = {"format": "lfq-codebook", "version": 1, "checkpoint_sha256": quantizer.digest, "rows": [first, last]}
    head = head_for(output, dtype, shapes, {"lfq": json.dumps(made_of, separators=(",", ":"))})
    nbytes = sum(prod(shape) for shape in shapes.values()) * FORMATS[dtype].itemsize
    refuse_existing(output, overwrite=overwrite)
    return ExportPlan(output, tables, bias, head, nbytes, first, last, dtype, overwrite)


def require_room(plan: ExportPlan) -> None:
    """Raises OutputError where the disk has less room than the plan needs."""
    folder = next(parent for parent in plan.output.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
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
        for part in plan.tables.values():
            backend = backends.select("cpu", part, "float32", decoding=True)
            with backend.working():
                write_table(file, backend, plan.first, plan.last, spec, progress)
        if plan.bias is not None:
            write_all(file, bytes_of(floats.from_float32(plan.bias, spec)))


def _shapes(tables: dict[str, Quantizer], rows: int, bias: floats.Floats | None) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {name: (rows, part.dim) for name, part in tables.items()}
    return shapes if bias is None else shapes | {BIAS: bias.shape}


def _row_range(rows: tuple[int | None, int | None], size: int) -> tuple[int, int]:
    first = 0 if rows[0] is None else rows[0]
    last = size if rows[1] is None else rows[1]
    if not 0 <= first < last <= size:
        raise OptionError(f"--range {first}:{last} is not within the codebook's rows 0:{size}")
    return first, last


def _tables(quantizer: Quantizer, *, project_out: bool) -> dict[str, Quantizer]:
    """Without projection every codebook has the same codes: one table. With it each has its columns of project_out.

    The levels of a residual quantizer have a table each, those of a group over the group's features.
    """
    if quantizer.is_residual:
        return _level_tables(quantizer, project_out=project_out)
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


def _bias(quantizer: Quantizer) -> floats.Floats | None:
    """project_out's bias [dim]; that of all groups, one after the other."""
    names = [f"{prefix}project_out.bias" for prefix in quantizer.group_prefixes]
    found = [quantizer.weights[name] for name in names if name in quantizer.weights]
    return np.concatenate(found) if len(found) == len(names) else None
