"""`create`: a codes file of samples, filled batch by batch in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from lfq_cli import backends
from lfq_cli.api.arrays import is_torch, tensor_of
from lfq_cli.api.codec import Codec
from lfq_cli.codesfile import MadeFrom, SourceInfo
from lfq_cli.codesfile.builder import Coding, SamplesBuilder
from lfq_cli.codesfile.columns import bad_key
from lfq_cli.container import tensor_bytes
from lfq_cli.errors import OptionError, TensorError
from lfq_cli.files import refuse_existing
from lfq_cli.jobs.encode import require_certain_bits
from lfq_cli.jobs.keys import KeySet
from lfq_cli.matching import fitting_axis
from lfq_cli.pipeline.samples import Batch, Plan, SampleEncoder, SampleOptions
from lfq_cli.regions import MemoryRegion
from lfq_cli.samples import BadSample, Sample
from lfq_cli.storage.outputs import room_for
from lfq_cli.storage.urlpath import path_of
from lfq_cli.tensors import StoredTensor


def create(
    path: str | Path,
    codec: Codec,
    *,
    name: str = "latents",
    channel_axis: int | None = None,
    ragged: bool = False,
    nan: Literal["error", "zero"] = "error",
    overwrite: bool = False,
) -> Creator:
    """A codes file that takes samples: `with create("out.codes.safetensors", codec) as out: out.append(x, keys=...)`.

    The file appears when the block ends without error, and only then. channel_axis: of one sample's features; a sample
    [D, 16, 16] has them on axis 0. By default the rule for a batch decides: [n, D, ...] or [n, ..., D]. ragged: whether
    samples may differ in length on their first axis without features. Raises ExistsError if something exists at the
    path and `overwrite` is false.
    """
    options = SampleOptions(layout=channel_axis, carry=("*",), ragged=ragged, zero_nan=nan == "zero")
    return Creator(path_of(path), codec, name, options, overwrite=overwrite)


class Creator:
    """Takes batches of samples; closing it writes the file."""

    def __init__(self, path: Path, codec: Codec, name: str, options: SampleOptions, *, overwrite: bool) -> None:
        refuse_existing(path, overwrite=overwrite)
        self._path = path
        self._name = name
        self._options = options
        self._overwrite = overwrite
        quantizer = codec.quantizer
        require_certain_bits(quantizer)
        self._backend = backends.select(codec._device, quantizer, codec._compute_dtype, decoding=False)
        self._coding = Coding(
            quantizer.config(),
            quantizer.digest,
            self._backend.compute_dtype,
            quantizer.assumptions(),
            quantizer.codebook_dims,
            quantizer.index_tail,
            quantizer.bit_order,
        )
        self._encoder = SampleEncoder(self._backend, options)
        self._builder: SamplesBuilder | None = None
        self._plan: Plan | None = None
        self._closed = False
        self._keys = KeySet()
        self._count = self._nbytes = self._zeroed = 0

    def __len__(self) -> int:
        return self._count

    def append(self, x: Any, keys: Sequence[str] | None = None, **carried: Any) -> None:
        """Adds samples: x [n, ...] of numpy or torch, or a list of arrays; a key for each, by default their numbers.

        carried: columns stored with the samples, as labels=[n]: integers, floats or bools [n, ...]; texts as lists of
        str. Raises TensorError for samples unlike those before, OptionError for a key that was used before.
        """
        if self._closed:
            raise OptionError(f"{self._path}: is closed", "append samples before close, or before the block ends")
        arrays = list(x)
        names = [str(self._count + k) for k in range(len(arrays))] if keys is None else [str(key) for key in keys]
        for what, values in {"keys": names, **carried}.items():
            if not hasattr(values, "__len__") or getattr(values, "shape", None) == ():
                raise OptionError(f"{what} is a single value, expected one for each sample")
            if len(values) != len(arrays):
                raise OptionError(f"{what}: {len(values)} for {len(arrays)} samples")
        texts = {name: values for name, values in carried.items() if _are_texts(values)}
        columns = {name: _rows(name, values) for name, values in carried.items() if name not in texts}
        self._check_keys(names)
        options = SampleOptions(
            layout=self._axis(x) if self._options.layout is None else self._options.layout,
            carry=tuple(columns),
            carry_text=tuple(texts),
            ragged=self._options.ragged,
            zero_nan=self._options.zero_nan,
        )
        self._encoder.options = options
        with self._backend.working():
            for batch in self._encoder.batches(self._samples(arrays, names, columns, texts)):
                if isinstance(batch, BadSample):
                    raise batch.error
                self._add(batch)

    def _axis(self, x: Any) -> int | None:
        """The axis of a sample's features, by the rule for the batch: [n, D, ...] or [n, ..., D]."""
        shape = getattr(x, "shape", ())
        if len(shape) < 2:
            return None
        axis = fitting_axis("the batch", tuple(shape), self._backend.quantizer, None).number
        return axis - 1 if axis else None

    def _check_keys(self, names: Sequence[str]) -> None:
        for name in names:
            wrong = bad_key(name)
            if wrong is not None:
                raise OptionError(f"the key {name!r} {wrong}")
        twice = self._keys.add(names)
        if any(twice):
            raise OptionError(f"the key {names[twice.index(True)]!r} came before", "keys must be unique")

    def _samples(
        self,
        arrays: Sequence[Any],
        names: Sequence[str],
        columns: Mapping[str, Sequence[StoredTensor]],
        texts: Mapping[str, Sequence[str]],
    ) -> Iterator[Sample]:
        for k, (array, name) in enumerate(zip(arrays, names, strict=True)):
            tensors = {self._name: tensor_of(self._name, array)} | {each: found[k] for each, found in columns.items()}
            yield Sample(name, f"sample {name!r}", tensors, {each: values[k] for each, values in texts.items()})

    def _add(self, batch: Batch) -> None:
        if self._builder is None or self._plan is None:
            sources = {
                name: SourceInfo(found.shape, found.dtype, found.axis.number, found.axis.is_assumed)
                for name, found in batch.plan.encoded.items()
            }
            folder = room_for(self._path)
            self._plan = batch.plan
            self._builder = SamplesBuilder(self._coding, sources, batch.plan.carried, batch.plan.texts, folder)
        elif not batch.plan.is_like(self._plan):
            raise TensorError(
                f"{batch.wheres[0]} differs from the samples before it: {_described(batch.plan)}, "
                f"not {_described(self._plan)}",
                "ragged=True lets samples differ in their first axis",
            )
        self._builder.add(batch.keys, batch.streams, batch.lengths, batch.carried, batch.texts)
        self._count += len(batch)
        self._nbytes += sum(batch.sizes)
        self._zeroed += sum(batch.nan_values)

    def close(self) -> None:
        """Writes the file, once. Raises OptionError if there are no samples."""
        if self._closed:
            return
        if self._builder is None:
            raise OptionError(f"{self._path}: no sample was appended")
        nan = "zero" if self._options.zero_nan else "error"
        made_from = MadeFrom(self._nbytes, nan, self._zeroed, options={"from": "python"})
        with self._builder:
            self._builder.write(self._path, made_from, overwrite=self._overwrite, durable=True)
        self._builder, self._closed = None, True

    def __enter__(self) -> Creator:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._builder is not None:
            self._builder.__exit__()


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(value, str) for value in values)


def _rows(name: str, values: Any) -> list[StoredTensor]:
    """A column's rows as separate tensors."""
    try:
        column = tensor_of(name, values if is_torch(values) else np.asarray(values))
    except TensorError as error:
        raise OptionError(f"{name}: {error.message}, expected numbers or a list of texts") from error
    except ValueError as error:
        raise OptionError(f"{name}: rows of different lengths, expected numbers or a list of texts") from error
    nbytes = tensor_bytes(column.dtype, column.shape[1:])
    assert isinstance(column.region, MemoryRegion)
    parts = [column.region.data[k * nbytes : (k + 1) * nbytes] for k in range(column.shape[0])]
    return [StoredTensor(name, column.dtype, column.shape[1:], MemoryRegion(part)) for part in parts]


def _described(plan: Plan) -> str:
    encoded = ", ".join(f"{name!r} {each.dtype} {list(each.shape)}" for name, each in plan.encoded.items())
    carried = ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in plan.carried.items())
    return f"{encoded}; {carried or 'nothing carried'}"
