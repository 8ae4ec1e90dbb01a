"""The folder of an export: parts appear whole, what a killed run finished is kept, lfq.json comes last."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from lfq_cli.errors import ExistsError, OutputError
from lfq_cli.files import atomic_output, output_error, remove_leftovers, write_all

DESCRIPTION = "lfq.json"
_PROGRESS = ".lfq-export.json"
_PARTIAL = ".lfq-export-"
_READ_BYTES = 1 << 20
_REPLACES = "--overwrite replaces it; or name another folder"

Files: TypeAlias = dict[str, dict[str, Any]]
"""Path below the folder -> {"bytes": size, "sha256": digest}; of a folder of many files one of all of them."""


class ExportFolder:
    """One export into a folder. `fingerprint`: what its bytes depend on."""

    def __init__(self, path: Path, fingerprint: str, *, overwrite: bool) -> None:
        """Raises ExistsError where the folder holds another export, or files of that name, and not `overwrite`."""
        self._path = path
        self._fingerprint = fingerprint
        self._overwrite = overwrite
        if os.path.lexists(path) and not path.is_dir():
            raise OutputError(f"{path}: is a file, expected a folder for an export")
        self._done: dict[str, Files] = {}
        self._replaces: set[str] = set()
        for name in (_PROGRESS, DESCRIPTION):
            told = _read(path / name)
            if told is None:
                continue
            if told.get("fingerprint") == fingerprint:
                self._done = told["parts"]
                self._replaces.add(str(told.get("making")))
            elif not overwrite:
                raise ExistsError(f"{path / name}: is of another export", _REPLACES)
            else:
                self._replaces |= set(told.get("parts", {}))

    @contextmanager
    def working(self, *, dry_run: bool) -> Iterator[None]:
        """Removes what killed runs left, and makes the folder."""
        if not dry_run:
            try:
                self._path.mkdir(parents=True, exist_ok=True)
                for left in self._path.glob(f"{_PARTIAL}*"):
                    if left.is_dir():
                        _remove_if_dead(left)
                remove_leftovers([self._path])
            except OSError as reason:
                raise output_error(self._path, reason) from reason
        yield

    def finished(self, stem: str) -> Files | None:
        """The files of a part that is there, whole; None where it has to be made."""
        files = self._done.get(stem)
        if files is None or any(_described(self._path / name) != told for name, told in files.items()):
            return None
        return files

    def make(self, stem: str, write: Callable[[Path, str], None], *, durable: bool) -> Files:
        """Writes a part beside its place, and then gives it its name. Raises ExistsError where something has it."""
        try:
            with _temporary(self._path) as folder:
                write(folder, stem)
                names = sorted(path.name for path in folder.iterdir() if path.name != "lock")
                files = {name: _described(folder / name) or {} for name in names}
                self._refuse_others(stem, names)
                self._note(making=stem)
                for name in names:
                    self._give_name(folder / name, self._path / name)
                if durable:
                    _sync([self._path / name for name in names])
        except OSError as reason:
            raise output_error(self._path / stem, reason) from reason
        self._done[stem] = files
        self._note()
        return files

    def _refuse_others(self, stem: str, names: list[str]) -> None:
        """Raises ExistsError where something that is not of this export has a name."""
        if self._overwrite or stem in self._done or stem in self._replaces:
            return
        for name in names:
            if os.path.lexists(self._path / name):
                raise ExistsError(f"{self._path / name}: exists", _REPLACES)

    @staticmethod
    def _give_name(made: Path, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        made.rename(path)

    def _note(self, making: str | None = None) -> None:
        """Writes down what is whole. making: what is about to get its names, some of which a killed run may leave."""
        told = {"fingerprint": self._fingerprint, "parts": self._done, "making": making}
        with atomic_output(self._path / _PROGRESS, overwrite=True, durable=False) as file:
            write_all(file, json.dumps(told).encode())

    def finish(self, entry: dict[str, Any], *, durable: bool) -> None:
        """Writes lfq.json: the export is whole."""
        with atomic_output(self._path / DESCRIPTION, overwrite=True, durable=durable) as file:
            write_all(file, json.dumps(entry, indent=2).encode() + b"\n")
        (self._path / _PROGRESS).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        told = {}
    return told if isinstance(told, dict) and isinstance(told.get("parts", {}), dict) else {}


def _described(path: Path) -> dict[str, Any] | None:
    """Size and digest of a file, or of all files below a folder: sha256 of a line "sha256  path" for each, sorted."""
    if not path.is_dir():
        return _described_file(path)
    lines, total = [], 0
    for each in sorted(path.rglob("*")):
        if each.is_file():
            told = _described_file(each)
            if told is None:
                return None
            total += told["bytes"]
            lines.append(f"{told['sha256']}  {each.relative_to(path).as_posix()}\n")
    return {"bytes": total, "sha256": hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()}


def _described_file(path: Path) -> dict[str, Any] | None:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
    except OSError:
        return None
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """An empty folder that is locked as long as it is ours, and gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
    try:
        with (folder / "lock").open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder.chmod(0o777 & ~_umask())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    """The process's, which cannot be read without being set."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove_if_dead(folder: Path) -> None:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # of a run that is alive


def _sync(paths: list[Path]) -> None:
    """Waits for the disk."""
    for path in paths:
        for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
