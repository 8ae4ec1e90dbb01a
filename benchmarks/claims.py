"""What the README and docs/speed.md say of speed, and whether a run of the benchmarks saw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

Metric = Literal["ratio_to_floor", "ratio_to_peer", "items_per_second"]

UNITS: dict[Metric, str] = {
    "ratio_to_floor": "of its baseline",
    "ratio_to_peer": "of the peer's speed",
    "items_per_second": "million a second",
}


@dataclass(frozen=True)
class Claim:
    """A case of the benchmarks, one of its metrics, and the least (for times: the most) that is claimed of it."""

    case: str
    metric: Metric
    bound: float
    at_most: bool = False

    def is_met(self, found: float) -> bool:
        """Whether a measured value is what is claimed."""
        return found <= self.bound if self.at_most else found >= self.bound

    @property
    def text(self) -> str:
        """The claim in words."""
        unit = "of its baseline's time" if self.at_most else UNITS[self.metric]
        return f"{'≤' if self.at_most else '≥'} {shown(self.bound, self.metric)} {unit}"


CLAIMS = (
    *(Claim(f"encode {dtype} [n, 18]", "ratio_to_floor", 0.35) for dtype in ("F32", "F16", "BF16")),
    *(Claim(f"encode {dtype} [b, 18, 16, 16]", "ratio_to_floor", 0.35) for dtype in ("F32", "F16", "BF16")),
    Claim("encode F32 [n, 18], 8 levels", "ratio_to_floor", 0.25),
    *(Claim(f"encode {dtype} [n, 18]", "ratio_to_peer", 10) for dtype in ("F32", "F16", "BF16")),
    *(Claim(f"encode {dtype} [b, 18, 16, 16]", "ratio_to_peer", 10) for dtype in ("F32", "F16", "BF16")),
    Claim("decode [n, 18]", "ratio_to_floor", 0.4),
    Claim("decode [b, 18, 16, 16]", "ratio_to_floor", 0.4),
    Claim("stats D = 10", "ratio_to_peer", 20),
    Claim("stats D = 18", "ratio_to_peer", 20),
    Claim("stats D = 24", "ratio_to_peer", 8),
    Claim("10,000 random slices", "ratio_to_peer", 0.4),
    Claim("batches of 64, in memory", "ratio_to_peer", 0.3),
    Claim("process, 1 MiB", "ratio_to_floor", 1.5, at_most=True),
)
"""With the compiled kernels. Lower than what quiet machines show: these should hold on any."""


def seen(claim: Claim, results: list[dict[str, Any]]) -> float | None:
    """The value measured for a claim in the results of a run; None where the run did not measure it."""
    for result in results:
        if result["case"] == claim.case:
            if claim.metric == "items_per_second":
                return float(result["items"] / result["ours"]["seconds"])
            return None if result.get(claim.metric) is None else float(result[claim.metric])
    return None


def verdicts(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every claim that the run could judge, as a record: what is claimed, what was seen, whether that is it."""
    found = [(claim, seen(claim, results)) for claim in CLAIMS]
    return [
        {
            "case": claim.case,
            "figure": claim.metric,
            "claimed": claim.bound,
            "seen": value,
            "met": claim.is_met(value),
        }
        for claim, value in found
        if value is not None
    ]


def claims_table(results: list[dict[str, Any]]) -> Table:
    """Each claim beside what was seen of it here."""
    table = Table(box=None, pad_edge=False, title="what is claimed, and what this machine showed", title_justify="left")
    for column in ("case", "claimed", "seen here", ""):
        table.add_column(column, justify="right" if column == "seen here" else "left", no_wrap=True)
    for claim in CLAIMS:
        value = seen(claim, results)
        verdict = "not measured" if value is None else "yes" if claim.is_met(value) else "NO"
        table.add_row(escape(claim.case), claim.text, "" if value is None else shown(value, claim.metric), verdict)
    return table


def shown(value: float, metric: Metric) -> str:
    """A value as it is printed: a ratio, or millions."""
    return f"{value / 1e6:.3g}" if metric == "items_per_second" else f"{value:.2g}"
