"""`encode_files` and `decode_files`: what the commands do, in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfq_cli.api.codec import Codec, load
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions
from lfq_cli.jobs.file_types import is_codes_file
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.pack import PackOptions, encode_each, pack
from lfq_cli.jobs.plan import name_samples, plan_encoding, plan_jobs, refuse_idle_options
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.storage.urlpath import path_of

Paths = str | Path | Sequence[str | Path]


def encode_files(
    checkpoint: str | Path | Codec,
    inputs: Paths,
    output: str | Path,
    *,
    samples_per_file: int | None = None,
    stacked: bool = False,
    tensors: Sequence[str] = (),
    carry: Sequence[str] = (),
    carry_text: Sequence[str] = (),
    channel_axis: int | None = None,
    packing: str = "bits",
    overwrite: bool = False,
) -> list[Outcome]:
    """What `lfq encode CHECKPOINT INPUTS -o OUTPUT` does; returns the outcome of each file.

    Raises the LfqError of the first input that cannot be encoded; those before it are complete.
    """
    codec = checkpoint if isinstance(checkpoint, Codec) else load(checkpoint)
    shared: dict[str, Any] = {"packing": packing, "overwrite": overwrite, "fail_fast": True}
    samples = SampleOptions(tuple(tensors), tuple(carry), tuple(carry_text), layout=channel_axis)
    packed = PackOptions(**shared, samples=samples, samples_per_file=samples_per_file, stacked=stacked)
    if samples_per_file is not None:
        found, missed = name_samples(_strings(inputs), path_of(output), stacked=stacked, inputs_kept=[])
        return _done(pack(codec.quantizer, found, path_of(output), packed, missed=missed))
    alone = EncodeOptions(**shared, tensors=tuple(tensors), layout=channel_axis)
    jobs = plan_encoding(_strings(inputs), path_of(output))
    refuse_idle_options(jobs, {"carry": carry, "carry_text": carry_text}, stacked=stacked)
    return _done(encode_each(codec.quantizer, jobs, alone, packed))


def decode_files(
    checkpoint: str | Path | Codec, codes: Paths, output: str | Path, *, dtype: str = "F32", overwrite: bool = False
) -> list[Outcome]:
    """What `lfq decode CHECKPOINT CODES -o OUTPUT` does. dtype: F32, F16, BF16 or F64.

    Raises the LfqError of the first file that cannot be decoded.
    """
    codec = checkpoint if isinstance(checkpoint, Codec) else load(checkpoint)
    jobs = plan_jobs(
        _strings(codes),
        path_of(output),
        accepts=is_codes_file,
        rename=lambda name: name.removesuffix(".safetensors").removesuffix(".codes") + ".safetensors",
        file_suffixes=(".safetensors",),
    )
    return _done(decode(codec.quantizer, jobs, DecodeOptions(dtype=dtype, overwrite=overwrite, fail_fast=True)))


def _strings(paths: Paths) -> list[str]:
    return [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def _done(outcomes: Any) -> list[Outcome]:
    found = []
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        found.append(outcome)
    return found
