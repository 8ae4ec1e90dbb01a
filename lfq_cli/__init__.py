"""Binary tokens from saved Lookup-Free Quantization checkpoints.

    load(checkpoint)            the quantizer as a torch module in eval mode
    LFQ(...)                    the module itself, to train one; ResidualLFQ, GroupedResidualLFQ, StackedLFQ
    open_codes(codes_file)      indices by slicing, numpy only

Nothing is imported before it is asked for: torch takes a second or two.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lfq_cli.version import __version__

if TYPE_CHECKING:
    from lfq_cli.data import open_codes
    from lfq_cli.nn import LFQ, GroupedResidualLFQ, ResidualLFQ, StackedLFQ
    from lfq_cli.pretrained import load

__all__ = ["LFQ", "GroupedResidualLFQ", "ResidualLFQ", "StackedLFQ", "__version__", "load", "open_codes"]

_HOMES = {
    "LFQ": "lfq_cli.nn",
    "ResidualLFQ": "lfq_cli.nn",
    "StackedLFQ": "lfq_cli.nn",
    "GroupedResidualLFQ": "lfq_cli.nn",
    "load": "lfq_cli.pretrained",
    "open_codes": "lfq_cli.data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
