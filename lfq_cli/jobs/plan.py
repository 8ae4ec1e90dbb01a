"""Which output belongs to which input: a given name, or a tree mirrored under a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lfq_cli.codesfile import SUFFIX
from lfq_cli.errors import CodesFileError, LfqError, OptionError, TensorError
from lfq_cli.jobs.file_types import is_codes_file, is_tensor_file
from lfq_cli.jobs.inputs import Accepts, Folder, Inputs, find_inputs
from lfq_cli.jobs.sample_inputs import SampleInputs
from lfq_cli.samples import CONTAINERS, container_of, stem_of
from lfq_cli.storage.outputs import refuse_read_only
from lfq_cli.storage.places import below, deepest, is_folder, is_taken, real_folder, real_path
from lfq_cli.storage.urlpath import path_of
from lfq_cli.tensors import FORMATS


@dataclass(frozen=True)
class Job:
    """One input and its output; `error`: why the input cannot be read, if already known."""

    source: Path
    output: Path
    error: LfqError | None = None
    part: int | None = None
    """Which part of the input the output is made from, by its number; None: the whole."""
    nbytes: int | None = None
    """Bytes of that part."""


def plan_jobs(
    arguments: Sequence[str],
    output: Path,
    *,
    accepts: Accepts,
    rename: Callable[[str], str],
    file_suffixes: Sequence[str],
    error: type[LfqError] = TensorError,
    inputs_kept: Sequence[Path] = (),
) -> list[Job]:
    """Pairs every input with its output.

    One file with an `output` that ends in one of `file_suffixes` is written there. Otherwise `output` is a folder in
    which the inputs' tree is mirrored, starting at the deepest folder that holds all their roots: a named folder, or
    the part of a glob before its first wildcard. Raises OptionError if two inputs would write the same output, and
    where an output would replace an input or one of `inputs_kept`.
    """
    refuse_read_only(output)
    found = find_inputs(arguments, accepts, error)
    jobs = _one_job(found, output, file_suffixes) or _mirrored(found, output, rename)
    _refuse_collisions(jobs)
    refuse_to_replace([job.output for job in jobs], [*inputs_kept, *(job.source for job in jobs)])
    return jobs


def plan_encoding(arguments: Sequence[str], output: Path, *, inputs_kept: Sequence[Path] = ()) -> list[Job]:
    """Pairs tensor files with codes files, as `plan_jobs` does."""
    return plan_jobs(
        arguments,
        output,
        accepts=is_tensor_file,
        rename=lambda name: stem_of(name) + SUFFIX,
        file_suffixes=(".safetensors",),
        inputs_kept=inputs_kept,
    )


def name_samples(
    arguments: Sequence[str], output: Path, *, stacked: bool, inputs_kept: Sequence[Path]
) -> tuple[SampleInputs, list[Job]]:
    """The files with samples that the arguments name, each named by its place in the tree, to be packed in the folder
    `output`; and the unreadable ones, as failed jobs.

    Raises OptionError if `output` is not a folder, or if one of the inputs or of `inputs_kept` would be
    overwritten.
    """
    refuse_read_only(output)
    if is_taken(output) and not is_folder(output):
        raise OptionError(f"{output}: is a file, expected a folder for files of samples")
    if output.suffix in (*FORMATS, *CONTAINERS):
        raise OptionError(f"{output}: is the name of a file, expected a folder for files of samples")
    inputs, missed = sample_inputs(arguments, stacked=stacked)
    folder = real_folder(output)
    for path in inputs.named(SUFFIX):
        if real_folder(path.parent) == folder:
            raise OptionError(
                f"{path}: is an input of this command and inside its output folder", "name another output"
            )
    missed = [replace(job, output=output) for job in missed]
    refuse_to_replace([path for path in inputs_kept if path.name.endswith(SUFFIX)], [output])
    return inputs, missed


def sample_inputs(arguments: Sequence[str], *, stacked: bool) -> tuple[SampleInputs, list[Job]]:
    """The files with samples that the arguments name, each named by its place in the tree; and the unreadable ones, as
    failed jobs.
    """
    folders = find_inputs(arguments, is_tensor_file, TensorError).folders
    found, missed = [], []
    for folder, place in zip(folders, _places(folders), strict=True):
        if folder.error is None:
            found.append((str(folder.path), place, folder.names))
        else:
            missed += [Job(folder.path / name, folder.path / name, folder.error) for name in folder.names]
    return SampleInputs(found, stacked=stacked), missed


def plan_wholes(arguments: Sequence[str], output: Path, whole: Callable[[str], str]) -> list[Job]:
    """Pairs every codes file with the one it is a part of: the file `output`, or `whole(name)` in the tree mirrored
    under the folder `output`.

    Raises OptionError if `output` is neither or would replace an input, CodesFileError if a folder cannot be
    read: parts would be missed.
    """
    found = find_inputs(arguments, is_codes_file, CodesFileError)
    for item in found:
        if item.error is not None:
            raise item.error
    is_there = is_folder(output)
    if not is_there and output.suffix == ".safetensors":
        jobs = [Job(item.path, output) for item in found]
    elif is_there or not (is_taken(output) or output.suffix in (*FORMATS, *CONTAINERS)):
        jobs = _mirrored(found, output, whole)
    else:
        raise OptionError(f"{output}: is the name of a file, expected a folder or a name in .safetensors")
    refuse_to_replace([job.output for job in jobs], [job.source for job in jobs])
    return jobs


def source_jobs(sources: Sequence[str], arguments: Sequence[str], codes: Sequence[Path], accepts: Accepts) -> list[Job]:
    """The jobs that would encode `sources` into `codes`, the files that `arguments` named; outputs as in `real_path`.

    A single source belongs to a single codes file. Otherwise the codes lie where `lfq encode SOURCES -o FOLDER` puts
    them; FOLDER is the folder that was named, or the deepest that holds all codes files.
    """
    found = find_inputs(sources, accepts, TensorError)
    if len(found) == 1 and found[0].named and len(codes) == 1:
        return [Job(found[0].path, real_path(codes[0]))]
    folders = [path for path in map(path_of, arguments) if is_folder(path)]
    if len(folders) > 1:
        raise OptionError("several folders of codes cannot be paired with sources", "verify one folder at a time")
    folder = real_folder(folders[0] if folders else deepest([real_path(path).parent for path in codes]))
    jobs = _mirrored(found, folder, lambda name: stem_of(name) + SUFFIX)
    return [replace(job, output=real_path(job.output)) for job in jobs]


def holds_many(job: Job, *, stacked: bool) -> bool:
    """Whether a job's input holds many samples."""
    return job.error is None and (stacked or container_of(job.source.name) is not None)


def refuse_idle_options(jobs: Sequence[Job], given: Mapping[str, object], *, stacked: bool) -> None:
    """given: options for samples, by parameter name. Raises OptionError if one is set and no input holds many."""
    idle = [name for name, value in given.items() if value]
    if idle and not any(holds_many(job, stacked=stacked) for job in jobs):
        option = f"--{min(idle).replace('_', '-')}"
        raise OptionError(f"{option} belongs to samples", "add --samples-per-file N, --file-size SIZE or --stacked")


def refuse_to_replace(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises OptionError if an output is one of the files to read."""
    folder_of = cache(real_folder)  # for 10,000 files in few folders

    def real(path: Path) -> str:
        return os.path.realpath(path) if path.is_symlink() else os.path.join(folder_of(path.parent), path.name)  # noqa: PTH118

    written = {real(output): output for output in outputs}
    for path in inputs:
        output = written.get(real(path))
        if output is not None:
            raise OptionError(f"{output}: is an input of this command and would be replaced", "name another output")


def _one_job(found: Inputs, output: Path, file_suffixes: Sequence[str]) -> list[Job]:
    """The job of a single input that names its output file; empty where `output` is a folder."""
    single = len(found) == 1 and found[0].named
    is_there = is_folder(output)
    if single and not is_there and output.suffix in file_suffixes:
        return [Job(found[0].path, output)]
    expected = f"a folder or a name in {' or '.join(file_suffixes)}" if single else "a folder"
    if not is_there and is_taken(output):
        raise OptionError(f"{output}: is a file, expected {expected}")
    if not is_there and output.suffix in (*FORMATS, *CONTAINERS, *file_suffixes):
        raise OptionError(f"{output}: is the name of a file, expected {expected}")
    return []


def _mirrored(found: Inputs, output: Path, rename: Callable[[str], str]) -> list[Job]:
    """Jobs whose outputs mirror, under `output`, the inputs' tree under the deepest folder that holds all roots."""
    jobs = []
    for folder, place in zip(found.folders, _places(found.folders), strict=True):
        mirrored = output / place
        jobs += [Job(folder.path / name, mirrored / rename(name), folder.error) for name in folder.names]
    return jobs


def _places(folders: Sequence[Folder]) -> list[str]:
    """Each folder, relative to the deepest that holds all roots; "" for that folder itself."""
    if not folders:
        return []
    top = deepest([folder.root for folder in folders])
    return [below(folder.root / folder.below, top) for folder in folders]


def _refuse_collisions(jobs: list[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        if job.error is not None:
            continue
        other = sources.setdefault(job.output, job.source)
        if other != job.source:
            raise OptionError(
                f"{other} and {job.source} would both write {job.output}",
                "encode them into different folders, or rename one",
            )
