"""The file of an unfinished run: a safetensors file with everything that `lfq train --resume` needs.

Its metadata entry "lfq" is `{"format": "lfq-training", "version": 1, "recipe", "data", "facts", "history"}`. The arrays
are stored in float32 unchanged, so the resumed run is the same run, bit for bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfq_cli.container import header_bytes, read_header
from lfq_cli.errors import CheckpointError
from lfq_cli.files import atomic_output, write_all
from lfq_cli.storage.remote import open_input
from lfq_cli.training.levels import Levels
from lfq_cli.training.run import State, history_from

FORMAT, VERSION = "lfq-training", 1
SUFFIX = ".run.safetensors"


@dataclass(frozen=True)
class SavedRun:
    """A saved run.

    recipe: as JSON. data: a digest of the inputs. A resumed run must have the same two. facts: results from before the
    first step.
    """

    recipe: dict[str, Any]
    data: str
    facts: dict[str, Any]
    state: State


def path_beside(output: Path) -> Path:
    """Where an unfinished run for `output` is saved."""
    return output.with_name(output.name.removesuffix(".safetensors") + SUFFIX)


def write_run(saved: SavedRun, path: Path) -> None:
    """Replaces the file at `path` atomically. Raises OutputError if it cannot be written."""
    arrays = {name: tensor.numpy() for name, tensor in saved.state.tensors.items()}
    arrays |= {f"best.{name}": array.cpu().numpy() for name, array in saved.state.best.arrays().items()}
    described = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": saved.recipe,
        "data": saved.data,
        "facts": saved.facts,
        "history": [each.as_json() for each in saved.state.history],
    }
    shapes = {name: ("F32", array.shape) for name, array in arrays.items()}
    with atomic_output(path, overwrite=True, nbytes=sum(array.nbytes for array in arrays.values())) as file:
        write_all(file, header_bytes({"lfq": json.dumps(described)}, shapes))
        for array in arrays.values():
            write_all(file, np.ascontiguousarray(array, "<f4").tobytes())


def read_run(path: Path) -> SavedRun:
    """The run saved at `path`. Raises CheckpointError if there is none, or it is not complete."""
    file = open_input(path, CheckpointError)
    try:
        header = read_header(file, CheckpointError)
        arrays = {}
        for name, entry in header.entries.items():
            array = np.frombuffer(file.read(entry.start, entry.nbytes), "<f4").reshape(entry.shape)
            arrays[name] = torch.from_numpy(array.copy())
    finally:
        file.close()
    try:
        described = json.loads(header.metadata["lfq"])
        if (described["format"], described["version"]) != (FORMAT, VERSION):
            raise ValueError(described["format"], described["version"])
        best = Levels(**{name.removeprefix("best."): a for name, a in arrays.items() if name.startswith("best.")})
        tensors = {name: array for name, array in arrays.items() if not name.startswith("best.")}
        state = State(tensors, best, history_from(described["history"]))
        return SavedRun(described["recipe"], described["data"], described["facts"], state)
    except (ValueError, KeyError, TypeError, RecursionError) as reason:
        raise CheckpointError(
            f"{path}: not a run that this lfq can resume: {reason}", "start again with --overwrite"
        ) from reason
