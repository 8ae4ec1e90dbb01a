"""Tensor files whose first axis counts samples: read a run of items at a time, where the file allows random access."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

from lfq_cli.container import tensor_bytes
from lfq_cli.errors import TensorError
from lfq_cli.regions import MemoryRegion
from lfq_cli.samples.sample import MAX_SAMPLE_BYTES, Sample
from lfq_cli.samples.selection import Selection
from lfq_cli.tensors import Source, StoredTensor, open_source

_RUN_BYTES = 1 << 22


def read(path: Path, key: str, selection: Selection) -> Generator[Sample]:
    """A sample for every item of axis 0, with the keys `key/0`, .... Raises TensorError if tensors differ in
    length.
    """
    with open_source(path) as source:
        selected = _selected(source, selection)
        count = _count(source.path, selected)
        item_bytes = {name: _item_bytes(source, tensor, count) for name, tensor in selected.items()}
        at_once = max(1, _RUN_BYTES // max(sum(item_bytes.values()), 1))
        for first in range(0, count, at_once):
            last = min(first + at_once, count)
            runs = {name: _run(selected[name], nbytes, first, last) for name, nbytes in item_bytes.items()}
            for index in range(last - first):
                tensors = {
                    name: StoredTensor(
                        name,
                        selected[name].dtype,
                        selected[name].shape[1:],
                        MemoryRegion(run[index * item_bytes[name] : (index + 1) * item_bytes[name]]),
                    )
                    for name, run in runs.items()
                }
                number = first + index
                yield Sample(f"{key}/{number}", f"{path}: sample {number}", tensors)


def _selected(source: Source, selection: Selection) -> dict[str, StoredTensor]:
    """The tensors to encode or carry; all tensors if there are none, so the sample's error can name them."""
    selected = {
        name: tensor
        for name, tensor in source.tensors.items()
        if selection.carries(name) or selection.encodes(name, tensor.dtype, is_number=False)
    }
    return selected or source.tensors


def _count(path: Path, tensors: Mapping[str, StoredTensor]) -> int:
    lengths = {name: tensor.shape[:1] for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        shapes = ", ".join(f"{name!r} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise TensorError(
            f"{path}: its tensors have different numbers of samples on axis 0: {shapes}",
            "--tensor and --carry choose among them; without --stacked the file is one sample",
        )
    return next(iter(lengths.values()))[0] if lengths else 0


def _item_bytes(source: Source, tensor: StoredTensor, count: int) -> int:
    nbytes = tensor_bytes(tensor.dtype, tensor.shape) // max(count, 1)
    if nbytes > MAX_SAMPLE_BYTES:
        raise TensorError(
            f"{source.path}: one item of {tensor.name!r} has {nbytes / 2**30:.3g} GiB, expected 1 at most"
        )
    return nbytes


def _run(tensor: StoredTensor, item_bytes: int, first: int, last: int) -> memoryview:
    data = memoryview(bytearray((last - first) * item_bytes))
    tensor.region.read_into(first * item_bytes, data)
    return data
