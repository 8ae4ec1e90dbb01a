"""Which files a run reads and which it writes: inputs are files, folders or globs, outputs are mirrored under OUT."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfq_cli.errors import LfqError, OptionError, TensorError


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
) -> list[Job]:
    """Pairs every input with its output.

    One file with an `output` that ends in one of `file_suffixes` is written there. Otherwise `output` is a folder, and
    the inputs' tree is mirrored in it, from the deepest folder that holds all of them: from a folder that was named,
    from the part of a glob before its first wildcard. Raises OptionError where two inputs would write one output.
    """
    found = _find(arguments, accepts, error)
    single = len(arguments) == 1 and Path(arguments[0]).is_file()
    if single and output.name.endswith(tuple(file_suffixes)) and not output.is_dir():
        return [Job(found[0].path, output)]
    if output.exists() and not output.is_dir():
        raise OptionError(f"{output}: is a file, expected a folder for several outputs")
    top = Path(os.path.commonpath([item.root.absolute() for item in found]))
    jobs = [Job(item.path, _mirrored(item.path, top, output, rename)) for item in found]
    _refuse_collisions(jobs)
    return jobs


def _find(arguments: Sequence[str], accepts: Callable[[Path], bool], error: type[LfqError]) -> list[_Found]:
    found: dict[Path, _Found] = {}
    for argument in arguments:
        for item in _expand(argument, accepts, error):
            found.setdefault(item.path.absolute(), item)
    return list(found.values())


def _expand(argument: str, accepts: Callable[[Path], bool], error: type[LfqError]) -> list[_Found]:
    path = Path(argument)
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        files = [_Found(file, path) for file in _walk(path) if accepts(file)]
        if not files:
            raise error(f"{path}: no file in this folder is one to read")
        return files
    if os.path.lexists(argument) or not glob.has_magic(argument):
        if not os.path.exists(argument):  # noqa: PTH110 - as above
            raise error(f"{path}: no such file or folder")
        return [_Found(path, path.parent)]
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


def _mirrored(path: Path, top: Path, output: Path, rename: Callable[[str], str]) -> Path:
    relative = path.absolute().relative_to(top)
    return output / relative.with_name(rename(relative.name))


def _refuse_collisions(jobs: list[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        other = sources.setdefault(job.output, job.source)
        if other != job.source:
            raise OptionError(
                f"{other} and {job.source} would both write {job.output}",
                "encode them into different folders, or rename one",
            )
