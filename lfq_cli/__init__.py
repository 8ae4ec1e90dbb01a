"""Binary tokens from saved Lookup-Free Quantization checkpoints.

    load(checkpoint)                   a codec: encode(x) -> tokens, decode(tokens) -> x, and its torch module
    create(path, codec)                writes a codes file batch by batch, with keys and labels
    encode_files(checkpoint, a, b)     the Python form of `lfq encode`; decode_files is that of `lfq decode`
    stats(codes)                       how the codebook is used
    open_codes(codes)                  slices of the indices in a file; for a folder, a data set of its samples
    LFQ(...)                           the torch module to train; also ResidualLFQ, GroupedResidualLFQ, StackedLFQ

Names are imported on first use: importing torch takes a second or two.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lfq_cli.version import __version__

if TYPE_CHECKING:
    from lfq_cli.api import Codec, Statistics, Tokens, create, decode_files, encode_files, load, stats
    from lfq_cli.data import open_codes
    from lfq_cli.errors import LfqError, LfqNote
    from lfq_cli.nn import LFQ, GroupedResidualLFQ, ResidualLFQ, StackedLFQ
    from lfq_cli.quantizer import Quantizer

__all__ = [
    "LFQ",
    "Codec",
    "GroupedResidualLFQ",
    "LfqError",
    "LfqNote",
    "Quantizer",
    "ResidualLFQ",
    "StackedLFQ",
    "Statistics",
    "Tokens",
    "__version__",
    "create",
    "decode_files",
    "encode_files",
    "load",
    "open_codes",
    "stats",
]

_NAMES = {
    "lfq_cli.api.codec": ("Codec", "load"),
    "lfq_cli.api.creator": ("create",),
    "lfq_cli.api.files": ("decode_files", "encode_files"),
    "lfq_cli.api.statistics": ("Statistics", "stats"),
    "lfq_cli.api.tokens": ("Tokens",),
    "lfq_cli.data": ("open_codes",),
    "lfq_cli.errors": ("LfqError", "LfqNote"),
    "lfq_cli.nn": ("LFQ", "GroupedResidualLFQ", "ResidualLFQ", "StackedLFQ"),
    "lfq_cli.quantizer": ("Quantizer",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
