"""Numbers as text of at most ten or so characters, so tables fit; `≈` before estimates."""

from __future__ import annotations

import re
from typing import Protocol

from lfq_cli.statistics.registry import Format, Statistic
from lfq_cli.statistics.usage import Usage

_MOST_EXACT, _MOST_ESTIMATED = 10**8, 10**7
_MOST_TENTHS = 10**6


def whole(value: float, *, estimated: bool = False) -> str:
    """12,345,678; from 10^8 on four digits and a power of ten, 1.235e12. Estimates are marked; they round from 10^7
    on.
    """
    value = round(value)
    exact = abs(value) < (_MOST_ESTIMATED if estimated else _MOST_EXACT)
    return approximate(f"{value:,}" if exact else _short(f"{value:.3e}"), estimated)


def tenths(value: float, *, estimated: bool = False) -> str:
    """1,234.5; from 10^6 on a whole number."""
    if abs(value) >= _MOST_TENTHS:
        return whole(value, estimated=estimated)
    return approximate(f"{value:,.1f}", estimated)


def digits(value: float, *, estimated: bool = False) -> str:
    """Bits: 7.471, 101.12, 1234.5."""
    places = 3 if abs(value) < 100 else 2 if abs(value) < 1000 else 1
    return approximate(f"{value:.{places}f}", estimated)


def percent(value: float, *, estimated: bool = False) -> str:
    """93.359%; below 0.01% with two digits: 1.6e-7%."""
    if value == 0 or abs(value) >= 1e-4:
        return approximate(f"{value:.3%}", estimated)
    return approximate(_short(f"{100 * value:.1e}") + "%", estimated)


def signed(text: str) -> str:
    """A change: with a sign, unless it is zero."""
    if not text.strip("-0.,%"):
        return text.removeprefix("-")
    return text if text[0] == "-" else f"+{text}"


def codes(bits: int) -> str:
    """The number of codes of so many bits: 256, 2^18."""
    return f"{2**bits:,}" if bits <= 16 else f"2^{bits}"


def approximate(text: str, estimated: bool) -> str:
    """The value, marked if it is an estimate."""
    return f"≈{text}" if estimated else text


def _short(text: str) -> str:
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", text)


def significant(value: float, *, estimated: bool = False) -> str:
    """Four digits: 1.369, 0.003, 3.1e-7; from 1,000 on a whole number."""
    if abs(value) >= 1000:
        return whole(value, estimated=estimated)
    return approximate(_short(f"{value:.4g}"), estimated)


def two_places(value: float, *, estimated: bool = False) -> str:
    """-0.12."""
    return approximate(f"{value:.2f}", estimated)


class _Write(Protocol):
    def __call__(self, value: float, *, estimated: bool = False) -> str: ...


FORMATS: dict[Format, _Write] = {
    "whole": whole,
    "tenths": tenths,
    "number": significant,
    "bits": digits,
    "share": percent,
    "signed": two_places,
}
"""How a terminal writes each format of a statistic."""


def written(row: Statistic, usage: Usage) -> str:
    """A statistic's value as text, marked if it is an estimate; "" where it is not defined."""
    value = row.of(usage)
    return "" if value is None else FORMATS[row.format](value, estimated=row.is_estimated(usage))
