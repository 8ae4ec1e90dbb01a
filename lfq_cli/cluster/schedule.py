"""Which actor gets which jobs. Each has a call in flight and one waiting, so that it never waits for the driver.

An actor that is killed is started again by Ray, which repeats its call once. Where that is killed too the call fails,
and so does the one that waited behind it, whose jobs did nothing. The jobs of both then come alone, with nothing else
on their actor: one that is killed twice again fails by its name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

BATCH_JOBS = 10
_CALLS_AT_ONCE = 2

Batch: TypeAlias = Sequence[int]
"""Places of jobs in the list of all."""
Submit: TypeAlias = Callable[[Any, Batch], Any]
"""Hands a batch to an actor; a reference to what will come of it."""


def batches_of(count: int, actors: int) -> list[Batch]:
    """Runs of at most ten jobs, or fewer where each actor would not have two."""
    size = min(BATCH_JOBS, max(1, count // (_CALLS_AT_ONCE * actors)))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


@dataclass(frozen=True)
class Call:
    """A batch that an actor has; `alone`: its only job has killed an actor before, maybe."""

    actor: Any
    batch: Batch
    alone: bool


class Schedule:
    """What is left to do, and who has what."""

    def __init__(self, batches: Iterable[Batch], submit: Submit) -> None:
        self._left = deque(batches)
        self._suspects: deque[Batch] = deque()
        self._submit = submit
        self._idle: list[Any] = []
        """Actors that are up, by how many calls they have."""
        self.calls: dict[Any, Call] = {}
        """What was handed out: reference -> call."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left, and nobody has anything."""
        return not (self._left or self._suspects or self.calls)

    def add(self, actor: Any) -> None:
        """An actor that is up."""
        self._idle.append(actor)

    def remove(self, actor: Any) -> None:
        """An actor that is not up any more, or not for now."""
        self._idle = [each for each in self._idle if each is not actor]

    @property
    def actors(self) -> int:
        """How many are up."""
        return len(self._idle)

    def hand_out(self) -> None:
        """Gives every actor that has room what comes next; suspects when all else is done."""
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
        """The call, which has come back."""
        return self.calls.pop(reference)

    def killed(self, reference: Any) -> Call:
        """The call, whose actor was killed. Its jobs come again, each alone, unless it was alone already."""
        call = self.calls.pop(reference)
        if not call.alone:
            self._suspects.extend([place] for place in call.batch)
        return call

    def _load(self, actor: Any) -> int:
        return sum(call.actor is actor for call in self.calls.values())

    def _give(self, actor: Any, batch: Batch, *, alone: bool) -> None:
        self.calls[self._submit(actor, batch)] = Call(actor, batch, alone)
