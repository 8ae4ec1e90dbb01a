"""Tar shards in WebDataset's habit: members KEY.npy, KEY.latent.npy, KEY.cls, KEY.json, ... one after the other.

A key is a member's path up to the first dot of its base name; what follows names the tensor or text: ".npy" and the
other tensor files give "data" or, behind a name (".latent.npy"), that name; ".cls" gives a number "cls", ".json" the
text "json" and its numbers and texts as "json.FIELD", ".txt" and others of their kind a text.
Source: github.com/webdataset/webdataset, README, "The WebDataset Format".
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lfq_cli.errors import LfqError, TensorError
from lfq_cli.regions import InputFile
from lfq_cli.samples.sample import MAX_SAMPLE_BYTES, BadSample, Sample, in_memory, number
from lfq_cli.tensors import FORMATS, SOLE_TENSOR, StoredTensor, open_bytes

TEXTS = frozenset({"txt", "text", "caption", "transcript", "json", "cls"})
_BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)
"""What tarfile and gzip raise for damaged archives."""
_BLOCK = 512


class _BadMemberError(LfqError):
    """A member that is no part of a sample, or a damaged one; the text does not name the file."""


def read(path: Path, _: str) -> Generator[Sample | BadSample]:
    """The samples in the order of the archive. Raises TensorError where it ends early or is damaged."""
    file = InputFile(path, TensorError)
    compressed = not path.name.lower().endswith(".tar")
    try:
        with tarfile.open(fileobj=file.file, mode="r|gz" if compressed else "r:") as archive:
            yield from _samples(path, archive)
            _require_end(path, archive, file, compressed=compressed)
    except _BROKEN as reason:
        raise _damaged(path, reason) from reason
    finally:
        file.close()


def _damaged(path: Path, reason: object) -> TensorError:
    return TensorError(f"{path}: not a whole tar archive: {reason}", "copy or make it again; it may be cut off")


def _require_end(path: Path, archive: tarfile.TarFile, file: InputFile, *, compressed: bool) -> None:
    """Raises TensorError unless a block of zeros marks the end: without it members may be missing."""
    if compressed:
        stream: Any = archive.fileobj  # tarfile's own, which counts what was read of it
        ended = stream.tell() >= archive.offset + _BLOCK
    else:
        block = file.read(archive.offset, min(_BLOCK, max(file.size - archive.offset, 0)))
        ended = len(block) == _BLOCK and not any(block)
    if not ended:
        raise _damaged(path, "it ends without a mark of its end")


def _samples(path: Path, archive: tarfile.TarFile) -> Iterator[Sample | BadSample]:
    """The members that follow each other and have one key are a sample."""
    builder: _Builder | None = None
    for member in archive:
        if member.isdir():
            continue
        key, name = _split(member.name)
        if not name or PurePosixPath(member.name).name.startswith(".") or member.name.startswith("__"):
            continue  # no extension, hidden, or a note of WebDataset's to itself
        if builder is None or builder.key != key:
            if builder is not None:
                yield builder.done()
            builder = _Builder(path, key)
        builder.add(name, member, archive)
    if builder is not None:
        yield builder.done()


def _split(path: str) -> tuple[str, str]:
    """(key, what follows its dot): "a/b.c.npy" -> "a/b", "c.npy"."""
    member = PurePosixPath(path)
    stem, _, name = member.name.partition(".")
    folder = str(member.parent)
    return (stem if folder == "." else f"{folder}/{stem}"), name


class _Builder:
    """A sample in the making; its first bad member makes it a bad one."""

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

    def add(self, name: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        try:
            self._add(name, member, archive)
        except LfqError as error:
            text = error.message if error.message.startswith(f"{self._path}: ") else f"{self._where}: {error.message}"
            self._error = self._error or TensorError(text, error.hint)

    def _add(self, name: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        if not member.isreg() or member.issparse():
            raise _BadMemberError(f"{member.name!r} is {_kind(member)}, expected a plain file")
        suffix = name.rpartition(".")[2].lower()
        if f".{suffix}" not in FORMATS and suffix not in TEXTS:
            return
        if member.size > MAX_SAMPLE_BYTES:
            raise _BadMemberError(f"{member.name!r} has {member.size / 2**30:.3g} GiB, a sample has 1 GiB at most")
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if f".{suffix}" in FORMATS:
            self._add_tensors(name, member.name, data)
        else:
            self._add_text(name, suffix, data)

    def _add_tensors(self, name: str, member: str, data: bytes) -> None:
        prefix = name.rpartition(".")[0]
        with open_bytes(Path(f"{self._path}: {member}"), data) as source:
            for found, tensor in in_memory(source).items():
                parts = [prefix] if found == SOLE_TENSOR and prefix else [prefix, found] if prefix else [found]
                self._put(self._tensors, ".".join(parts), tensor)

    def _add_text(self, name: str, suffix: str, data: bytes) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as reason:
            raise _BadMemberError(f"{name!r} is no UTF-8: {reason}") from reason
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
            raise _BadMemberError(f"{name!r} is no JSON: {reason}") from reason
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


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    return "a sparse file" if member.issparse() else "a device or pipe"
