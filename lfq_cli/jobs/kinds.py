"""What a file is, by its name and header: how a folder's files are sorted out."""

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
    """Whether a folder's file is one to encode: a container lfq knows that calls itself nothing else of lfq's."""
    name = path.lower()
    suffix = name[max(name.rfind("."), 0) :]
    if suffix != ".safetensors":
        return suffix in FORMATS or container_of(name) is not None
    if path.endswith(codesfile.SUFFIX):
        return False
    from lfq_cli import countsfile  # late, as below: with it come all statistics

    return described_format(path_of(path)) not in (codesfile.FORMAT, native.FORMAT, countsfile.FORMAT, _TRAINING)


def is_codes_file(path: str) -> bool:
    """Whether a folder's file is one to decode or count. A damaged one is, if its name says so."""
    if path.endswith(codesfile.SUFFIX):
        return True
    return path.endswith(".safetensors") and described_format(path_of(path)) == codesfile.FORMAT


def is_counted_file(path: str) -> bool:
    """Whether a folder's file is one to take statistics of: codes, or counts that were saved."""
    if is_codes_file(path):
        return True
    from lfq_cli import countsfile

    return path.endswith(".safetensors") and described_format(path_of(path)) == countsfile.FORMAT


def described_format(path: Path) -> str | None:
    """What a safetensors file's metadata calls it ("lfq-codes", "lfq-checkpoint", ...); None where it says nothing."""
    try:
        value: Any = json.loads(metadata_entry(path, "lfq") or "null")
    except (ValueError, RecursionError):
        return None
    return value["format"] if isinstance(value, dict) and isinstance(value.get("format"), str) else None
