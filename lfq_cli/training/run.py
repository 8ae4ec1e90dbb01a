"""One run: steps, regular evaluations, the best levels so far, and the state needed to resume."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from torch import Tensor

from lfq_cli.training.baselines import Errors
from lfq_cli.training.learning import Batches, Learner
from lfq_cli.training.levels import Levels, codes_of
from lfq_cli.training.recipe import EVALUATIONS, FEWEST_STEPS, PATIENCE, PATIENCE_GAIN, Recipe
from lfq_cli.training.usage import CodeUsage, usage_of


@dataclass(frozen=True)
class Evaluation:
    """Figures after `step` steps: the unexplained share of held-out variance, and how training vectors use the codes.

    seconds: since the start, without interruptions. remaining_seconds: at the current speed.
    """

    step: int
    unexplained: float
    usage: CodeUsage
    seconds: float
    steps_per_second: float
    remaining_seconds: float

    def as_json(self) -> dict[str, Any]:
        """The evaluation as a flat JSON object."""
        return {name: value for name, value in asdict(self).items() if name != "usage"} | asdict(self.usage)


@dataclass(frozen=True)
class State:
    """The state of a run at an evaluation. tensors: decide what comes next. best: the best levels so far."""

    tensors: Mapping[str, Tensor]
    best: Levels
    history: tuple[Evaluation, ...]


class TrainingRun:
    """Trains levels by a recipe with a shape. usage_sample: coordinates [n, r] to measure the usage of codes on."""

    def __init__(
        self,
        recipe: Recipe,
        levels: Levels,
        batches: Batches,
        errors: Errors,
        *,
        variance: float,
        usage_sample: Tensor,
    ) -> None:
        self._recipe = recipe
        self._errors = errors
        self._usage_sample = usage_sample
        self._learner = Learner(levels, batches, recipe, variance=variance)
        self._seconds = 0.0
        self.best = levels.copy()
        self.history: tuple[Evaluation, ...] = ()

    @property
    def best_unexplained(self) -> float:
        """The held-out error of `best`."""
        return min((each.unexplained for each in self.history), default=inf)

    def evaluations(self) -> Iterator[Evaluation]:
        """Trains to the end and yields each evaluation; in between, `state` may be called."""
        if not self.history:
            yield self._evaluate(steps=0, seconds=0.0)
        while not self._is_over():
            begun, first = time.monotonic(), self._learner.count
            due = self._due()
            while not self._is_due(due, begun):
                self._learner.step(self._progress(begun))
            seconds = time.monotonic() - begun
            self._seconds += seconds
            yield self._evaluate(steps=self._learner.count - first, seconds=seconds)

    def state(self) -> State:
        """The current state, as copies."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self._learner.tensors().items()}
        return State(tensors, self.best, self.history)

    def restore(self, state: State) -> None:
        """Resumes from the state of a run with the same recipe."""
        last = state.history[-1]
        self._learner.restore(state.tensors, last.step)
        self._seconds = last.seconds
        self.best = state.best.to(self.best.threshold.device)
        self.history = state.history

    def _evaluate(self, *, steps: int, seconds: float) -> Evaluation:
        levels = self._learner.levels
        unexplained = self._errors(codes_of(levels, self._errors.held_out)[1])
        codes, _ = codes_of(levels, self._usage_sample)
        speed = steps / seconds if seconds else 0.0
        usage = usage_of(codes, self._recipe.codebook_bits)
        found = Evaluation(self._learner.count, unexplained, usage, self._seconds, speed, self._remaining(speed))
        if unexplained < self.best_unexplained or self._recipe.objective == "tokens":
            self.best = levels.copy()  # even tokens cost reconstruction: the last levels are wanted
        self.history = (*self.history, found)
        return found

    def _is_over(self) -> bool:
        if self._progress(time.monotonic()) >= 1:
            return True
        if self._recipe.objective == "tokens" or len(self.history) <= PATIENCE:
            return False
        before = min(each.unexplained for each in self.history[:-PATIENCE])
        return min(each.unexplained for each in self.history[-PATIENCE:]) > before * (1 - PATIENCE_GAIN)

    def _progress(self, begun: float) -> float:
        """The share of the run that is done. begun: when the steps since the last evaluation began."""
        if self._recipe.minutes is None:
            return self._learner.count / self._recipe.steps
        return min((self._seconds + time.monotonic() - begun) / (60 * self._recipe.minutes), 1.0)

    def _due(self) -> int:
        """The step at which the next evaluation is due; with `minutes`, time decides instead."""
        each = max(FEWEST_STEPS, self._recipe.steps // EVALUATIONS)
        return min((self._learner.count // each + 1) * each, self._recipe.steps)

    def _is_due(self, step: int, begun: float) -> bool:
        minutes = self._recipe.minutes
        if minutes is None:
            return self._learner.count >= step
        return time.monotonic() - begun >= 60 * minutes / EVALUATIONS or self._progress(begun) >= 1

    def _remaining(self, speed: float) -> float:
        if self._recipe.minutes is not None:
            return max(60 * self._recipe.minutes - self._seconds, 0.0)
        return (self._recipe.steps - self._learner.count) / speed if speed else 0.0


def history_from(rows: list[dict[str, Any]]) -> tuple[Evaluation, ...]:
    """The evaluations whose `as_json` gave these rows."""
    own, usage = Evaluation.__dataclass_fields__.keys() - {"usage"}, CodeUsage.__dataclass_fields__
    return tuple(
        Evaluation(**{name: row[name] for name in own}, usage=CodeUsage(**{name: row[name] for name in usage}))
        for row in rows
    )
