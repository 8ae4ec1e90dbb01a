"""How a report writes numbers and names, as plain text; markup is added elsewhere."""

from __future__ import annotations

from math import isfinite, log10

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_WRITTEN_OUT = 1e15
_CODES_WRITTEN_OUT_BITS = 20


def count_text(value: float) -> str:
    """A count: 1,234,567; from 10^15 on like 1.23 × 10¹⁵."""
    return f"{value:,.0f}" if abs(value) < _MOST_WRITTEN_OUT else number_text(value, 3)


def number_text(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits: 0.1234, 1,234, 1.234 × 10⁻⁷."""
    if not isfinite(value):
        return "∞" if value > 0 else "–"
    if value == 0:
        return "0"
    if value < 0:
        return f"−{number_text(-value, digits)}"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    if -4 <= exponent < 15:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}"
    return f"{value / 10.0**exponent:.{digits - 1}f} × 10{_raised(exponent)}"


def share_text(share: float) -> str:
    """A percentage with three digits, or as many as distinguish it from 100 %: 12.0 %, 99.98 %."""
    percent = 100 * share
    for digits in range(3, 9):
        text = number_text(percent, digits)
        if share >= 1 or percent < 99 or float(text) < 100:
            break
    return f"{text} %"


def share_words(share: float) -> str:
    """`share_text` without trailing zeros, for sentences: 12 %."""
    number, unit = share_text(share).split(" ", 1)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def signed_text(value: float) -> str:
    """A number with its sign: +0.12, −0.12, 0.00."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


def short_text(value: float) -> str:
    """A number for axes: 1, 500, 20k, 3M, 1T; a power of ten beyond that."""
    if value and (value >= 1e15 or value < 1e-3):
        return f"10{_raised(round(log10(value)))}"
    for unit, name in _UNITS:
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def codes_text(bits: int) -> str:
    """The number of codes, 2^bits: 1,024, or 2³² if it is long."""
    return count_text(1 << bits) if bits <= _CODES_WRITTEN_OUT_BITS else f"2{_raised(bits)}"


def list_text(items: list[str], most: int = 8) -> str:
    """A list: a, b, c; a long one ends with how many more there are."""
    shown = items if len(items) <= most else [*items[: most - 1], f"{len(items) - most + 1} more"]
    return ", ".join(shown)


def one_line(name: str) -> str:
    """A name with � for unprintable characters: controls, line ends, lone surrogates, text-direction marks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def shortened(name: str, most: int) -> str:
    """A name of at most `most` characters: the middle is left out."""
    if len(name) <= most:
        return name
    tail = most // 2
    return f"{name[: most - tail - 1]}…{name[-tail:]}"


def _raised(value: int) -> str:
    return str(value).translate(_RAISED)
