"""The tensors of a checkpoint file by name, read one at a time: what a whole model costs is its header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfq_cli import floats
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import CheckpointError
from lfq_cli.regions import bytes_of
from lfq_cli.storage.remote import open_input

FIRST = "lfq encode and lfq decode take the checkpoint first, then the inputs"

if TYPE_CHECKING:
    from lfq_cli.tensors import Source, StoredTensor
    from lfq_cli.torchfile.values import OddTensor


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a state dict. `read` gives its values as numpy holds them; floats come as float32."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    remedy: str = "save it in float32"
    """What to do where plain floats are needed and these are none."""


@dataclass(frozen=True)
class StateFile:
    """A checkpoint's tensors by their full dotted name, and what the file says in metadata.

    Wrappers ("state_dict", "module.", "_orig_mod.", "ema_model.", ...) stay part of the name: quantizers are found by
    the end of a name, wherever they are.
    """

    path: Path
    tensors: Mapping[str, StateTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def open_state(path: Path) -> StateFile:
    """The state dict in the file at `path`. Raises CheckpointError for what is damaged, code, or no state dict."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _from_safetensors(path)
    if suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return _from_torch(path)
    from lfq_cli.tensors import FORMATS

    if suffix in FORMATS:
        raise CheckpointError(f"{path}: is a file of tensors, expected a checkpoint", FIRST)
    raise CheckpointError(
        f"{path}: not a checkpoint format that lfq knows",
        "expected .safetensors, .pt, .pth, .ckpt, .bin, or a native folder",
    )


def _from_safetensors(path: Path) -> StateFile:
    from lfq_cli.tensors.safetensors import open_any  # a reader is imported when a file of its kind is opened

    return _state(open_any(open_input(path, CheckpointError), CheckpointError))


def _from_torch(path: Path) -> StateFile:
    from lfq_cli.tensors.torchfile import open_file  # a dozen modules that most checkpoints do without

    source = open_file(open_input(path, CheckpointError, staged=True), CheckpointError, sole="")
    if not source.tensors and not source.odd:
        source.close()
        raise CheckpointError(
            f"{path}: holds no tensors by name; {_listing(source.left_alone)}", "save the module's state_dict()"
        )
    return _state(source)


def _state(source: Source) -> StateFile:
    tensors = {
        name: StateTensor(found.dtype, found.shape, partial(_values, found)) for name, found in source.tensors.items()
    }
    odd = {
        name: StateTensor(found.kind, found.shape, partial(_refuse, name, found), found.remedy)
        for name, found in source.odd.items()
    }
    return StateFile(source.path, tensors | odd, source.metadata, source.close)


def _listing(others: Mapping[str, str]) -> str:
    """What a file without tensors holds instead."""
    shown = [f"{name!r} is {what}" if name else f"it is {what}" for name, what in list(others.items())[:3]]
    return ", ".join(shown) + (", ..." if len(others) > 3 else "") if others else "it is empty"


def _refuse(name: str, tensor: OddTensor) -> NDArray[Any]:
    raise CheckpointError(f"{name} is a {tensor.kind}, expected plain numbers", tensor.remedy)


def _values(tensor: StoredTensor) -> NDArray[Any]:
    """All values; floats as float32."""
    spec = floats.FORMATS.get(tensor.dtype)
    if spec is None and tensor.dtype not in NUMPY:
        raise CheckpointError(f"a tensor of {tensor.dtype} cannot be read")
    storage = NUMPY[tensor.dtype] if spec is None else spec.storage
    data = np.empty(tensor.shape, storage)
    tensor.region.read_into(0, bytes_of(data))
    return data if spec is None else floats.to_float32(data, spec)
