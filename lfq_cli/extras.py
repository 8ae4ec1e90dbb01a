"""Optional libraries, which only some files need: the extras of pyproject.toml."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from lfq_cli.errors import LfqError


def require(module: str, extra: str, path: Path, error: type[LfqError]) -> ModuleType:
    """Imports the module that the file at `path` needs.

    Raises `error`, whose hint names the extra, if it is not installed or cannot be imported for any reason:
    incompatible libraries raise exceptions of every kind.
    """
    try:
        return import_module(module)
    except Exception as reason:
        library = module.partition(".")[0]
        raise error(f"{path}: needs {library}: {reason}", f"pip install 'lfq-cli[{extra}]'") from reason
