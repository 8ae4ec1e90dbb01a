"""Vectors -> a native checkpoint: the files of `lfq train`. The training itself is in `lfq_cli.training`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfq_cli import backends, native
from lfq_cli.container import metadata_entry
from lfq_cli.errors import CheckpointError, LfqNote, OptionError, OutputError, TensorError
from lfq_cli.files import remove_leftovers
from lfq_cli.jobs.file_types import is_tensor_file
from lfq_cli.jobs.inputs import find_inputs
from lfq_cli.jobs.plan import refuse_to_replace
from lfq_cli.jobs.training_data import TrainingData
from lfq_cli.layout import Layout
from lfq_cli.version import __version__

if TYPE_CHECKING:
    from lfq_cli.quantizer import Quantizer
    from lfq_cli.training.baselines import Baselines
    from lfq_cli.training.levels import Levels
    from lfq_cli.training.metrics import Metrics
    from lfq_cli.training.preparation import Prepared
    from lfq_cli.training.recipe import Recipe
    from lfq_cli.training.run import Evaluation, State, TrainingRun
    from lfq_cli.training.runfile import SavedRun
    from lfq_cli.training.shapes import Try


@dataclass(frozen=True)
class TrainOptions:
    """How to read the vectors, where to compute and whether to resume; the recipe says how to train."""

    recipe: Recipe
    tensors: tuple[str, ...] = ()
    layout: Layout | int | None = None
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False

    @property
    def channel_first(self) -> bool | None:
        """The layout of the inputs, as the checkpoint records it."""
        return self.layout == "channel-first" if isinstance(self.layout, str) else None


@dataclass(frozen=True)
class Listener:
    """Progress callbacks. reading: gets the number of vectors just read. stepping: called after each step of a try."""

    reading: Callable[[int], None] = lambda _: None
    started: Callable[[Started], None] = lambda _: None
    stepping: Callable[[], None] = lambda: None
    tried: Callable[[Try], None] = lambda _: None
    chosen: Callable[[Recipe], None] = lambda _: None
    evaluated: Callable[[Evaluation], None] = lambda _: None


@dataclass(frozen=True)
class Started:
    """What is known before the first step."""

    vectors: int
    held_out: int
    dim: int
    coordinates: int
    baselines: Baselines
    resumed_step: int | None = None


@dataclass(frozen=True)
class TrainReport:
    """The result of a run."""

    output: Path
    quantizer: Quantizer
    recipe: Recipe
    metrics: Metrics
    tries: tuple[Try, ...]
    history: tuple[Evaluation, ...] = field(repr=False)
    started: Started


def train(inputs: Sequence[str], output: Path, options: TrainOptions, listener: Listener) -> TrainReport:
    """Trains on the vectors of all inputs and writes the checkpoint at `output`.

    The run is saved beside it at every evaluation, and the saved run is removed at the end. After an interruption
    `output` holds the best checkpoint so far, and the same call resumes. Raises TensorError for vectors that cannot be
    trained on, OptionError or CheckpointError if a saved run had other options or cannot be read, and OutputError if
    something is in the way.
    """
    from lfq_cli.training.runfile import path_beside

    paths = _paths(inputs)
    refuse_to_replace([output, *native.written_files(output), path_beside(output)], paths)
    backends.torch_device(options.device)  # a missing device is reported before anything is read
    data = TrainingData(paths, options.tensors, options.layout)
    with backends.exact_products(one_thread=True):
        return _Job(data, output, options, listener).run()


def _paths(inputs: Sequence[str]) -> list[Path]:
    found = find_inputs(inputs, is_tensor_file, TensorError)
    for item in found:
        if item.error is not None:
            raise item.error
    return [item.path for item in found]


class _Job:
    def __init__(self, data: TrainingData, output: Path, options: TrainOptions, listener: Listener) -> None:
        from lfq_cli.training.runfile import path_beside

        self._data = data
        self._output = output
        self._options = options
        self._listener = listener
        self._digest = data.digest()
        self._run_path = path_beside(output)
        self._state: State | None = None
        self._saved = self._saved_run()
        replaces = options.overwrite or (self._saved is not None and _is_unfinished(output))
        native.refuse_existing_checkpoint(output, overwrite=replaces)
        self._replaces = replaces

    def run(self) -> TrainReport:
        """Trains, from the first read to the last write."""
        remove_leftovers([self._output.parent])
        prepared = self._prepare()
        if self._saved is None:
            bars, step = prepared.baselines(self._options.recipe), None
        else:
            bars, step = _baselines_of(self._saved.facts), self._saved.state.history[-1].step
        started = Started(
            prepared.count, prepared.count - prepared.trained, self._data.dim, prepared.space.size, bars, step
        )
        self._listener.started(started)
        tries = self._tries(prepared)
        recipe = self._recipe(tries)
        self._listener.chosen(recipe)
        run = self._begin(prepared, recipe)
        facts = _facts(bars, tries, recipe)
        report = self._train(run, prepared, recipe, started, tries, facts)
        with suppress(OSError):
            self._run_path.unlink(missing_ok=True)
        return report

    # before the first step

    def _saved_run(self) -> SavedRun | None:
        """The run to resume, if any. Raises LfqError if it has other options or data, or --resume finds none."""
        from lfq_cli.training.runfile import read_run

        if not self._run_path.exists():
            if self._options.resume:
                raise CheckpointError(f"{self._run_path}: no such file: there is no run to resume")
            return None
        if self._options.overwrite:
            return None
        saved = read_run(self._run_path)
        asked_for = json.loads(json.dumps(self._asked_for()))
        if saved.recipe != asked_for:
            changed = [name for name in asked_for if saved.recipe.get(name) != asked_for[name]]
            differences = ", ".join(f"{name} {saved.recipe.get(name)!r}, now {asked_for[name]!r}" for name in changed)
            raise OptionError(
                f"{self._run_path}: the run was begun with other options: {differences}",
                "resume it with those options, or start again with --overwrite",
            )
        if saved.data != self._digest:
            raise TensorError(
                f"{self._run_path}: the run was begun with other data: its inputs had other names or content",
                "resume it with those inputs, or start again with --overwrite",
            )
        return saved

    def _asked_for(self) -> dict[str, Any]:
        """Everything that decides a run except its data."""
        layout, tensors = self._options.layout, list(self._options.tensors)
        return self._options.recipe.as_json() | {"layout": layout, "tensors": tensors}

    def _prepare(self) -> Prepared:
        from lfq_cli.training.preparation import prepare
        from lfq_cli.training.survey import survey

        recipe = self._options.recipe
        found = survey(
            self._data, bits=recipe.bits, seed=recipe.seed, holdout=recipe.holdout, advance=self._listener.reading
        )
        return prepare(self._data, found, recipe, backends.torch_device(self._options.device))

    def _tries(self, prepared: Prepared) -> tuple[Try, ...]:
        """Tries every shape, unless there is only one, or a saved run has tried them."""
        from lfq_cli.training.levels import Shape
        from lfq_cli.training.shapes import Try, candidates, tries

        if self._saved is not None:
            rows = self._saved.facts["tries"]
            return tuple(Try(Shape(*row["shape"]), row["at_start"], row["unexplained"]) for row in rows)
        recipe = self._options.recipe
        shapes = [recipe.shape] if recipe.shape is not None else candidates(recipe.bits, prepared.space.size)
        if len(shapes) == 1:
            return ()
        found = []
        for tried in tries(
            recipe,
            shapes,
            prepared.start_x,
            prepared.batches,
            prepared.errors,
            prepared.variance,
            self._listener.stepping,
        ):
            self._listener.tried(tried)
            found.append(tried)
        return tuple(found)

    def _recipe(self, tries: tuple[Try, ...]) -> Recipe:
        """The recipe with the chosen shape."""
        from lfq_cli.training.levels import Shape
        from lfq_cli.training.shapes import best_of

        recipe = self._options.recipe
        if self._saved is not None:
            return replace(recipe, shape=Shape(*self._saved.facts["shape"]))
        if tries:
            return replace(recipe, shape=best_of(tries))
        return replace(recipe, shape=recipe.shape or Shape(1, recipe.bits))

    def _begin(self, prepared: Prepared, recipe: Recipe) -> TrainingRun:
        from lfq_cli.training.run import TrainingRun
        from lfq_cli.training.shapes import start_levels

        assert recipe.shape is not None
        device = prepared.errors.held_out.device
        levels = start_levels(recipe, recipe.shape, prepared.start_x).to(device)
        usage_sample = prepared.start_x.to(device)
        run = TrainingRun(
            recipe,
            levels,
            prepared.batches,
            prepared.errors,
            variance=prepared.variance,
            usage_sample=usage_sample,
        )
        if self._saved is not None:
            run.restore(self._saved.state)
            self._state = self._saved.state
        return run

    # steps, and what is written

    def _train(
        self,
        run: TrainingRun,
        prepared: Prepared,
        recipe: Recipe,
        started: Started,
        tries: tuple[Try, ...],
        facts: dict[str, Any],
    ) -> TrainReport:
        finished = False
        try:
            for evaluation in run.evaluations():
                self._save(run, facts)
                self._listener.evaluated(evaluation)
            finished = True
        finally:
            if not finished and self._state is not None:
                self._write(self._state, prepared, recipe, started, tries, finished=False)
                _tell_interrupted(self._output, self._state)
        assert self._state is not None
        return self._write(self._state, prepared, recipe, started, tries, finished=True)

    def _save(self, run: TrainingRun, facts: dict[str, Any]) -> None:
        """Saves the run. The first save must succeed: a full disk is reported before any work is done."""
        from lfq_cli.training.runfile import SavedRun, write_run

        state = run.state()
        is_first, self._state = self._state is None, state
        saved = SavedRun(json.loads(json.dumps(self._asked_for())), self._digest, facts, state)
        try:
            write_run(saved, self._run_path)
        except OutputError as error:
            if is_first:
                self._state = None  # there is no run to go on with, so no checkpoint is left of it
                raise
            warnings.warn(f"{error}; training goes on without saving", LfqNote, stacklevel=2)

    def _write(
        self,
        state: State,
        prepared: Prepared,
        recipe: Recipe,
        started: Started,
        tries: tuple[Try, ...],
        *,
        finished: bool,
    ) -> TrainReport:
        from lfq_cli.training.decoder import with_best_decoder
        from lfq_cli.training.levels import codes_of
        from lfq_cli.training.metrics import Metrics, unexplained_by
        from lfq_cli.training.record import quantizer_of
        from lfq_cli.training.usage import usage_of

        levels: Levels = with_best_decoder(_on_cpu(state.best), prepared.x)
        quantizer = quantizer_of(levels, prepared.space, recipe, channel_first=self._options.channel_first)
        usage = usage_of(codes_of(levels, prepared.start_x)[0], recipe.codebook_bits)
        unexplained = unexplained_by(quantizer, prepared.held_out, prepared.space)
        metrics = Metrics(unexplained, started.baselines, usage)
        described = {
            "lfq": __version__,
            "finished": finished,
            "recipe": recipe.as_json(),
            "steps": state.history[-1].step,
            "data": {"vectors": started.vectors, "held_out": started.held_out, "sha256": self._digest},
            "held_out": metrics.as_json(),
            "tries": _rows(tries),
        }
        native.write(quantizer, self._output, overwrite=self._replaces, training=described)
        self._replaces = True  # this run wrote it
        return TrainReport(self._output, quantizer, recipe, metrics, tries, state.history, started)


def _on_cpu(levels: Levels) -> Levels:
    import torch

    return levels.to(torch.device("cpu"))


def _tell_interrupted(output: Path, state: State) -> None:
    warnings.warn(
        f"{output}: holds the best of {state.history[-1].step:,} steps so far; the same command resumes from there",
        LfqNote,
        stacklevel=2,
    )


def _facts(bars: Baselines, tries: tuple[Try, ...], recipe: Recipe) -> dict[str, Any]:
    """Results from before the first step, as JSON."""
    assert recipe.shape is not None
    return {
        "baselines": {"pca_sign": bars.pca_sign, "itq": bars.itq},
        "tries": _rows(tries),
        "shape": [recipe.shape.levels, recipe.shape.bits],
    }


def _baselines_of(facts: dict[str, Any]) -> Baselines:
    from lfq_cli.training.baselines import Baselines

    return Baselines(**facts["baselines"])


def _rows(tries: tuple[Try, ...]) -> list[dict[str, Any]]:
    return [
        {"shape": [t.shape.levels, t.shape.bits], "at_start": t.at_start, "unexplained": t.unexplained} for t in tries
    ]


def _is_unfinished(output: Path) -> bool:
    """Whether `output` is what an interrupted run left there."""
    path = native.written_files(output)[0]
    try:
        described = json.loads(metadata_entry(path, "lfq") or "null")
    except (ValueError, RecursionError):
        return False
    if not native.is_native(described):
        return False
    try:
        training = native.training_of(described)
    except CheckpointError:
        return False
    return training is not None and training.get("finished") is False
