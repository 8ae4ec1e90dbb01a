"""Every dtype that a file can hold, one per row: its bits, and its names in safetensors, numpy, torch and Arrow.

What the bit patterns of floats mean is in floats.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One dtype and its names."""

    name: str
    """safetensors' name; if it has none, torch's with its module: "torch.complex128"."""
    bits: int
    numpy: str | None = None
    """numpy's type string, little-endian; None if numpy has no such dtype."""
    torch: str | None = None
    """torch's name without the module; ml_dtypes, which adds dtypes to numpy, uses the same names."""
    arrow: str | None = None


DTYPES = (
    Dtype("BOOL", 8, "|b1", "bool", "bool"),
    Dtype("U8", 8, "|u1", "uint8", "uint8"),
    Dtype("I8", 8, "|i1", "int8", "int8"),
    Dtype("U16", 16, "<u2", "uint16", "uint16"),
    Dtype("I16", 16, "<i2", "int16", "int16"),
    Dtype("U32", 32, "<u4", "uint32", "uint32"),
    Dtype("I32", 32, "<i4", "int32", "int32"),
    Dtype("U64", 64, "<u8", "uint64", "uint64"),
    Dtype("I64", 64, "<i8", "int64", "int64"),
    Dtype("F16", 16, "<f2", "float16", "halffloat"),
    Dtype("F32", 32, "<f4", "float32", "float"),
    Dtype("F64", 64, "<f8", "float64", "double"),
    Dtype("C64", 64, "<c8", "complex64"),
    Dtype("BF16", 16, torch="bfloat16"),
    Dtype("F8_E5M2", 8, torch="float8_e5m2"),
    Dtype("F8_E4M3", 8, torch="float8_e4m3fn"),
    Dtype("F8_E8M0", 8, torch="float8_e8m0fnu"),
    Dtype("F8_E5M2FNUZ", 8, torch="float8_e5m2fnuz"),
    Dtype("F8_E4M3FNUZ", 8, torch="float8_e4m3fnuz"),
    Dtype("F6_E2M3", 6),
    Dtype("F6_E3M2", 6),
    Dtype("F4", 4),
    Dtype("torch.complex128", 128, torch="complex128"),
    Dtype("torch.complex32", 32, torch="complex32"),
    Dtype("torch.float4_e2m1fn_x2", 8, torch="float4_e2m1fn_x2"),
    Dtype("torch.qint8", 8, torch="qint8"),
    Dtype("torch.quint8", 8, torch="quint8"),
    Dtype("torch.qint32", 32, torch="qint32"),
    Dtype("torch.quint4x2", 8, torch="quint4x2"),
    Dtype("torch.quint2x4", 8, torch="quint2x4"),
    Dtype("torch.bits8", 8, torch="bits8"),
)

SAFETENSORS_BITS = {row.name: row.bits for row in DTYPES if not row.name.startswith("torch.")}
TORCH_BYTES = {row.name: row.bits // 8 for row in DTYPES if row.torch}
NUMPY: dict[str, np.dtype[Any]] = {row.name: np.dtype(row.numpy) for row in DTYPES if row.numpy}
"""The dtypes that numpy has, little-endian."""
OF_NUMPY = {dtype: name for name, dtype in NUMPY.items()}
OF_TORCH = {row.torch: row.name for row in DTYPES if row.torch}
OF_ARROW = {row.arrow: row.name for row in DTYPES if row.arrow}

PLAIN_FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""The floats that checkpoints hold and decode writes: torch's name -> safetensors'."""
