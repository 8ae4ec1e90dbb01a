"""What files hold, from their headers: quantizers, tensors, codes. Of a folder: what its codes files hold, or else
its tensor files.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfq_cli import checkpoints, codesfile, countsfile, native
from lfq_cli.checkpoints import Facts
from lfq_cli.checkpoints.files import is_checkpoint_folder
from lfq_cli.codesfile import CodesFile, CodesHeader
from lfq_cli.errors import CheckpointError, LfqError, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.file_types import described_format, is_codes_file
from lfq_cli.jobs.inputs import find_inputs, sorted_out
from lfq_cli.matching import fitting_axis
from lfq_cli.pipeline.survey import key_at
from lfq_cli.quantizer import Quantizer
from lfq_cli.tensors import FORMATS as TENSOR_FORMATS
from lfq_cli.tensors import Source, open_source

_FIRST_KEYS = 3


@dataclass(frozen=True)
class QuantizerView:
    """One quantizer of a checkpoint, or why it cannot be used without more facts."""

    found: checkpoints.Found
    quantizer: Quantizer | None
    error: LfqError | None


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint: its quantizers; how `lfq train` made it, where it did, or why that cannot be read."""

    path: Path
    quantizers: list[QuantizerView]
    training: dict[str, Any] | LfqError | None = None


@dataclass(frozen=True)
class TensorView:
    """One tensor of a file; `encodes` says whether the given checkpoint can encode it, or why not."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    encodes: str | None


@dataclass(frozen=True)
class TensorsView:
    """A tensor file. `no_quantizer` says why it is not a checkpoint either, if it could have been one."""

    path: Path
    tensors: list[TensorView]
    left_alone: dict[str, str]
    no_quantizer: LfqError | None = None


@dataclass(frozen=True)
class SamplesView:
    """The samples of a codes file; carried: name -> dtype and shape of all."""

    count: int
    first_keys: list[str]
    carried: dict[str, tuple[str, tuple[int, ...]]]
    texts: tuple[str, ...]
    inputs: int
    skipped: int


@dataclass(frozen=True)
class CodesView:
    """A codes file."""

    path: Path
    header: CodesHeader
    nbytes: int
    samples: SamplesView | None = None


View = CheckpointView | TensorsView | CodesView


def paths_in(path: Path) -> list[Path]:
    """The codes files of a folder that is not a checkpoint, or else its tensor files; else the path itself."""
    if not path.is_dir() or is_checkpoint_folder(path):
        return [path]
    for accepts in (is_codes_file, _is_tensor_file):
        with suppress(LfqError):  # it has none
            found, missed = sorted_out(find_inputs([str(path)], accepts, LfqError))
            return [*found, *missed]
    return [path]


def _is_tensor_file(path: str) -> bool:
    return Path(path).suffix.lower() in TENSOR_FORMATS


def inspect(path: Path, facts: Facts, checkpoint: Quantizer | None = None) -> View:
    """What `path` is and holds. `checkpoint`: a quantizer to check a tensor file's tensors against."""
    if path.is_dir():
        return _checkpoint(path, facts)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        format_name = described_format(path)
        if format_name == codesfile.FORMAT:
            return _codes(path)
        if format_name == native.FORMAT:
            return _checkpoint(path, facts)
        if format_name == countsfile.FORMAT:
            with open_source(path) as source:
                return _tensors(source, None, TensorError("counts of codes", "lfq stats shows what they say"))
    reason = None
    if suffix not in (".npy", ".npz"):
        try:
            return _checkpoint(path, facts)
        except CheckpointError as error:
            if suffix not in TENSOR_FORMATS:
                raise
            reason = error
    with open_source(path) as source:
        return _tensors(source, checkpoint, reason)


def _codes(path: Path) -> CodesView:
    with codesfile.open_codes(path) as codes:
        return CodesView(path, codes.header, codes.nbytes, _samples(codes))


def _samples(codes: CodesFile) -> SamplesView | None:
    samples, made_from = codes.header.samples, codes.header.made_from
    if samples is None:
        return None
    columns = {name: samples.columns[name] for name in samples.carried}
    return SamplesView(
        samples.count,
        [key_at(codes, k) for k in range(min(samples.count, _FIRST_KEYS))],
        {name: (column.dtype, column.shape) for name, column in columns.items()},
        samples.texts,
        0 if made_from is None else made_from.inputs,
        0 if made_from is None else made_from.skipped,
    )


def _checkpoint(path: Path, facts: Facts) -> CheckpointView:
    quantizers = [_quantizer(path, item, facts) for item in checkpoints.survey(path, facts)]
    return CheckpointView(path, quantizers, _training(path))


def _training(path: Path) -> dict[str, Any] | LfqError | None:
    try:
        return checkpoints.training_record(path)
    except CheckpointError as error:
        return error


def _quantizer(path: Path, found: checkpoints.Found, facts: Facts) -> QuantizerView:
    try:
        quantizer = checkpoints.load_found(path, found, facts)
    except LfqError as error:
        return QuantizerView(found, None, error)
    return QuantizerView(found, quantizer, None)


def _tensors(source: Source, checkpoint: Quantizer | None, no_quantizer: LfqError | None) -> TensorsView:
    tensors = [
        TensorView(tensor.name, tensor.dtype, tensor.shape, _encodes(source, tensor.name, checkpoint))
        for tensor in source.tensors.values()
    ]
    return TensorsView(source.path, tensors, source.left_alone, no_quantizer)


def _encodes(source: Source, name: str, checkpoint: Quantizer | None) -> str | None:
    if checkpoint is None:
        return None
    tensor = source.tensors[name]
    if tensor.dtype not in FORMATS:
        return "no: not float"
    try:
        axis = fitting_axis(f"{source.path}: {name!r}", tensor.shape, checkpoint, None)
        return f"yes, features on axis {axis.number}"
    except TensorError as error:
        return f"no: {error.message.removeprefix(f'{source.path}: {name!r} ')}"


def as_json(view: View) -> dict[str, Any]:
    """The JSON object of `lfq inspect --json`."""
    if isinstance(view, CodesView):
        fields = {"path": str(view.path), "kind": "codes", "bytes": view.nbytes, **view.header.as_json()}
        return fields if view.samples is None else fields | {"first_keys": view.samples.first_keys}
    if isinstance(view, TensorsView):
        tensors = {
            tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            | ({} if tensor.encodes is None else {"encodes": tensor.encodes})
            for tensor in view.tensors
        }
        fields = {"path": str(view.path), "kind": "tensors", "tensors": tensors, "left_alone": view.left_alone}
        return fields if view.no_quantizer is None else fields | {"no_quantizer": _error_json(view.no_quantizer)}
    quantizers = [_quantizer_json(item) for item in view.quantizers]
    fields = {"path": str(view.path), "kind": "checkpoint", "quantizers": quantizers}
    if view.training is None:
        return fields
    return fields | {"training": _error_json(view.training) if isinstance(view.training, LfqError) else view.training}


def _quantizer_json(view: QuantizerView) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "module": view.found.module,
        "family": view.found.family,
        "shown_by": list(view.found.shown_by),
    }
    if view.error is not None:
        return fields | _error_json(view.error)
    assert view.quantizer is not None
    return fields | {
        "config": view.quantizer.full_config(),
        "codebook_dims": list(view.quantizer.codebook_dims),
        "assumed": view.quantizer.assumptions(),
        "tensors": {name: list(weight.shape) for name, weight in view.quantizer.weights.items()},
        "checkpoint_sha256": view.quantizer.digest,
    }


def _error_json(error: LfqError) -> dict[str, Any]:
    return {"error": error.message, "hint": error.hint}
