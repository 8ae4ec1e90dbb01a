"""Which files a run reads and which it writes: inputs are files, folders or globs, outputs are mirrored under OUT."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lfq_cli.codesfile import SUFFIX
from lfq_cli.errors import LfqError, OptionError, TensorError
from lfq_cli.tensors import FORMATS


@dataclass(frozen=True)
class Job:
    """One input and the output made from it."""

    source: Path
    output: Path


@dataclass(frozen=True)
class _Found:
    """A file and the folder that its mirrored path starts from."""

    path: Path
    root: Path
    named: bool = False
    """Whether the user named the file itself."""


def find_inputs(arguments: Sequence[str], accepts: Callable[[Path], bool], error: type[LfqError]) -> list[Path]:
    """The files that the arguments name, in order, each once. `accepts` chooses among the files of a folder."""
    return [found.path for found in _find(arguments, accepts, error)]


def plan_jobs(
    arguments: Sequence[str],
    output: Path,
    *,
    accepts: Callable[[Path], bool],
    rename: Callable[[str], str],
    file_suffixes: Sequence[str],
    error: type[LfqError] = TensorError,
    inputs_kept: Sequence[Path] = (),
) -> list[Job]:
    """Pairs every input with its output.

    One file with an `output` that ends in one of `file_suffixes` is written there. Otherwise `output` is a folder, and
    the inputs' tree is mirrored in it, from the deepest folder that holds all of them: from a folder that was named,
    from the part of a glob before its first wildcard. Raises OptionError where two inputs would write one output,
    and where an output would replace an input or one of `inputs_kept`.
    """
    found = _find(arguments, accepts, error)
    jobs = _one_job(found, output, file_suffixes) or _mirrored(found, output, rename)
    _refuse_collisions(jobs)
    refuse_to_replace([job.output for job in jobs], [*inputs_kept, *(job.source for job in jobs)])
    return jobs


def source_jobs(
    sources: Sequence[str], arguments: Sequence[str], codes: Sequence[Path], accepts: Callable[[Path], bool]
) -> list[Job]:
    """The jobs that would encode `sources` into `codes`, which `arguments` named; outputs as absolute paths.

    One source and one codes file belong together. Otherwise the codes lie where `lfq encode SOURCES -o FOLDER` puts
    them, FOLDER being the folder that was named, or the deepest that holds all codes files.
    """
    found = _find(sources, accepts, TensorError)
    if len(found) == 1 and found[0].named and len(codes) == 1:
        return [Job(found[0].path, codes[0].absolute())]
    folders = [argument for argument in arguments if os.path.isdir(argument)]  # noqa: PTH112
    if len(folders) > 1:
        raise OptionError("several folders of codes cannot be paired with sources", "verify one folder at a time")
    folder = Path(folders[0] if folders else os.path.commonpath([path.parent for path in codes]))
    return _mirrored(found, folder.absolute(), lambda name: Path(name).stem + SUFFIX)


def refuse_to_replace(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises OptionError where an output is one of the files that are read."""
    real_folder = cache(os.path.realpath)  # for 10,000 files, of a few folders each

    def real(path: Path) -> str:
        return os.path.realpath(path) if path.is_symlink() else os.path.join(real_folder(path.parent), path.name)  # noqa: PTH118

    read = {real(path) for path in inputs}
    for output in outputs:
        if real(output) in read:
            raise OptionError(f"{output}: is an input of this command and would be replaced", "name another output")


def _one_job(found: list[_Found], output: Path, file_suffixes: Sequence[str]) -> list[Job]:
    """The job of a single input that names its output file; empty where `output` is a folder."""
    single = len(found) == 1 and found[0].named
    is_folder = os.path.isdir(output)  # noqa: PTH112 - Path.is_dir raises for a name that is too long
    if single and not is_folder and output.suffix in file_suffixes:
        return [Job(found[0].path, output)]
    expected = f"a folder or a name in {' or '.join(file_suffixes)}" if single else "a folder"
    if not is_folder and os.path.lexists(output):
        raise OptionError(f"{output}: is a file, expected {expected}")
    if not is_folder and output.suffix in (*FORMATS, *file_suffixes):
        raise OptionError(f"{output}: is the name of a file, expected {expected}")
    return []


def _find(arguments: Sequence[str], accepts: Callable[[Path], bool], error: type[LfqError]) -> list[_Found]:
    real_folder = cache(os.path.realpath)  # for 10,000 files, of a few folders each
    found: dict[str, _Found] = {}
    for argument in arguments:
        for item in _expand(argument, accepts, error):
            found.setdefault(os.path.join(real_folder(item.path.parent), item.path.name), item)  # noqa: PTH118
    return list(found.values())


def _expand(argument: str, accepts: Callable[[Path], bool], error: type[LfqError]) -> list[_Found]:
    path = Path(argument)
    if not argument:
        raise OptionError("an input is named '', which is no path")
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        files = [_Found(file, path) for file in _walk(path) if accepts(file)]
        if not files:
            raise error(f"{path}: no file in this folder is one to read")
        return files
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [_Found(path, path.parent, named=True)]  # if it is not there, its own job says so
    names = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    files = [
        _Found(Path(name), _static_part(argument)) for name in names if Path(name).is_file() and accepts(Path(name))
    ]
    if not files:
        raise error(f"{argument}: no file matches")
    return files


def _walk(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _static_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    static = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:static]) if static else Path()


def _mirrored(found: list[_Found], output: Path, rename: Callable[[str], str]) -> list[Job]:
    """Jobs whose outputs lie under `output` as their inputs lie under the deepest folder that holds all roots."""
    top = os.path.commonpath([os.path.abspath(item.root) for item in found])  # noqa: PTH100 - resolves ".."

    @cache
    def mirrored(folder: Path) -> Path:
        return output / os.path.relpath(folder, top)

    return [Job(item.path, mirrored(item.path.parent) / rename(item.path.name)) for item in found]


def _refuse_collisions(jobs: list[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        other = sources.setdefault(job.output, job.source)
        if other != job.source:
            raise OptionError(
                f"{other} and {job.source} would both write {job.output}",
                "encode them into different folders, or rename one",
            )
