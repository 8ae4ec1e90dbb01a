"""The native checkpoint, version 1: a safetensors file, or a folder with config.json and model.safetensors.

The file's metadata entry "lfq" is `{"format": "lfq-checkpoint", "version": 1, "config": {...}}`; a folder's config.json
holds the same object. Optional entries are `assumed`, the config keys whose values are not certain; `sha256`, the
quantizer's digest; and `training`, how `lfq train` made the checkpoint, with the held-out metrics. The tensors are the
quantizer's weights under the reference's state-dict names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli.container import header_bytes
from lfq_cli.errors import CheckpointError, OptionError
from lfq_cli.files import atomic_output, refuse_existing, write_all
from lfq_cli.quantizer import Quantizer, from_config

FORMAT = "lfq-checkpoint"
VERSION = 1
CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"
_OTHER_FILES = (".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz", ".h5", ".hdf5", ".json")
_TRAINING_DEPTH = 4
"""Nesting of what `lfq train` records: training, tries, one try, its shape."""


def write(
    quantizer: Quantizer, path: Path, *, overwrite: bool = False, training: Mapping[str, Any] | None = None
) -> None:
    """Writes `quantizer` to the file `path` if its name ends in .safetensors, else to a folder of that name.

    Facts that are only assumed are written with their values and listed as assumed. training: how it was made, for the
    record. Raises OutputError if something is in the way.
    """
    described = describe(quantizer) | ({} if training is None else {"training": dict(training)})
    refuse_existing_checkpoint(path, overwrite=overwrite)
    if path.suffix == ".safetensors":
        _write_model(quantizer, path, {"lfq": json.dumps(described)}, overwrite=overwrite)
        return
    if overwrite:
        (path / CONFIG_NAME).unlink(missing_ok=True)  # a crash in between leaves no old config beside a new model
    _write_model(quantizer, path / MODEL_NAME, {}, overwrite=overwrite)
    with atomic_output(path / CONFIG_NAME, overwrite=overwrite) as file:
        write_all(file, (json.dumps(described, indent=2) + "\n").encode())


def refuse_existing_checkpoint(path: Path, *, overwrite: bool = False) -> None:
    """Raises OutputError if `write` would have to replace something and `overwrite` is not set, and OptionError for the
    name of another kind of file, which would become a folder.
    """
    if path.suffix.lower() in _OTHER_FILES and not path.is_dir():
        raise OptionError(
            f"{path}: a native checkpoint is a .safetensors file or a folder, not a {path.suffix} file",
            f"name it {path.with_suffix('.safetensors').name}",
        )
    for file in written_files(path):
        refuse_existing(file, overwrite=overwrite)


def written_files(path: Path) -> list[Path]:
    """The files that `write` makes for a checkpoint at `path`."""
    return [path] if path.suffix == ".safetensors" else [path / MODEL_NAME, path / CONFIG_NAME]


def describe(quantizer: Quantizer) -> dict[str, Any]:
    """The JSON object that identifies and describes a native checkpoint."""
    described = {"format": FORMAT, "version": VERSION, "config": quantizer.full_config()}
    described |= {"assumed": sorted(quantizer.assumed)} if quantizer.assumed else {}
    return described | {"sha256": quantizer.digest}


def is_native(description: Any) -> bool:
    """Whether a parsed JSON value claims to describe a native checkpoint."""
    return isinstance(description, dict) and description.get("format") == FORMAT


def parse(description: dict[str, Any], tensors: Mapping[str, NDArray[np.float32]]) -> Quantizer:
    """The quantizer of a native description and its tensors; a `mask` buffer among these is ignored.

    Raises CheckpointError for another version, a malformed description, and a sha256 that does not match.
    """
    version, config = description.get("version"), description.get("config")
    if version != VERSION or type(version) is not int:
        raise CheckpointError(
            f"native checkpoint of version {version!r}, this lfq reads version {VERSION}", "update lfq"
        )
    if not isinstance(config, dict):
        raise CheckpointError("native checkpoint without a config object")
    assumed = description.get("assumed", [])
    if not isinstance(assumed, list) or not all(isinstance(fact, str) for fact in assumed):
        raise CheckpointError("native checkpoint: 'assumed' must be a list of names")
    quantizer = from_config(config, tensors, assumed)
    if description.get("sha256", quantizer.digest) != quantizer.digest:
        raise CheckpointError(
            "damaged: the sha256 of its config and tensors is not the one it states",
            "restore it from a copy; if it was changed on purpose, remove the entry 'sha256'",
        )
    return quantizer


def training_of(description: dict[str, Any]) -> dict[str, Any] | None:
    """The record of `lfq train` in a native description; None if it has none.

    Raises CheckpointError if that is not an object, or nested more deeply than `lfq train` writes.
    """
    training = description.get("training")
    if training is not None and not (isinstance(training, dict) and _is_flat(training, _TRAINING_DEPTH)):
        raise CheckpointError(
            f"native checkpoint: 'training' must be an object with at most {_TRAINING_DEPTH} levels of nesting"
        )
    return training


def _is_flat(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)


def _write_model(quantizer: Quantizer, path: Path, metadata: dict[str, str], *, overwrite: bool) -> None:
    shapes = {name: ("F32", weight.shape) for name, weight in quantizer.weights.items()}
    with atomic_output(path, overwrite=overwrite) as file:
        write_all(file, header_bytes(metadata, shapes))
        for weight in quantizer.weights.values():
            write_all(file, np.ascontiguousarray(weight, "<f4").tobytes())
