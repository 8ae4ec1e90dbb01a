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
from lfq_cli.container import DTYPES, Entry, read_header
from lfq_cli.errors import CheckpointError
from lfq_cli.regions import InputFile
from lfq_cli.torchload import dtype_name, is_blown_up, is_plain, load_weights_only, named_values

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a state dict. `read` gives its values as numpy holds them; floats come as float32."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_state(path: Path) -> StateFile:
    """The state dict in the file at `path`. Raises CheckpointError for what is damaged, code, or no state dict."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _from_safetensors(path)
    if suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return _from_torch(path)
    raise CheckpointError(
        f"{path}: not a checkpoint lfq knows", "expected .safetensors, .pt, .pth, .ckpt, .bin, or a native folder"
    )


def _from_safetensors(path: Path) -> StateFile:
    file = InputFile(path, CheckpointError)
    with file.closed_on_error():
        header = read_header(file, CheckpointError)
    tensors = {
        name: StateTensor(entry.dtype, entry.shape, partial(_read_entry, file, entry))
        for name, entry in header.entries.items()
    }
    return StateFile(path, tensors, header.metadata, file.close)


def _read_entry(file: InputFile, entry: Entry) -> NDArray[Any]:
    data = np.frombuffer(file.read(entry.start, entry.nbytes), np.uint8)
    if entry.dtype in floats.FORMATS:
        spec = floats.FORMATS[entry.dtype]
        return floats.to_float32(data.view(spec.storage).reshape(entry.shape), spec)
    return data.view(DTYPES[entry.dtype]).reshape(entry.shape)


def _from_torch(path: Path) -> StateFile:
    file = InputFile(path, CheckpointError)
    try:
        held = load_weights_only(file, CheckpointError)
    finally:
        file.close()
    flat = {
        name: value
        for name, value in named_values(file, held, "", CheckpointError).items()
        if is_plain(value) and not is_blown_up(value)
    }
    if not flat:
        raise CheckpointError(f"{path}: holds no tensors by name", "save the module's state_dict()")
    tensors = {
        name: StateTensor(dtype_name(value), tuple(value.shape), partial(_to_numpy, value))
        for name, value in flat.items()
    }
    return StateFile(path, tensors)


def _to_numpy(tensor: Tensor) -> NDArray[Any]:
    plain = tensor.detach().resolve_neg().resolve_conj()
    values: NDArray[Any] = (plain.float() if plain.is_floating_point() else plain).contiguous().numpy()
    return values
