"""What a file that cannot be read really is, by its first bytes; for error messages only.

The reader of a file is chosen by its name. This module knows how other formats begin, and nothing else about them.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import NamedTuple

from lfq_cli.errors import LfqError
from lfq_cli.regions import InputFile

AGAIN = "copy or download it again; it may be cut off"
LOOKED_AT = 512
_MOST_HEADER_BYTES = 1 << 27  # for a safetensors file, whose limit is 10^8
_LEAST_TEXT = 16  # bytes; fewer could be anything
_WRITTEN = frozenset(b"\t\n\f\r") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


class _Kind(NamedTuple):
    shown: str
    suffix: str = ""
    """The suffix with which lfq would read it."""
    remedy: str = ""


_TENSORS = (
    (b"\x93NUMPY", _Kind("an npy array", ".npy")),
    (b"PK\x03\x04", _Kind("a zip archive", ".npz or .pt")),
    (b"\x89HDF\r\n\x1a\n", _Kind("an HDF5 file", ".h5")),
    (b"PAR1", _Kind("a parquet file", ".parquet")),
)
_PICKLE = _Kind("a pickle", remedy="lfq runs no code from files; save tensors with torch.save or as .safetensors")
_WEB_PAGE = _Kind("a web page", remedy="the server sent it instead of the file: download it again")
_OTHERS = (
    (b"\x1f\x8b", _Kind("gzip data", remedy="decompress it, or name it .tar.gz if it is an archive")),
    *((bytes([0x80, protocol]), _PICKLE) for protocol in range(2, 6)),
    (b"version https://git-lfs", _Kind("a Git LFS pointer", remedy="git lfs pull fetches the file it stands for")),
    *((beginning, _WEB_PAGE) for beginning in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML")),
)
_SAFETENSORS = _Kind("a safetensors file", ".safetensors")
_TAR = _Kind("a tar archive", ".tar")
_TEXT = _Kind("text", remedy="lfq reads tensors, not text: save them with numpy, safetensors or torch")

_SAME = {
    "a codes file": {"a safetensors file"},
    "an npz file": {"a zip archive"},
    "a torch file": {"a zip archive", "a pickle"},
    "a tar archive": {"gzip data"},
}
"""Expected format -> what else a damaged file of it may look like."""


def unreadable(
    file: InputFile, expected: str, reason: object, error: type[LfqError], remedy: str | None = None
) -> LfqError:
    """The error for a file that cannot be read as `expected` ("an npy array"); see `unlike`."""
    return unlike(str(file.path), file.read(0, min(file.size, LOOKED_AT)), expected, reason, error, remedy)


def unlike(
    where: str, head: bytes, expected: str, reason: object, error: type[LfqError], remedy: str | None = None
) -> LfqError:
    """The error for a file called `where`, from its first LOOKED_AT bytes.

    If its beginning shows that the file is something else, the error says so; otherwise it gives `reason`. remedy: what
    to do with tensors of another format.
    """
    kind = _kind_of(head)
    if kind is None or kind.shown in {expected, *_SAME.get(expected, ())}:
        why, hint = (reason, AGAIN) if head else ("it is empty", "make, copy or download it again")
        return error(f"{where}: not a whole {expected.partition(' ')[2]}: {why}", hint)
    if kind.suffix:
        remedy = remedy or f"the suffix decides how a file is read: rename it to end in {kind.suffix}"
    return error(f"{where}: is {kind.shown}, expected {expected}", (kind.suffix and remedy) or kind.remedy)


def _kind_of(head: bytes) -> _Kind | None:
    """The format that begins like this; None if it is not known."""
    for beginning, kind in (*_TENSORS, *_OTHERS):
        if head.startswith(beginning):
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MOST_HEADER_BYTES:
        return _SAFETENSORS
    if head[257:262] == b"ustar":
        return _TAR
    return _TEXT if len(head) >= _LEAST_TEXT and _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters; the last character may be incomplete."""
    try:
        getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return _WRITTEN.issuperset(head)
