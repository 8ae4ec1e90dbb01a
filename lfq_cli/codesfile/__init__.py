"""The codes file, versions 1 and 2 (docs/codes-file.md).

A codes file is a safetensors file whose metadata entry "lfq" records how the bytes were made. This package knows
packings and digests, but not how codes are computed.
"""

from lfq_cli.codesfile.header import (
    FORMAT,
    FROM_CODES,
    NO_DIGEST,
    SUFFIX,
    CodesHeader,
    CodesTensor,
    MadeFrom,
    PartRows,
    SourceInfo,
    stored_dtype,
)
from lfq_cli.codesfile.reader import CodesFile, TensorCodes, check_cut, open_codes
from lfq_cli.codesfile.writer import Writer, create

__all__ = [
    "FORMAT",
    "FROM_CODES",
    "NO_DIGEST",
    "SUFFIX",
    "CodesFile",
    "CodesHeader",
    "CodesTensor",
    "MadeFrom",
    "PartRows",
    "SourceInfo",
    "TensorCodes",
    "Writer",
    "check_cut",
    "create",
    "open_codes",
    "stored_dtype",
]
