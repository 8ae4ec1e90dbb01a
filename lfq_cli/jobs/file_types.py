"""The type of a file by its name and header, by which the files of a folder are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lfq_cli import codesfile, native
from lfq_cli.container import metadata_entry
from lfq_cli.samples import container_of
from lfq_cli.storage.urlpath import path_of
from lfq_cli.tensors import FORMATS

_TRAINING = "lfq-training"
"""What `training.runfile` calls a run that was saved; not imported from there, which would import torch."""


def is_tensor_file(path: str) -> bool:
    """Whether a file in a folder is to be encoded: a container lfq reads that is not another type of lfq file."""
    name = path.lower()
    suffix = name[max(name.rfind("."), 0) :]
    if suffix != ".safetensors":
        return suffix in FORMATS or container_of(name) is not None
    if path.endswith(codesfile.SUFFIX):
        return False
    from lfq_cli import countsfile  # late, as below: it imports all statistics

    return described_format(path_of(path)) not in (codesfile.FORMAT, native.FORMAT, countsfile.FORMAT, _TRAINING)


def is_codes_file(path: str) -> bool:
    """Whether a file in a folder is to be decoded or counted. A damaged one is, judged by its name."""
    if path.endswith(codesfile.SUFFIX):
        return True
    return path.endswith(".safetensors") and described_format(path_of(path)) == codesfile.FORMAT


def is_counted_file(path: str) -> bool:
    """Whether a file in a folder is to be counted: codes, or saved counts."""
    if is_codes_file(path):
        return True
    from lfq_cli import countsfile

    return path.endswith(".safetensors") and described_format(path_of(path)) == countsfile.FORMAT


def described_format(path: Path) -> str | None:
    """The format in a safetensors file's metadata ("lfq-codes", "lfq-checkpoint", ...); None if it has none."""
    try:
        value: Any = json.loads(metadata_entry(path, "lfq") or "null")
    except (ValueError, RecursionError):
        return None
    return value["format"] if isinstance(value, dict) and isinstance(value.get("format"), str) else None
