"""Where the data of a member of a zip archive (.npz, .pt) begins in the file."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

from lfq_cli.regions import InputFile

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,  # names that are not text, positions before the file
)
"""What zipfile raises for a damaged archive; only the first is documented."""


def member_start(file: InputFile, info: zipfile.ZipInfo) -> int:
    """The offset of a stored member's data: after the local header, whose name and extra field have their own lengths.

    Source: PKWARE APPNOTE 6.3, section 4.3.7.
    """
    lengths = file.read(info.header_offset + 26, 4)
    return info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
