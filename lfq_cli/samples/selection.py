"""What to take from each sample: tensors to encode, tensors and texts to carry along, as globs of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lfq_cli.floats import FORMATS


@dataclass(frozen=True)
class Selection:
    """Without `tensors`, all float tensors that are not carried are encoded."""

    tensors: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    carry_text: tuple[str, ...] = ()

    def carries(self, name: str) -> bool:
        """Whether a tensor is carried along."""
        return matches(name, self.carry)

    def carries_text(self, name: str) -> bool:
        """Whether a text is carried along."""
        return matches(name, self.carry_text)

    def encodes(self, name: str, dtype: str, *, is_number: bool) -> bool:
        """Whether a tensor is encoded: floats are; a single number is a label, unless it was requested."""
        if self.carries(name) or dtype not in FORMATS:
            return False
        return matches(name, self.tensors) if self.tensors else not is_number

    @property
    def takes_labels(self) -> bool:
        """Whether any requested tensor may be a label."""
        return bool(self.tensors or self.carry or self.carry_text)


EVERYTHING = Selection(carry=("*",), carry_text=("*",))


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether any of the globs matches the name."""
    return any(fnmatchcase(name, glob) for glob in globs)
