"""Codes as the files that trainers read: one module per format (docs/export.md)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FORMATS = {
    "bin": "lfq_cli.exports.flat",
    "megatron": "lfq_cli.exports.megatron",
    "webdataset": "lfq_cli.exports.webdataset",
    "parquet": "lfq_cli.exports.parquet",
    "mds": "lfq_cli.exports.mds",
    "npy": "lfq_cli.exports.arrays",
}
"""Name -> module with `FORMAT`, a `lfq_cli.exports.format.Format`; imported when it is written."""


def format_of(name: str) -> Any:
    """The Format called `name` in FORMATS."""
    return import_module(FORMATS[name]).FORMAT
