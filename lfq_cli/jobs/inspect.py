"""What a file holds: a checkpoint's quantizers, a tensor file's tensors, a codes file's header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfq_cli import checkpoints, codesfile, native
from lfq_cli.checkpoints import Facts
from lfq_cli.codesfile import CodesHeader
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.kinds import described_format
from lfq_cli.matching import fitting_layout
from lfq_cli.quantizer import Quantizer
from lfq_cli.tensors import FORMATS as TENSOR_FORMATS
from lfq_cli.tensors import Source, open_source


@dataclass(frozen=True)
class QuantizerView:
    """One quantizer of a checkpoint, or why it cannot be used as it is."""

    module: str
    family: str
    quantizer: Quantizer | None
    error: LfqError | None


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint: its quantizers."""

    path: Path
    quantizers: list[QuantizerView]


@dataclass(frozen=True)
class TensorView:
    """One tensor of a file; `encodes` says whether the given checkpoint would encode it, or why not."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    encodes: str | None


@dataclass(frozen=True)
class TensorsView:
    """A tensor file."""

    path: Path
    tensors: list[TensorView]
    left_alone: dict[str, str]


@dataclass(frozen=True)
class CodesView:
    """A codes file."""

    path: Path
    header: CodesHeader
    nbytes: int


View = CheckpointView | TensorsView | CodesView


def inspect(path: Path, facts: Facts, checkpoint: Quantizer | None = None) -> View:
    """What `path` is and holds. `checkpoint`: a quantizer to hold a tensor file's tensors against."""
    if path.is_dir():
        return _checkpoint(path, facts)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        told = described_format(path)
        if told == codesfile.FORMAT:
            return _codes(path)
        if told == native.FORMAT:
            return _checkpoint(path, facts)
    if suffix not in (".npy", ".npz"):
        view = _checkpoint(path, facts)
        if view.quantizers or suffix not in TENSOR_FORMATS:
            return view
    with open_source(path) as source:
        return _tensors(source, checkpoint)


def _codes(path: Path) -> CodesView:
    with codesfile.open_codes(path) as codes:
        return CodesView(path, codes.header, codes.nbytes)


def _checkpoint(path: Path, facts: Facts) -> CheckpointView:
    return CheckpointView(path, [_quantizer(path, item, facts) for item in checkpoints.survey(path)])


def _quantizer(path: Path, found: checkpoints.Found, facts: Facts) -> QuantizerView:
    try:
        quantizer = checkpoints.load_found(path, found, facts)
    except LfqError as error:
        return QuantizerView(found.module, found.family, None, error)
    return QuantizerView(found.module, found.family, quantizer, None)


def _tensors(source: Source, checkpoint: Quantizer | None) -> TensorsView:
    tensors = [
        TensorView(tensor.name, tensor.dtype, tensor.shape, _encodes(source, tensor.name, checkpoint))
        for tensor in source.tensors.values()
    ]
    return TensorsView(source.path, tensors, source.left_alone)


def _encodes(source: Source, name: str, checkpoint: Quantizer | None) -> str | None:
    if checkpoint is None:
        return None
    tensor = source.tensors[name]
    if tensor.dtype not in FORMATS:
        return "no: not float"
    try:
        return f"yes, {fitting_layout(source, tensor, checkpoint, None)}"
    except TensorError as error:
        return f"no: {error.message.removeprefix(f'{source.path}: {name!r} ')}"


def as_json(view: View) -> dict[str, Any]:
    """The JSON object of `lfq inspect --json`."""
    if isinstance(view, CodesView):
        return {"path": str(view.path), "kind": "codes", "bytes": view.nbytes, **view.header.as_json()}
    if isinstance(view, TensorsView):
        tensors = {
            tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            | ({} if tensor.encodes is None else {"encodes": tensor.encodes})
            for tensor in view.tensors
        }
        return {"path": str(view.path), "kind": "tensors", "tensors": tensors, "left_alone": view.left_alone}
    return {
        "path": str(view.path),
        "kind": "checkpoint",
        "quantizers": [_quantizer_json(item) for item in view.quantizers],
    }


def _quantizer_json(view: QuantizerView) -> dict[str, Any]:
    told: dict[str, Any] = {"module": view.module, "family": view.family}
    if view.error is not None:
        return told | {"error": view.error.message, "hint": view.error.hint}
    assert view.quantizer is not None
    return told | {
        "config": view.quantizer.config(),
        "unknown": sorted(view.quantizer.unknown),
        "tensors": {name: list(weight.shape) for name, weight in view.quantizer.weights.items()},
        "checkpoint_sha256": view.quantizer.digest,
    }
