"""Samples: the units of a data set, each with a key, from files that hold one or many; one module per container."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib import import_module
from pathlib import Path

from lfq_cli.samples.sample import BadSample, Sample, sample_of, small_sample_of
from lfq_cli.samples.selection import Selection

__all__ = [
    "CONTAINERS",
    "BadSample",
    "Sample",
    "Selection",
    "container_of",
    "sample_of",
    "samples_in",
    "small_sample_of",
    "stem_of",
]

CONTAINERS = {
    ".tar": "lfq_cli.samples.tar",
    ".tar.gz": "lfq_cli.samples.tar",
    ".tgz": "lfq_cli.samples.tar",
    ".parquet": "lfq_cli.samples.parquet",
}
"""suffix -> module with `read(path, name, selection) -> samples` of a file that holds many; imported when needed."""


_SUFFIXES = tuple(CONTAINERS)


def container_of(name: str) -> str | None:
    """The suffix in CONTAINERS that a file's name ends in; None for any other file."""
    name = name.lower()
    if not name.endswith(_SUFFIXES):
        return None
    return next(suffix for suffix in CONTAINERS if name.endswith(suffix))


def stem_of(name: str) -> str:
    """A file's name without the container's whole suffix: "a.tar.gz" -> "a"."""
    if not name.lower().endswith(_SUFFIXES):
        return os.path.splitext(name)[0]  # noqa: PTH122 - a path for each of a million names takes seconds
    return name[: -len(container_of(name) or "")]


def samples_in(path: Path, name: str, selection: Selection) -> Generator[Sample | BadSample]:
    """The samples of a file that holds many, in order; one that cannot be read is a BadSample.

    A container's samples have keys of their own. In any other file axis 0 of the tensors counts samples, with the keys
    `name/0`, `name/1`, .... Anything outside the selection may be left out. Raises TensorError if the file as a
    whole is at fault.
    """
    suffix = container_of(path.name)
    module = "lfq_cli.samples.stacked" if suffix is None else CONTAINERS[suffix]
    yield from import_module(module).read(path, name, selection)
