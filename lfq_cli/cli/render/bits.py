"""Bits as lines: how balanced each is, the least balanced ones, the pairs that are equal or opposite."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from lfq_cli.cli.render.blocks import heights, leaning
from lfq_cli.cli.render.grid import GAP, PICTURE, WIDTH, beside, flow, grid
from lfq_cli.cli.render.numbers import digits
from lfq_cli.statistics.advice import NEARLY_DEAD_BITS, bit_name
from lfq_cli.statistics.usage import TokenUsage, Usage

_MOST_IN_FULL = 32
"""Bits of one codebook that get a line each; of more only the least even ones."""
_ONE_COLUMN = 4
_LEAST_EVEN, _EVEN_BITS = 8, 0.99
_HALF_BARS = (5, 4)
"""Half the letters of a bit's bar where bits stand in two columns; the wider one, if there is room."""
_HALF_BAR_ALONE = 10
_MARKS = {"dead": "bold red", "weak": "yellow"}
_DEAD_LETTER = "×"
_STRIP = 64


@dataclass(frozen=True)
class _Bit:
    name: str
    ones: float
    entropy: float

    @property
    def mark(self) -> str:
        if self.entropy == 0:
            return "dead"
        return "weak" if self.entropy < NEARLY_DEAD_BITS else ""


def bit_lines(usage: TokenUsage, *, verbose: bool, strips: bool) -> list[Text]:
    """The balance of the bits of every codebook. strips: with a character per bit where they are many."""
    several = len(usage.codebooks) > 1
    bits = [
        _Bit(f"{k}:{bit}" if several else str(bit), ones, entropy)
        for k, codebook in enumerate(usage.codebooks)
        for bit, (ones, entropy) in enumerate(_shares(codebook))
    ]
    if not bits:
        return []
    in_full = verbose or len(bits) <= _MOST_IN_FULL
    if in_full:
        return _table(bits) + _legend(bits)
    uneven = sorted((bit for bit in bits if bit.entropy < _EVEN_BITS), key=lambda bit: bit.entropy)[:_LEAST_EVEN]
    lines = _strips(usage) if strips else []
    if uneven:
        lines += [*([Text()] if lines else []), Text("the least even bits", "bold"), *_table(uneven)]
    return lines + _legend(bits)


def pair_lines(usage: TokenUsage) -> list[Text]:
    """The pairs of bits that are most correlated, on one line."""
    pairs = _strongest(usage)
    if not pairs:
        return []
    title = "bits most correlated"
    shown = flow([f"({i}, {j}) {value:+.3f}" for i, j, value in pairs], WIDTH - len(title) - GAP)
    return [Text(title, "bold").append(" " * GAP + shown, "not bold")]


def _strongest(usage: TokenUsage) -> list[tuple[str, str, float]]:
    token = usage.token
    if token is not None and token.bit_statistics is not None:
        return [(bit_name(usage, i), bit_name(usage, j), r) for i, j, r in token.bit_statistics.strongest_pairs()]
    found = [
        (f"{k}:{i}", f"{k}:{j}", value)
        for k, codebook in enumerate(usage.codebooks)
        if codebook.bit_statistics is not None
        for i, j, value in codebook.bit_statistics.strongest_pairs()
    ]
    return sorted(found, key=lambda pair: -abs(pair[2]))


def _shares(usage: Usage) -> list[tuple[float, float]]:
    """(share of ones, entropy) of each bit."""
    statistics = usage.bit_statistics
    return [] if statistics is None else list(zip(statistics.ones.tolist(), statistics.entropies.tolist(), strict=True))


def _strips(usage: TokenUsage) -> list[Text]:
    """A character per bit, as high as its share of ones; long codebooks on several lines."""
    rows = []
    for k, codebook in enumerate(usage.codebooks):
        letters = strip(codebook)
        for start in range(0, len(letters), _STRIP):
            rows.append([str(k) if not start else "", letters[start : start + _STRIP]])
    one = len(usage.codebooks) == 1
    titles = ["codebook", "ones by bit, bit 0 first (▄ is half)"]
    return grid(titles[one:], [row[one:] for row in rows], left=(1 - one,), styles={1 - one: PICTURE})


def strip(usage: Usage) -> str:
    """A character per bit, as high as its share of ones."""
    return "".join(_DEAD_LETTER if entropy == 0 else heights([ones]) for ones, entropy in _shares(usage))


def _table(bits: list[_Bit]) -> list[Text]:
    """A line a bit, in two columns where there are many."""
    size = -(-len(bits) // 2)
    for half in _HALF_BARS if len(bits) > _ONE_COLUMN else ():
        left, right = _column(bits[:size], half), _column(bits[size:], half)
        first, last = max(line.cell_len for line in left) + GAP, WIDTH - max(line.cell_len for line in right)
        if first <= last:
            return beside(left, right, max(first, min(last, WIDTH // 2 + 1)))
    return _column(bits, _HALF_BAR_ALONE)


def _column(bits: list[_Bit], half: int) -> list[Text]:
    rows = [[b.name, f"{b.ones:.1%}", leaning(b.ones, half), digits(b.entropy), b.mark] for b in bits]
    lines = grid(["bit", "ones", "", "entropy", ""], rows, left=(2, 4), styles={2: PICTURE})
    for line, bit in zip(lines[1:], bits, strict=True):
        if bit.mark:
            line.stylize(_MARKS[bit.mark], len(line) - len(bit.mark))
    return lines


def _legend(bits: list[_Bit]) -> list[Text]:
    marks = {bit.mark for bit in bits} - {""}
    legend = {
        "dead": f"dead ({_DEAD_LETTER}): never changes",
        "weak": f"weak: entropy below {NEARLY_DEAD_BITS} bits, nearly dead",
    }
    return [Text("; ".join(legend[mark] for mark in sorted(marks)))] if marks else []
