"""The files that samples come from, kept as names: there may be millions."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, overload

from lfq_cli.samples import container_of, stem_of
from lfq_cli.storage.urlpath import path_of


class SampleInput(NamedTuple):
    """A file with one sample, whose key is `name`; or with `many`, whose keys may start with `name`."""

    where: str
    name: str
    many: bool = False

    @property
    def path(self) -> Path:
        """Its path."""
        return path_of(self.where)


class Names(Sequence[str]):
    """Names of files, as their bytes and 8 more each: a third of the memory of a list."""

    def __init__(self, names: Sequence[str]) -> None:
        self._letters = "".join(names)
        self._ends = array("q", accumulate(map(len, names)))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._letters[self._ends[index - 1] if index else 0 : self._ends[index]]


class SampleInputs(Sequence[SampleInput]):
    """Inputs of samples in order, folder by folder."""

    def __init__(self, folders: Iterable[tuple[str, str, Sequence[str]]], *, stacked: bool) -> None:
        """folders: (path, prefix of its keys, names of its files)."""
        self._folders = [("" if folder == "." else folder, place, Names(names)) for folder, place, names in folders]
        self._stacked = stacked
        self._ends = list(accumulate(len(names) for *_, names in self._folders))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> SampleInput: ...

    @overload
    def __getitem__(self, index: slice) -> list[SampleInput]: ...

    def __getitem__(self, index: int | slice) -> SampleInput | list[SampleInput]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        number = bisect_right(self._ends, index)
        folder, place, names = self._folders[number]
        return self._input(folder, place, names[index - self._ends[number] + len(names)])

    def __iter__(self) -> Iterator[SampleInput]:
        for folder, place, names in self._folders:
            for name in names:
                yield self._input(folder, place, name)

    def _input(self, folder: str, place: str, file: str) -> SampleInput:
        name, many = stem_of(file), self._stacked or container_of(file) is not None
        return SampleInput(os.path.join(folder, file), f"{place}/{name}" if place else name, many)  # noqa: PTH118

    def paths(self) -> Iterator[Path]:
        """Their paths."""
        return (item.path for item in self)

    def named(self, suffix: str) -> Iterator[Path]:
        """The paths of files whose names end in `suffix`."""
        for folder, _, names in self._folders:
            yield from (path_of(folder) / name for name in names if name.endswith(suffix))
