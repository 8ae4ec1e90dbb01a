"""What a pickle has besides plain containers, numbers and text: descriptions of tensors, and names of everything else.

All of it is plain data: no class is looked up, and no function is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lfq_cli.dtypes import OF_TORCH, TORCH_BYTES

MAX_AXES = 64
"""torch's own limit."""

FLOATS = frozenset(name for name in TORCH_BYTES if name.startswith(("F", "BF")) and name != "F8_E8M0")


class BrokenError(Exception):
    """This is not a complete file of torch.save; the text says what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function by name; never imported."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Its dotted name; where Python 2 or old versions of torch had another one, that of Python 3."""
        return f"{_RENAMED.get(self.module, self.module)}.{self.name}"


_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An object that only code could make, or that is not needed here: what it is, in words or by its class."""

    what: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Bytes that tensors share, by their key in the file.

    `start` counts bytes from the beginning of what the key names (in files of torch 0.4 and earlier, storages can be
    parts of others).
    """

    key: str
    dtype: str
    nbytes: int
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: where its elements are in a storage. offset and stride count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    negated: bool = False

    @property
    def span(self) -> int:
        """The number of elements from the first to the last, both included; 0 if there are none."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are in C order without gaps."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return 0 in self.shape
            expected *= size
        return True


@dataclass(frozen=True, slots=True, eq=False)
class OddTensor:
    """A tensor that is not a plain array of numbers: `kind` says what it is, `remedy` how to save it instead."""

    kind: str
    remedy: str
    shape: tuple[int, ...] = ()

    @property
    def what(self) -> str:
        """Both."""
        return f"{self.kind}: {self.remedy}"


def dtype_name(name: str) -> str:
    """The dtype that torch calls `name`."""
    return OF_TORCH.get(name, f"torch.{name}")


def view_of(
    storage: Any, offset: Any, shape: Any, stride: Any, *, dtype: str | None = None, negated: bool = False
) -> View:
    """The checked description of a tensor; dtype None: that of the storage. Raises BrokenError for an invalid one."""
    if not isinstance(storage, Storage):
        raise BrokenError("a tensor has no storage")
    named = storage.dtype if dtype is None else dtype
    if named not in TORCH_BYTES:
        raise BrokenError(f"a tensor is of the unknown dtype {named}")
    if type(offset) is not int or not 0 <= offset < 2**63:
        raise BrokenError("a tensor has an offset that is not a natural number")
    sizes, steps = sizes_of(shape), sizes_of(stride)
    if len(sizes) != len(steps):
        raise BrokenError(f"a tensor has {len(sizes)} sizes and {len(steps)} strides")
    view = View(storage, named, offset, sizes, steps, negated)
    if view.span and (offset + view.span) * TORCH_BYTES[named] > storage.nbytes:
        raise BrokenError(f"a tensor needs more bytes than storage {storage.key!r} has ({storage.nbytes})")
    return view


def sizes_of(value: Any) -> tuple[int, ...]:
    """A shape or strides. Raises BrokenError for anything else."""
    if not isinstance(value, tuple | list) or len(value) > MAX_AXES:
        raise BrokenError("a tensor has an invalid shape or invalid strides")
    if not all(type(size) is int and 0 <= size < 2**63 for size in value):
        raise BrokenError("a tensor has sizes or strides that are not natural numbers")
    return tuple(value)
