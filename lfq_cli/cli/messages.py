"""Lines for people: errors, sizes, and names without anything that a terminal would interpret."""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING

from lfq_cli.errors import LfqError

if TYPE_CHECKING:
    from lfq_cli.quantizer import Quantizer


def error_lines(error: LfqError) -> str:
    """The error, and its hint on a line of its own."""
    lines = [f"lfq: error: {printable(error.message)}"]
    if error.hint:
        lines.append(f"     hint: {printable(error.hint)}")
    return "\n".join(lines)


def assumption_lines(quantizer: Quantizer) -> list[str]:
    """What the quantizer assumes, why, and how to override it; nothing if every fact was stated."""
    if not quantizer.assumed:
        return []
    text, hint = quantizer.assumption_text()
    return [printable(f"lfq: note: {text}"), f"     hint: {hint}"]


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes as escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return "".join(shown)


_PLAIN = {"×": "x", "…": "...", "±": "+-", "→": "->", "≈": "~", "·": ".", "│": "|"}
_PLAIN |= dict(zip("▏▎▍▌▋▊▉█▐", "...######", strict=True))  # bars, from the left and from the right
_PLAIN |= dict(zip("▁▂▃▄▅▆▇", "1234567", strict=True))  # heights, to 8 of 8 above
_PLAIN |= dict(zip("░▒▓", ".:+", strict=True))


def make_printable(*streams: object) -> None:
    """Lets streams of any encoding take any text: what they cannot show is replaced by ASCII or an escape."""
    codecs.register_error("lfq", _plain_or_escaped)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lfq")


def _plain_or_escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in bad), error.end


def size(nbytes: float) -> str:
    """Bytes with a binary unit, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.3g} {unit}"


def shape(sizes: tuple[int | None, ...]) -> str:
    """1000×24, with a * for None, or "one number" for no axes."""
    return "×".join("*" if size is None else str(size) for size in sizes) or "one number"
