"""Opens a checkpoint, finds its quantizers and reads the one that is meant: a native one, or that of a family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lfq_cli import native
from lfq_cli.checkpoints.facts import Facts, check_agreement, cut_codes
from lfq_cli.checkpoints.files import checkpoint_files, open_tensors, parse_json, read_json
from lfq_cli.checkpoints.statefile import FIRST, StateFile
from lfq_cli.dtypes import PLAIN_FLOATS
from lfq_cli.errors import CheckpointError, LfqError, OptionError
from lfq_cli.quantizer import Quantizer

NATIVE = "native"


@dataclass(frozen=True)
class Found:
    """One quantizer of a checkpoint: where it is, by which family's rules it is read, and what showed it."""

    module: str
    family: str
    shown_by: tuple[str, ...] = ()


def load(path: Path, facts: Facts = Facts()) -> Quantizer:  # noqa: B008 - frozen
    """The quantizer saved at `path`: a native file or folder, or a state dict completed by `facts`.

    Raises CheckpointError if there is none, or several different ones and `facts.module` does not choose.
    """
    with open_checkpoint(path) as (state, description):
        found = _matching(path, find(state, description, facts.family), facts.module)
        if not found:
            raise _nothing_found(path, state, facts)
        return _the_one(path, found, [_built_or_error(state, description, item, facts) for item in found])


def load_found(path: Path, found: Found, facts: Facts) -> Quantizer:
    """The quantizer that `survey` found."""
    with open_checkpoint(path) as (state, description):
        return _build(state, description, found, facts)


def training_record(path: Path) -> dict[str, Any] | None:
    """How `lfq train` made the native checkpoint at `path`, and its held-out metrics; None if it says nothing."""
    with open_checkpoint(path) as (state, description), _naming(state.path):
        return None if description is None else native.training_of(description)


def survey(path: Path, facts: Facts = Facts()) -> list[Found]:  # noqa: B008 - frozen
    """Every quantizer in the checkpoint at `path`. Raises CheckpointError, as `load`, where there is none."""
    with open_checkpoint(path) as (state, description):
        found = find(state, description, facts.family)
        if not found:
            raise _nothing_found(path, state, facts)
        return found


def find(state: StateFile, description: dict[str, Any] | None, family: str | None = None) -> list[Found]:
    """Every quantizer in an open checkpoint; those of one family only, if it is named."""
    if description is not None:
        return [Found("", NATIVE)]
    from lfq_cli.checkpoints.families import FAMILIES  # late, as below: a native checkpoint needs none of these modules

    if family is not None and family not in FAMILIES:
        raise OptionError(f"--family {family} is unknown", f"expected one of {', '.join(FAMILIES)}")
    claimed: set[str] = set()
    found = []
    for name, rules in FAMILIES.items():
        if family == name or (family is None and not rules.ONLY_IF_NAMED):
            for module, signs in rules.find(state).items():
                if claimed.isdisjoint(signs):
                    claimed.update(signs)
                    found.append(Found(module, name, tuple(signs)))
    return found


@contextmanager
def open_checkpoint(path: Path) -> Iterator[tuple[StateFile, dict[str, Any] | None]]:
    """(tensors, native description or None) of the checkpoint at `path`, for as long as the block lasts."""
    files = checkpoint_files(path)
    described = None if files.config is None else read_json(files.config)
    with open_tensors(files.tensors) as state:
        if not native.is_native(described):
            text = state.metadata.get("lfq")
            described = None if text is None else parse_json(files.tensors, text)
        yield state, described if native.is_native(described) else None


def _the_one(path: Path, found: list[Found], built: list[Quantizer | LfqError]) -> Quantizer:
    """The quantizer that all of them are (an EMA copy may equal its original). Raises the error of an only one."""
    first = built[0]
    if len(built) == 1 and isinstance(first, LfqError):
        raise first
    if isinstance(first, Quantizer) and all(isinstance(q, Quantizer) and q.digest == first.digest for q in built):
        return first
    raise CheckpointError(f"{path}: {len(found)} different quantizers in it: {_listing(found)}", "--module chooses one")


def _built_or_error(
    state: StateFile, description: dict[str, Any] | None, found: Found, facts: Facts
) -> Quantizer | LfqError:
    try:
        return _build(state, description, found, facts)
    except LfqError as error:
        return error


def _build(state: StateFile, description: dict[str, Any] | None, found: Found, facts: Facts) -> Quantizer:
    with _naming(state.path):
        if description is not None:
            quantizer = _load_native(state, description, facts)
        else:
            from lfq_cli.checkpoints.families import FAMILIES

            quantizer = FAMILIES[found.family].build(state, found.module, facts)
        return replace(quantizer, origin=str(state.path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors within the block name the file."""
    try:
        yield
    except LfqError as error:
        if str(path) in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", error.hint) from error


def _load_native(state: StateFile, description: dict[str, Any], facts: Facts) -> Quantizer:
    tensors = {name: tensor for name, tensor in state.tensors.items() if name != "mask"}
    wrong = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in PLAIN_FLOATS.values()}
    if wrong:
        raise CheckpointError(f"its tensors have dtypes {wrong}, expected floats")
    if facts.family is not None:
        raise OptionError("it is a native checkpoint, which has no family", "leave --family out")
    quantizer = native.parse(description, {name: tensor.read() for name, tensor in tensors.items()})
    given = facts.config()
    if facts.codebook_dims is not None:
        quantizer = _cut(quantizer, facts.codebook_dims)
    config = quantizer.full_config()
    free = quantizer.assumed | {"keep_num_codebooks_dim"}  # where indices stand is the caller's choice
    check_agreement(config, {key: given[key] for key in given if key not in free})
    overrides = {key: given[key] for key in given if key in free}
    if facts.channel_first is not None:
        overrides["channel_first"] = facts.channel_first
    return replace(quantizer, **overrides, assumed=quantizer.assumed - set(overrides))


def _cut(quantizer: Quantizer, dims: tuple[int, ...]) -> Quantizer:
    """The quantizer with indices of so many bits. Raises OptionError if it has other bits, or levels."""
    quantizer = replace(quantizer, assumed=quantizer.assumed - {"factorized_bits"})
    if dims == quantizer.codebook_dims:
        return quantizer
    if quantizer.is_residual:
        raise OptionError("a residual quantizer has an index for every level", "leave --codebook-dims out")
    cut = cut_codes(dims, quantizer.codebook_dim, quantizer.num_codebooks)
    return quantizer.cut(cut.get("factorized_bits"), quantizer.codebook_dim, quantizer.num_codebooks)


def _matching(path: Path, found: list[Found], module: str | None) -> list[Found]:
    """Those at `module`, by the whole path or its end; all where none is named."""
    if module is None:
        return found
    exact = [item for item in found if item.module == module]
    chosen = exact or [item for item in found if item.module.endswith(f".{module}")]
    if not chosen:
        raise CheckpointError(f"{path}: no lookup-free quantizer at {module!r}", f"it has {_listing(found) or 'none'}")
    return chosen


def _listing(found: list[Found]) -> str:
    return ", ".join(repr(item.module) if item.module else "one at the top" for item in found)


def _nothing_found(path: Path, state: StateFile, facts: Facts) -> CheckpointError:
    from lfq_cli.checkpoints import refused
    from lfq_cli.checkpoints.families import FAMILIES

    if '"lfq-codes"' in state.metadata.get("lfq", ""):
        return CheckpointError(f"{path}: is a codes file, expected a checkpoint", FIRST)
    if facts.family is not None:
        return CheckpointError(
            f"{path}: no quantizer of family {facts.family} in it", "leave --family out to see what is"
        )
    reason = refused.explain(state)
    if reason is not None:
        return CheckpointError(
            f"{path}: no lookup-free quantizer in it; it looks like {reason.looks_like}", reason.hint
        )
    return CheckpointError(
        f"{path}: no lookup-free quantizer in it",
        "expected a native checkpoint, or the state dict of one of these families:"
        f" {', '.join(FAMILIES)} (--family names those that leave nothing in the file)",
    )
