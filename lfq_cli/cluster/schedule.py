"""Which actor gets which jobs. Each has one call running and one waiting, so it never waits for the driver.

Ray restarts an actor that was killed and repeats its call once. If the actor is killed again, that call fails, and so
does the one waiting behind it, whose jobs have done no harm. The jobs of both are then done one at a time, with nothing
else on their actor: a job whose actor is killed twice again fails under its own name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

BATCH_JOBS = 10
_CALLS_AT_ONCE = 2

Batch: TypeAlias = Sequence[int]
"""Positions of jobs in the list of all."""
Submit: TypeAlias = Callable[[Any, Batch], Any]
"""(actor, batch) -> a reference to the future result."""


def batches_of(count: int, actors: int) -> list[Batch]:
    """Runs of at most ten jobs; of fewer, if there would not be two batches for each actor."""
    size = min(BATCH_JOBS, max(1, count // (_CALLS_AT_ONCE * actors)))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


@dataclass(frozen=True)
class Call:
    """A batch that an actor has. alone: its only job may have killed an actor before."""

    actor: Any
    batch: Batch
    alone: bool


class Schedule:
    """The jobs that are left, and which actor has which."""

    def __init__(self, batches: Iterable[Batch], submit: Submit) -> None:
        self._left = deque(batches)
        self._suspects: deque[Batch] = deque()
        self._submit = submit
        self._idle: list[Any] = []
        """Actors that are up."""
        self.calls: dict[Any, Call] = {}
        """Reference -> the call that was handed out."""

    @property
    def is_done(self) -> bool:
        """Whether no job is left and no actor has a call."""
        return not (self._left or self._suspects or self.calls)

    def add(self, actor: Any) -> None:
        """Adds an actor that is up."""
        self._idle.append(actor)

    def remove(self, actor: Any) -> None:
        """Removes an actor that is no longer up, or not for now."""
        self._idle = [each for each in self._idle if each is not actor]

    @property
    def actors(self) -> int:
        """The number of actors that are up."""
        return len(self._idle)

    def hand_out(self) -> None:
        """Gives the next batches to actors with room for them; suspects come last."""
        for _ in range(_CALLS_AT_ONCE):
            for actor in self._idle:
                if self._left and self._load(actor) < _CALLS_AT_ONCE:
                    self._give(actor, self._left.popleft(), alone=False)
        if self._left:
            return
        for actor in self._idle:
            if self._suspects and not self._load(actor):
                self._give(actor, self._suspects.popleft(), alone=True)

    def finished(self, reference: Any) -> Call:
        """Removes and returns a call that has come back."""
        return self.calls.pop(reference)

    def killed(self, reference: Any) -> Call:
        """Removes and returns a call whose actor was killed. Its jobs are repeated one by one, unless it was alone."""
        call = self.calls.pop(reference)
        if not call.alone:
            self._suspects.extend([place] for place in call.batch)
        return call

    def _load(self, actor: Any) -> int:
        return sum(call.actor is actor for call in self.calls.values())

    def _give(self, actor: Any, batch: Batch, *, alone: bool) -> None:
        self.calls[self._submit(actor, batch)] = Call(actor, batch, alone)
