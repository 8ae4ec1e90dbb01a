"""Figures as text that never needs more than ten or so letters, so that tables fit; `≈` before what was estimated."""

from __future__ import annotations

import re

_MOST_EXACT, _MOST_ESTIMATED = 10**8, 10**7
_MOST_TENTHS = 10**6


def whole(value: float, *, estimated: bool = False) -> str:
    """12,345,678; from 10^8 on four digits and a power of ten, 1.235e12. Estimates are marked, and so from 10^7 on."""
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


def percent(share: float, *, estimated: bool = False) -> str:
    """93.359%; below 0.001% as 1.6e-7%."""
    if share == 0 or abs(share) >= 1e-5:
        return approximate(f"{share:.3%}", estimated)
    return approximate(_short(f"{100 * share:.1e}") + "%", estimated)


def signed(text: str) -> str:
    """A change: with a sign, unless it is nothing."""
    if not text.strip("-0.,%"):
        return text.removeprefix("-")
    return text if text[0] == "-" else f"+{text}"


def codes(bits: int) -> str:
    """How many codes there are of so many bits: 256, 2^18."""
    return f"{2**bits:,}" if bits <= 16 else f"2^{bits}"


def approximate(text: str, estimated: bool) -> str:
    """The figure, marked if it is an estimate."""
    return f"≈{text}" if estimated else text


def _short(text: str) -> str:
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", text)
