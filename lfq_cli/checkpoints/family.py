"""What a family is to the loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lfq_cli.checkpoints.facts import Facts
from lfq_cli.checkpoints.statefile import StateFile
from lfq_cli.quantizer import Quantizer


class Family(Protocol):
    """The rules of one project's state dicts; a module with these functions is one."""

    @property
    def DESCRIPTION(self) -> str:  # noqa: N802 - a module's constant
        """Whose state dicts these are."""
        ...

    @property
    def ONLY_IF_NAMED(self) -> bool:  # noqa: N802 - a module's constant
        """Whether nothing in the file shows the quantizer, so that `--family` has to name it."""
        ...

    @property
    def find(self) -> FindRule:
        """Module path ("" for the top) of each of the family's quantizers -> the names of the tensors that show it."""
        ...

    @property
    def build(self) -> BuildRule:
        """(state, module path, facts) -> the quantizer there, completed by the facts."""
        ...


class FindRule(Protocol):
    """What `find` is."""

    def __call__(self, state: StateFile, /) -> Mapping[str, Sequence[str]]:
        """Module path -> names of tensors."""
        ...


class BuildRule(Protocol):
    """What `build` is."""

    def __call__(self, state: StateFile, module: str, facts: Facts, /) -> Quantizer:
        """Raises CheckpointError if tensors and facts do not make one."""
        ...
