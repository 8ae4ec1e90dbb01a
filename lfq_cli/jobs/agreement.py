"""Whether samples or parts of several codes files can go into one file, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfq_cli.codesfile import CodesHeader, CodesTensor
from lfq_cli.codesfile.header import OFFSETS
from lfq_cli.container import tensor_bytes
from lfq_cli.errors import CodesFileError
from lfq_cli.wording import counted

_MOST_LETTERS = 60


def require_samples(path: Path, header: CodesHeader) -> None:
    """Raises CodesFileError unless the file holds samples and nothing else that would be lost."""
    if header.samples is None or header.made_from is None:
        lacks = "samples" if header.samples is None else "record of what they were made from"
        raise CodesFileError(
            f"{path}: holds {counted(len(header.tensors), 'tensor')} and no {lacks}",
            "lfq merge and lfq split take files of samples, as lfq encode --samples-per-file N writes them",
        )
    samples = header.samples
    texts = (samples.keys, *samples.texts)
    known = {*samples.carried, *texts, *(name + OFFSETS for name in texts)}
    unknown = samples.columns.keys() - known - {tensor.offsets for tensor in header.tensors.values()}
    if unknown:
        raise CodesFileError(f"{path}: {min(unknown)!r} belongs to no sample, and would be lost")
    for name in samples.carried:
        try:
            tensor_bytes(samples.columns[name].dtype, samples.columns[name].shape[1:])
        except ValueError as reason:
            raise CodesFileError(f"{path}: the rows of {name!r} cannot be moved: {reason}") from reason


def require_compatible(path: Path, header: CodesHeader, first_path: Path, first: CodesHeader) -> None:
    """Raises CodesFileError, naming the difference, if the samples of two files cannot go into one file."""
    _require_same(path, dict(_facts(header)), first_path, dict(_facts(first)))


def require_same_whole(path: Path, header: CodesHeader, first_path: Path, first: CodesHeader) -> None:
    """Raises CodesFileError, naming the difference, if two files are not parts of one whole.

    A tensor that only one of them holds is no difference: the last parts of a file lack its shorter tensors.
    """
    common = header.tensors.keys() & first.tensors.keys()
    _require_same(path, dict(_facts_of_part(header, common)), first_path, dict(_facts_of_part(first, common)))


def _require_same(path: Path, found: dict[str, Any], first_path: Path, wanted: dict[str, Any]) -> None:
    for what in {**wanted, **found}:
        if wanted.get(what) != found.get(what):
            raise CodesFileError(
                f"{path}: {what} is {_shown(found.get(what))}, in {first_path} it is {_shown(wanted.get(what))}",
                "only files with the same encoding can be merged; lfq inspect shows what each holds",
            )


def _facts_of_part(header: CodesHeader, names: Set[str]) -> Iterator[tuple[str, Any]]:
    """What must be the same in all parts of a whole."""
    made_from = header.made_from
    assert made_from is not None
    yield "the size of its source", made_from.nbytes
    yield "the fingerprint of its source", made_from.fingerprint
    yield "--nan", made_from.nan
    yield "what it was made from", replace(made_from, zeroed=0).entry()
    yield from _facts_of_codes(header)
    for name in sorted(names):
        tensor = header.tensors[name]
        yield from _facts_of_tensor(tensor)
        yield f"the shape of a row of {name!r}", tensor.source.shape[1:]
        yield f"the number of rows of the whole of {name!r}", None if tensor.part is None else tensor.part.of


def _facts_of_codes(header: CodesHeader) -> Iterator[tuple[str, Any]]:
    yield "checkpoint_sha256", header.checkpoint_sha256
    yield "compute_dtype", header.compute_dtype
    for key, value in header.quantizer.items():
        yield f"{key} of the quantizer", value
    for key, value in header.assumed.items():
        yield f"{key}, which was assumed,", value


def _facts_of_tensor(tensor: CodesTensor) -> Iterator[tuple[str, Any]]:
    name = tensor.name
    yield f"codebook_dims of {name!r}", tensor.codebook_dims
    yield f"bit_order of {name!r}", tensor.bit_order
    yield f"packing of {name!r}", tensor.packing
    yield f"dtype of {name!r}", tensor.dtype
    yield f"the dtype from which {name!r} was encoded", tensor.source.dtype
    yield f"the channel axis of {name!r}", tensor.source.channel_axis
    yield f"whether the channel axis of {name!r} was assumed", tensor.source.axis_is_assumed
    yield f"the number of codebook axes of {name!r}", len(tensor.shape) - len(tensor.positions)


def _facts(header: CodesHeader) -> Iterator[tuple[str, Any]]:
    """What must be the same in all files of samples, by its name in messages; the most informative first."""
    yield from _facts_of_codes(header)
    yield "the list of tensors", sorted(header.tensors)
    for name, tensor in header.tensors.items():
        yield from _facts_of_tensor(tensor)
        yield f"the shape of a sample of {name!r}", tensor.source.shape
        yield f"the column of sample_offsets of {name!r}", tensor.offsets
    samples = header.samples
    assert samples is not None
    yield "the column of keys", samples.keys
    yield "the list of carried tensors", sorted(samples.carried)
    yield "the list of carried texts", sorted(samples.texts)
    for name in samples.carried:
        yield f"dtype of {name!r}", samples.columns[name].dtype
        yield f"the shape of a row of {name!r}", samples.columns[name].shape[1:]


def _shown(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, tuple):
        return "[" + ", ".join("any" if size is None else str(size) for size in value) + "]"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _MOST_LETTERS else shown[: _MOST_LETTERS - 1] + "…"
