"""Libraries that some files need and `lfq` does without: the extras of pyproject.toml."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from lfq_cli.errors import LfqError


def require(module: str, extra: str, path: Path, error: type[LfqError]) -> ModuleType:
    """The module that the file at `path` needs. Raises `error` with the extra's name where it is not installed, or is
    there and cannot be imported: libraries that do not go together raise whatever they like.
    """
    try:
        return import_module(module)
    except Exception as reason:
        library = module.partition(".")[0]
        raise error(f"{path}: needs {library}: {reason}", f"pip install 'lfq-cli[{extra}]'") from reason
