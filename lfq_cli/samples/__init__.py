"""Samples: what a data set consists of, each with a key, from files that hold one or many; one module a container."""

from __future__ import annotations

from collections.abc import Generator
from importlib import import_module
from pathlib import Path

from lfq_cli.samples.sample import BadSample, Sample, sample_of

__all__ = ["CONTAINERS", "BadSample", "Sample", "container_of", "samples_in"]

CONTAINERS = {
    ".tar": "lfq_cli.samples.tar",
    ".tar.gz": "lfq_cli.samples.tar",
    ".tgz": "lfq_cli.samples.tar",
    ".parquet": "lfq_cli.samples.parquet",
}
"""suffix -> module with `read(path, columns) -> samples` of a file that holds many; imported when one is opened."""


def container_of(path: Path) -> str | None:
    """The suffix in CONTAINERS that the file's name ends in; None for any other file."""
    name = path.name.lower()
    return next((suffix for suffix in CONTAINERS if name.endswith(suffix)), None)


def samples_in(path: Path, key: str, *, stacked: bool = False) -> Generator[Sample | BadSample]:
    """The samples of the file at `path`, in its order.

    Of a container's each has its own key. Of a tensor file the only one is called `key`; with `stacked` axis 0 of all
    its tensors counts samples, which are called `key/0`, `key/1`, .... A sample that cannot be read is a BadSample.
    Raises TensorError for what is wrong with the file as a whole.
    """
    suffix = container_of(path)
    if suffix is not None:
        yield from import_module(CONTAINERS[suffix]).read(path, key)
    elif stacked:
        from lfq_cli.samples.stacked import read

        yield from read(path, key)
    else:
        yield sample_of(path, key)
