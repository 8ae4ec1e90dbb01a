"""Tar shards in WebDataset's layout: members KEY.npy, KEY.latent.npy, KEY.cls, KEY.json, ... one after the other.

A key is a member's path up to the first dot of its base name; the rest names the tensor or text: ".npy" and the other
tensor suffixes give "data" or, after a name (".latent.npy"), that name; ".cls" gives a number "cls", ".json" the text
"json" and its numbers and texts as "json.FIELD", ".txt" and similar suffixes a text.
Source: github.com/webdataset/webdataset, README, "The WebDataset Format".
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import InputFile
from lfq_cli.samples.sample import MAX_SAMPLE_BYTES, BadSample, Sample, number, small_tensors
from lfq_cli.samples.selection import Selection
from lfq_cli.signatures import AGAIN, unreadable
from lfq_cli.storage.remote import open_input
from lfq_cli.tensors import FORMATS, SOLE_TENSOR, StoredTensor

TEXTS = frozenset({"txt", "text", "caption", "transcript", "json", "cls"})
_BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)
"""What tarfile and gzip raise for damaged archives."""
_BLOCK = 512
_READ_BYTES = 1 << 20


class _BadMemberError(LfqError):
    """A member that is not part of a sample, or a damaged one; the text does not name the file."""


_Bytes = Callable[[tarfile.TarInfo], bytes]


def read(path: Path, _: str, selection: Selection) -> Generator[Sample | BadSample]:
    """The samples in the order of the archive. Raises TensorError if it ends early or is damaged."""
    file = open_input(path, TensorError)
    samples = _of_plain if path.name.lower().endswith(".tar") else _of_gzip
    try:
        yield from samples(file, takes_labels=selection.takes_labels)
    except _BROKEN as reason:
        raise unreadable(file, "a tar archive", reason, TensorError) from reason
    finally:
        file.close()


def _of_plain(file: InputFile, *, takes_labels: bool) -> Iterator[Sample | BadSample]:
    with tarfile.open(fileobj=file.file, mode="r:") as archive:
        # the member's own file object would take longer than the bytes
        yield from _samples(
            file.path, archive, lambda member: file.read(member.offset_data, member.size), takes_labels=takes_labels
        )
        end = file.read(archive.offset, min(_BLOCK, max(file.size - archive.offset, 0)))
        _require_end(file.path, end)


def _of_gzip(file: InputFile, *, takes_labels: bool) -> Iterator[Sample | BadSample]:
    with gzip.GzipFile(fileobj=file.file) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        yield from _samples(file.path, archive, partial(_member_bytes, archive), takes_labels=takes_labels)
        inner: Any = archive.fileobj  # tarfile's own, which counts the bytes read
        _require_end(file.path, bytes(_BLOCK) if inner.tell() >= archive.offset + _BLOCK else b"")
        while stream.read(_READ_BYTES):
            pass  # to the end, where gzip compares its checksum


def _member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _require_end(path: Path, end: bytes) -> None:
    """Raises TensorError unless a block of zeros marks the end: without it members may be missing."""
    if len(end) != _BLOCK or any(end):
        raise TensorError(f"{path}: not a whole tar archive: its end-of-archive mark is missing", AGAIN)


def _samples(
    path: Path, archive: tarfile.TarFile, bytes_of: _Bytes, *, takes_labels: bool
) -> Iterator[Sample | BadSample]:
    """Adjacent members with the same key form a sample; labels are read only where they are carried."""
    builder: _Builder | None = None
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it keeps all it has seen
        if member.isdir():
            continue
        key, name = _split(member.name)
        if not name or os.path.basename(member.name).startswith(".") or member.name.startswith("__"):  # noqa: PTH119
            continue  # no extension, hidden, or one of WebDataset's own notes
        if not takes_labels and name.rpartition(".")[2].lower() in TEXTS:
            continue
        if builder is None or builder.key != key:
            if builder is not None:
                yield builder.done()
            builder = _Builder(path, key)
        builder.add(name, member, bytes_of)
    if builder is not None:
        yield builder.done()


def _split(path: str) -> tuple[str, str]:
    """(key, what follows the dot): "a/b.c.npy" -> "a/b", "c.npy"."""
    folder, base = os.path.split(path)  # a path object takes longer than reading the member
    if folder:
        folder = os.path.normpath(folder).replace("//", "/")
    stem, _, name = base.partition(".")
    return (f"{folder}/{stem}" if folder not in ("", ".") else stem), name


class _Builder:
    """A sample being assembled; its first bad member makes it a bad one."""

    def __init__(self, path: Path, key: str) -> None:
        self.key = key
        self._path = path
        self._where = f"{path}: {key!r}"
        self._tensors: dict[str, StoredTensor] = {}
        self._texts: dict[str, str] = {}
        self._error: LfqError | None = None

    def done(self) -> Sample | BadSample:
        if self._error is not None:
            return BadSample(self.key, self._error)
        return Sample(self.key, self._where, self._tensors, self._texts)

    def add(self, name: str, member: tarfile.TarInfo, bytes_of: _Bytes) -> None:
        try:
            self._add(name, member, bytes_of)
        except LfqError as error:
            text = error.message if error.message.startswith(f"{self._path}: ") else f"{self._where}: {error.message}"
            self._error = self._error or TensorError(text, error.hint)

    def _add(self, name: str, member: tarfile.TarInfo, bytes_of: _Bytes) -> None:
        if not member.isreg() or member.issparse():
            raise _BadMemberError(f"{member.name!r} is {_type_name(member)}, expected a plain file")
        suffix = name.rpartition(".")[2].lower()
        if f".{suffix}" not in FORMATS and suffix not in TEXTS:
            return
        if member.size > MAX_SAMPLE_BYTES:
            raise _BadMemberError(f"{member.name!r} has {member.size / 2**30:.3g} GiB, a sample has 1 GiB at most")
        data = bytes_of(member)
        if f".{suffix}" in FORMATS:
            self._add_tensors(name, member.name, data)
        else:
            self._add_text(name, suffix, data)

    def _add_tensors(self, name: str, member: str, data: bytes) -> None:
        prefix = name.rpartition(".")[0]
        for found, tensor in small_tensors(f"{self._path}: {member}", data).items():
            parts = [prefix] if found == SOLE_TENSOR and prefix else [prefix, found] if prefix else [found]
            self._put(self._tensors, ".".join(parts), tensor)

    def _add_text(self, name: str, suffix: str, data: bytes) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as reason:
            raise _BadMemberError(f"{name!r} is not UTF-8: {reason}") from reason
        if suffix == "cls":
            self._put(self._tensors, name, _class(name, text))
            return
        self._put(self._texts, name, text)
        if suffix == "json":
            self._add_fields(name, text)

    def _add_fields(self, name: str, text: str) -> None:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as reason:
            raise _BadMemberError(f"{name!r} is not JSON: {reason}") from reason
        for field, value in fields.items() if isinstance(fields, dict) else ():
            if isinstance(value, str):
                self._put(self._texts, f"{name}.{field}", value)
            elif isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
                self._put(self._tensors, f"{name}.{field}", number(f"{name}.{field}", value))

    @staticmethod
    def _put(held: dict[str, Any], name: str, value: Any) -> None:
        if name in held:
            raise _BadMemberError(f"has {name!r} twice")
        held[name] = value


def _class(name: str, text: str) -> StoredTensor:
    try:
        return number(name, int(text))
    except (ValueError, OverflowError) as reason:
        raise _BadMemberError(f"{name!r} holds {text[:40]!r}, expected an integer of 64 bits") from reason


def _type_name(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    return "a sparse file" if member.issparse() else "a device or pipe"
