"""Which files a checkpoint is made of: one file, a folder, or an index of shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfq_cli import native
from lfq_cli.checkpoints.statefile import StateFile, StateTensor, open_state
from lfq_cli.errors import CheckpointError
from lfq_cli.storage.places import exists, is_file, is_folder
from lfq_cli.storage.remote import open_input
from lfq_cli.wording import counted

INDEX_SUFFIX = ".index.json"
FOLDER_NAMES = (
    native.MODEL_NAME,
    f"{native.MODEL_NAME}{INDEX_SUFFIX}",
    "diffusion_pytorch_model.safetensors",
    f"diffusion_pytorch_model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
"""The files in which folders of Hugging Face's libraries hold their tensors; the first that is there counts."""
_TENSOR_SUFFIXES = (".safetensors", ".bin")
_MOST_SHOWN = 8
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class CheckpointFiles:
    """Where the tensors are, and the folder's config.json where there is one."""

    tensors: Path
    config: Path | None


def checkpoint_files(path: Path) -> CheckpointFiles:
    """The files of the checkpoint at `path`, a file or a folder. Raises CheckpointError if there is none."""
    if not exists(path):
        raise CheckpointError(f"{path}: no such file or folder")
    if not is_folder(path):
        return CheckpointFiles(path, None)
    config = path / native.CONFIG_NAME
    known = [path / name for name in FOLDER_NAMES if (path / name).is_file()]
    tensors = known[0] if known else _only_tensors(path, config)
    return CheckpointFiles(tensors, config if config.is_file() else None)


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder looks like one of a checkpoint: a config.json, or a file of tensors of a known name."""
    return any((path / name).is_file() for name in (native.CONFIG_NAME, *FOLDER_NAMES))


def _only_tensors(folder: Path, config: Path) -> Path:
    """The one file of tensors in a folder with a config.json, whatever its name. Raises CheckpointError for others."""
    names = sorted(name for name in _listed(folder) if Path(name).suffix in _TENSOR_SUFFIXES)
    if config.is_file() and len(names) == 1:
        return folder / names[0]
    if not names or not config.is_file():
        raise CheckpointError(
            f"{folder}: not a checkpoint folder: it has no {native.MODEL_NAME} or pytorch_model.bin, nor a"
            f" {native.CONFIG_NAME} with one .safetensors or .bin file",
            "name the file itself",
        )
    shown = ", ".join(names[:_MOST_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _MOST_SHOWN else "")
    raise CheckpointError(f"{folder}: several files may be the checkpoint: {shown}", "name the file itself")


def _listed(folder: Path) -> list[str]:
    """The names in a folder. Raises CheckpointError if the system refuses to list them."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as reason:
        raise CheckpointError(f"{folder}: cannot be read: {reason.strerror or reason}") from reason


def read_files(path: Path) -> list[Path]:
    """Every file that loading the checkpoint at `path` reads; `path` itself where there is none."""
    try:
        files = checkpoint_files(path)
        index = files.tensors
        shards = [index.with_name(name) for name in _shards(index)] if index.name.endswith(INDEX_SUFFIX) else []
    except CheckpointError:
        return [path]
    return [path, index, *shards, *([] if files.config is None else [files.config])]


def open_tensors(path: Path) -> StateFile:
    """The state dict in the file at `path`, or in the shards that an index there names."""
    if not path.name.endswith(INDEX_SUFFIX):
        return open_state(path)
    with ExitStack() as opened:
        shards = {name: opened.enter_context(open_state(path.with_name(name))) for name in _shards(path)}
        tensors: dict[str, StateTensor] = {}
        for shard in shards.values():
            twice = tensors.keys() & shard.tensors.keys()
            if twice:
                raise CheckpointError(f"{path}: two shards hold {min(twice)!r}")
            tensors |= shard.tensors
        close: Callable[[], None] = opened.pop_all().close
        return StateFile(path, tensors, {}, close)


def _shards(index: Path) -> list[str]:
    """The file names in an index's `weight_map`, which all lie beside it."""
    value = read_json(index)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: not an index of shards: it has no weight_map from tensors to files")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise CheckpointError(f"{index}: names the shard {outside[0]!r}, expected a file beside it")
    missing = [name for name in names if not is_file(index.with_name(name))]
    if missing:
        raise CheckpointError(f"{index}: {counted(len(missing), 'shard')} missing, the first is {missing[0]!r}")
    return names


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises CheckpointError if there is none."""
    file = open_input(path, CheckpointError)
    try:
        if file.size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is larger than any config or index ({MAX_JSON_BYTES >> 20} MiB at most)")
        return parse_json(path, file.read(0, file.size).decode("utf-8"))
    except UnicodeDecodeError as reason:
        raise CheckpointError(f"{path}: cannot be read: {reason}") from reason
    finally:
        file.close()


def parse_json(path: Path, text: str) -> Any:
    """The JSON value of a text found in `path`. Raises CheckpointError if it is not one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise CheckpointError(f"{path}: its description is not JSON: {reason}") from reason
