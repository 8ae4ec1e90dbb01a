"""Saved file -> Quantizer. Native checkpoints first, then the families of foreign state dicts, in a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lfq_cli import native
from lfq_cli.checkpoints import lucidrains
from lfq_cli.checkpoints.facts import Facts, check_agreement
from lfq_cli.checkpoints.statefile import StateFile, open_state
from lfq_cli.errors import CheckpointError, LfqError
from lfq_cli.quantizer import Quantizer

__all__ = ["FAMILIES", "Facts", "Found", "load", "load_found", "survey"]

FAMILIES: Mapping[str, ModuleType] = {"lucidrains": lucidrains}
"""name -> module with `find(state) -> module paths` and `build(state, module, facts) -> Quantizer`."""

NATIVE = "native"


@dataclass(frozen=True)
class Found:
    """One quantizer of a checkpoint: where it is and by which family's rules it is read."""

    module: str
    family: str


def load(path: Path, facts: Facts = Facts()) -> Quantizer:  # noqa: B008 - frozen
    """The quantizer saved at `path`: a native file or folder, or a state dict completed by `facts`.

    Raises CheckpointError where there is none, or several and `facts.module` does not choose.
    """
    with open_checkpoint(path) as (state, description):
        return _build(state, description, _choose(path, find(state, description), facts.module), facts)


def load_found(path: Path, found: Found, facts: Facts) -> Quantizer:
    """The quantizer that `survey` found."""
    with open_checkpoint(path) as (state, description):
        return _build(state, description, found, facts)


def _build(state: StateFile, description: dict[str, Any] | None, found: Found, facts: Facts) -> Quantizer:
    try:
        if description is not None:
            return replace(_load_native(state, description, facts), origin=str(state.path))
        quantizer: Quantizer = FAMILIES[found.family].build(state, found.module, facts)
        return replace(quantizer, origin=str(state.path))
    except LfqError as error:
        if str(state.path) in error.message:
            raise
        raise type(error)(f"{state.path}: {error.message}", error.hint) from error


def survey(path: Path) -> list[Found]:
    """Every quantizer in the checkpoint at `path`."""
    with open_checkpoint(path) as (state, description):
        return find(state, description)


def find(state: StateFile, description: dict[str, Any] | None) -> list[Found]:
    """Every quantizer in an open checkpoint."""
    if description is not None:
        return [Found("", NATIVE)]
    return [Found(module, family) for family, rules in FAMILIES.items() for module in rules.find(state)]


@contextmanager
def open_checkpoint(path: Path) -> Iterator[tuple[StateFile, dict[str, Any] | None]]:
    """(tensors, native description or None) of the checkpoint at `path`, for as long as the block lasts."""
    described, model, text = _files(path)
    with open_state(model) as state:
        told = _description(described, text) or _description(model, state.metadata.get("lfq"))
        yield state, told


def _files(path: Path) -> tuple[Path, Path, str | None]:
    """(config's path, tensors' path, config's text if there is one) of a checkpoint file or folder."""
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
        raise CheckpointError(f"{path}: no such file or folder")
    if not path.is_dir():
        return path, path, None
    config, model = path / native.CONFIG_NAME, path / native.MODEL_NAME
    if not model.is_file():
        raise CheckpointError(f"{path}: no checkpoint folder: it has no {native.MODEL_NAME}", "name the file itself")
    try:
        return config, model, config.read_text(encoding="utf-8") if config.is_file() else None
    except (OSError, UnicodeDecodeError) as reason:
        raise CheckpointError(f"{config}: cannot be read: {reason}") from reason


def _description(path: Path, text: str | None) -> dict[str, Any] | None:
    """The parsed text where it calls itself a native checkpoint."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise CheckpointError(f"{path}: its description is no JSON: {reason}") from reason
    return value if native.is_native(value) else None


def _load_native(state: StateFile, description: dict[str, Any], facts: Facts) -> Quantizer:
    tensors = {name: tensor for name, tensor in state.tensors.items() if name != "mask"}
    wrong = {
        name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in ("F32", "F16", "BF16", "F64")
    }
    if wrong:
        raise CheckpointError(f"its tensors have dtypes {wrong}, expected floats")
    quantizer = native.parse(description, {name: tensor.read() for name, tensor in tensors.items()})
    check_agreement(quantizer.config(), facts)
    return quantizer


def _choose(path: Path, found: list[Found], module: str | None) -> Found:
    listing = ", ".join(repr(item.module) if item.module else "one at the top" for item in found)
    if module is not None:
        exact = [item for item in found if item.module == module]
        found = exact or [item for item in found if item.module.endswith(f".{module}")]
        if not found:
            raise CheckpointError(f"{path}: no lookup-free quantizer at {module!r}", f"it has {listing or 'none'}")
    if not found:
        raise CheckpointError(
            f"{path}: no lookup-free quantizer in it",
            "expected a native checkpoint, or a state dict with the LFQ's `mask` buffer",
        )
    if len(found) > 1:
        raise CheckpointError(f"{path}: {len(found)} quantizers in it: {listing}", "--module chooses one")
    return found[0]
