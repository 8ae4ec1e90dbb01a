"""Which samples of which codes files go into which output: in order, starting the next output when one is full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfq_cli import codesfile
from lfq_cli.codesfile import CodesFile, CodesHeader, MadeFrom
from lfq_cli.codesfile.header import HEADER_DIGEST
from lfq_cli.codesfile.reader import Stored
from lfq_cli.errors import CodesFileError, CodesUnreadableError
from lfq_cli.jobs.agreement import require_compatible, require_samples
from lfq_cli.jobs.draft import Limits
from lfq_cli.pipeline.merge import Part, StoredFile
from lfq_cli.pipeline.survey import key_at, sizes_of, survey
from lfq_cli.regions import InputFile
from lfq_cli.storage.remote import open_input
from lfq_cli.wording import counted


@dataclass(frozen=True)
class Member:
    """An input. digest: of its header, which covers all its content."""

    path: Path
    state: tuple[int, ...]
    nbytes: int
    digest: str
    count: int
    made_from: MadeFrom
    stored: dict[str, Stored]


@dataclass(frozen=True)
class Piece:
    """Samples of an input."""

    member: Member
    part: Part


@dataclass
class Group:
    """What one output holds. like: the header of an input, which differs from the output's only in counts."""

    like: CodesHeader
    pieces: list[Piece] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of samples."""
        return sum(piece.part.last - piece.part.first for piece in self.pieces)


def regroup(paths: Sequence[Path], limits: Limits) -> list[Group]:
    """Reads headers, keys and offsets of all inputs, and decides which samples go where.

    Raises CodesFileError if an input cannot be read, is of another kind than the first, or repeats a key.
    """
    members: list[Member] = []
    hashes: list[NDArray[np.uint64]] = []
    groups: list[Group] = []
    cutter = _Cutter(limits)
    like: CodesHeader | None = None
    for path in paths:
        with codesfile.open_codes(path) as codes:
            require_samples(path, codes.header)
            if like is None:
                like = codes.header.without_digests()
            else:
                require_compatible(path, codes.header, paths[0], like)
            member = _member_of(codes)
            found = survey(codes)
            sizes = None if limits.nbytes is None else sizes_of(codes, found.offsets)
        members.append(member)
        hashes.append(found.key_hashes)
        for first, last, is_new in cutter.cut(member.count, sizes):
            if is_new:
                groups.append(Group(like))
            extents = {name: (int(ends[first]), int(ends[last])) for name, ends in found.offsets.items()}
            groups[-1].pieces.append(Piece(member, Part(first, last, member.count, extents)))
    _refuse_equal_keys(members, hashes)
    return groups


def _member_of(codes: CodesFile) -> Member:
    header = codes.header
    assert header.samples is not None
    assert header.made_from is not None
    digest = header.as_json()[HEADER_DIGEST]
    return Member(codes.path, codes.state, codes.nbytes, digest, header.samples.count, header.made_from, codes.stored)


class _Cutter:
    """Decides which samples begin a new output: a full one takes no more, an empty one takes any."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._has_begun = False
        self._taken = 0
        self._nbytes = 0

    def cut(self, count: int, sizes: NDArray[np.int64] | None) -> Iterator[tuple[int, int, bool]]:
        """(first, last, whether they begin an output) for each run of an input's samples. sizes: of each sample, in
        bytes.
        """
        ends = np.zeros(count + 1, np.int64) if sizes is None else np.concatenate(([0], np.cumsum(sizes)))
        first, is_new = 0, not self._has_begun
        while True:
            self._has_begun = True
            last = first + self._room(count - first, ends[first:])
            if last > first or is_new or count == 0:
                yield first, last, is_new
            self._taken += last - first
            self._nbytes += int(ends[last] - ends[first])
            if last == count:
                return
            first, is_new = last, True
            self._taken = self._nbytes = 0

    def _room(self, count: int, ends: NDArray[np.int64]) -> int:
        """How many of the next samples go into the output under way."""
        room = count
        if self._limits.samples is not None:
            room = min(room, self._limits.samples - self._taken)
        if self._limits.nbytes is not None:
            end = ends[0] + self._limits.nbytes - self._nbytes
            fitting = int(np.searchsorted(ends, end, side="right")) - 1
            room = min(room, max(fitting, 0 if self._taken else 1))
        return room


def _refuse_equal_keys(members: Sequence[Member], hashes: Sequence[NDArray[np.uint64]]) -> None:
    """Raises CodesFileError if two samples have one key."""
    every = np.concatenate(hashes)
    if (np.diff(np.sort(every)) != 0).all():
        return
    order = np.argsort(every, kind="stable")
    ascending = every[order]
    same = np.flatnonzero(np.diff(ascending) == 0)
    starts = np.cumsum([0, *(len(each) for each in hashes)])
    for k in same[np.argsort(order[same + 1])]:
        other, key = _key_of(members, starts, int(order[k + 1]))
        for index in order[np.searchsorted(ascending, ascending[k]) : k + 1]:
            one, first_key = _key_of(members, starts, int(index))
            if first_key == key:  # and not two keys with the same hash
                raise _equal_keys(one, other, key, len(same) - 1)


def _equal_keys(one: Path, other: Path, key: str, others: int) -> CodesFileError:
    where = f"{one} holds two samples" if one == other else f"{one} and {other} both hold a sample"
    more = f" (and {counted(others, 'more repeated key')})" if others else ""
    return CodesFileError(
        f"{where} with the key {key!r}{more}", "leave one of the files out, or encode one of them under other names"
    )


def _key_of(members: Sequence[Member], starts: NDArray[np.int64], index: int) -> tuple[Path, str]:
    number = int(np.searchsorted(starts, index, side="right")) - 1
    with codesfile.open_codes(members[number].path) as codes:
        refuse_change(codes, members[number].state)
        return codes.path, key_at(codes, index - int(starts[number]))


@contextmanager
def reopened(path: Path, state: tuple[int, ...], stored: Mapping[str, Stored]) -> Iterator[StoredFile]:
    """A codes file, opened again. Raises CodesFileError if it has changed, at opening or by the end."""
    file = open_input(path, CodesFileError, CodesUnreadableError)
    try:
        refuse_change(file, state)
        yield StoredFile(file, stored)
        refuse_change(file, state)
    finally:
        file.close()


def refuse_change(file: InputFile | CodesFile, state: tuple[int, ...]) -> None:
    """Raises CodesFileError if the input was written to or replaced since it was first read."""
    if file.state != state:
        raise CodesFileError(f"{file.path}: changed while it was read", "run again when nothing is writing to it")
