"""What a .pt file holds, without running code from it, and where in the file its tensors' bytes lie."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lfq_cli.errors import LfqError
from lfq_cli.regions import InputFile
from lfq_cli.zipread import BROKEN, member_start

if TYPE_CHECKING:
    from torch import Tensor

MAX_NAMES = 1_000_000
MAX_DEPTH = 100
MAX_EXPANDED_BYTES = 1 << 28

_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
"""How files begin that torch.save wrote before version 1.6: its magic number as a pickle of protocol 2."""


def load_weights_only(file: InputFile, error: type[LfqError]) -> Any:
    """The object in a file that torch.save wrote. Maps the data where the format allows it: nothing is read yet.

    Raises `error` for what is damaged or would need code to run.
    """
    archive = zipfile.is_zipfile(file.path)
    start = file.read(0, min(file.size, len(_LEGACY_MAGIC)))
    if not archive and start != _LEGACY_MAGIC:
        if start.startswith(b"\x80"):
            raise _more_than_tensors(file, error)
        raise error(f"{file.path}: not a whole torch file", "copy or download it again; it may be cut off")
    if archive and not _is_stored(file):  # a mapping would take compressed bytes for numbers
        raise error(
            f"{file.path}: its records are compressed", "save it again with torch.save, which does not compress"
        )
    import torch

    try:
        return torch.load(file.path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as reason:
        raise _more_than_tensors(file, error) from reason
    except OSError as reason:
        raise file.refused(reason) from reason
    except Exception as reason:  # torch.load documents no closed set of errors for damaged files
        raise error(f"{file.path}: not a whole torch file ({type(reason).__name__})") from reason


def _more_than_tensors(file: InputFile, error: type[LfqError]) -> LfqError:
    return error(
        f"{file.path}: holds more than tensors: objects that only code in the file could make",
        "lfq runs no code from files; save plain tensors with torch.save(model.state_dict(), ...) or as .safetensors",
    )


def named_values(file: InputFile, loaded: Any, sole: str, error: type[LfqError]) -> dict[str, Any]:
    """Every value of nested mappings by its dotted name; a value that is no mapping is called `sole`.

    Raises `error` where two values have one name.
    """
    pairs = list(_pairs(file, loaded, error))
    named = {name or sole: value for name, value in pairs}
    if len(named) != len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise error(f"{file.path}: holds two values of one name: {', '.join(map(repr, twice))}")
    return named


def _pairs(file: InputFile, loaded: Any, error: type[LfqError]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything that is no mapping. Mappings may share and hold each other without end."""
    pending: list[tuple[str, Any]] = [("", loaded)]
    count = 0
    while pending:
        prefix, value = pending.pop()
        if not isinstance(value, Mapping):
            yield prefix, value
            continue
        count += len(value)
        if count > MAX_NAMES or prefix.count(".") > MAX_DEPTH:
            raise error(f"{file.path}: its mappings hold more than {MAX_NAMES:,} names, or one another without end")
        try:
            names = [f"{prefix}.{key}" if prefix else str(key) for key in value]
            for name in names:
                name.encode()
        except (UnicodeEncodeError, RecursionError) as reason:
            raise error(f"{file.path}: a name in it is no text") from reason
        pending += reversed(list(zip(names, value.values(), strict=True)))


def is_plain(value: Any) -> bool:
    """Whether a loaded value is a tensor with data of its own: not sparse, nested, or only a shape."""
    import torch

    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def is_blown_up(tensor: Tensor) -> bool:
    """Whether a tensor is far larger than what is stored of it: one number expanded to any size."""
    nbytes = tensor.numel() * tensor.element_size()
    return bool(nbytes > MAX_EXPANDED_BYTES and nbytes > 2 * tensor.untyped_storage().nbytes())


def dtype_name(tensor: Tensor) -> str:
    """safetensors' name for a tensor's dtype, or torch's own where it has none."""
    import torch

    names = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float8_e5m2: "F8_E5M2",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
        torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    return names.get(tensor.dtype, str(tensor.dtype))


def record_offsets(file: InputFile, tensors: Sequence[Tensor]) -> dict[int, int]:
    """Address of a mapped storage -> where its bytes begin in the file, for reading them by position instead.

    torch maps the file as one run of memory and does not tell where; the archive's directory tells where records lie.
    The one address for which every storage falls on a record of its own size is that place; none or several: empty.
    """
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    storages = {address: nbytes for address, nbytes in storages.items() if address and nbytes}
    records = _records(file)
    if not storages or not records:
        return {}
    address, nbytes = max(storages.items(), key=lambda item: item[1])
    bases = [address - start for start, size in records.items() if size == nbytes]
    fitting = [base for base in bases if all(records.get(at - base) == size for at, size in storages.items())]
    if len(fitting) != 1:
        return {}
    return {at: at - fitting[0] for at in storages}


def _is_stored(file: InputFile) -> bool:
    """Whether every record of the archive lies in it uncompressed; also where its directory cannot be read."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            return all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    except BROKEN:  # torch will say
        return True


def _records(file: InputFile) -> dict[int, int]:
    """Start -> size of every uncompressed record of a little-endian archive; empty for any other file."""
    if not zipfile.is_zipfile(file.path):
        return {}
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
            orders = [archive.read(info) for info in infos if info.filename.endswith("/byteorder")]
    except BROKEN:  # torch read it in its own way
        return {}
    if any(order != b"little" for order in orders):
        return {}
    stored = [info for info in infos if info.compress_type == zipfile.ZIP_STORED and info.file_size]
    return {member_start(file, info): info.file_size for info in stored}
