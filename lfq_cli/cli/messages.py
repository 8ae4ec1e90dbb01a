"""Lines for people: errors, sizes, names with nothing in them that a terminal would obey."""

from __future__ import annotations

from lfq_cli.errors import LfqError


def error_lines(error: LfqError) -> str:
    """The error, and its hint on a line of its own."""
    lines = [f"lfq: error: {printable(error.message)}"]
    if error.hint:
        lines.append(f"     hint: {printable(error.hint)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes as escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return "".join(shown)


def size(nbytes: float) -> str:
    """Bytes with a binary unit, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.3g} {unit}"


def shape(sizes: tuple[int, ...]) -> str:
    """1000×24, or "one number" for no axes."""
    return "×".join(map(str, sizes)) or "one number"
