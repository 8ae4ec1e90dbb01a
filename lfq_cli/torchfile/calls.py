"""What a call in a pickle stands for: a container, a tensor, or an object that is only named.

The functions are those with which torch and the standard library pickle their own values (torch/_utils.py,
torch/_tensor.py). Nothing is imported or called: the arguments are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lfq_cli.torchfile.keys import as_key
from lfq_cli.torchfile.values import FLOATS, BrokenError, Global, OddTensor, Opaque, View, dtype_name, sizes_of, view_of

Arguments = tuple[Any, ...]

_FROM_TYPE = ("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2")
"""(function, class, its arguments, state): a tensor with Python attributes, or of a subclass."""
_ARRAY = Opaque("numpy array: torch.from_numpy makes a tensor of it")
_SPARSE, _QUANTIZED, _NESTED = "save x.to_dense()", "save x.dequantize()", "save x.to_padded_tensor(0.0)"


def called(function: Any, arguments: Any) -> Any:
    """What `function(*arguments)` stands for. Raises BrokenError for an invalid tensor."""
    while isinstance(function, Global) and function.path in _FROM_TYPE:
        if not isinstance(arguments, tuple) or len(arguments) < 3:
            raise BrokenError(f"{function.path} lacks arguments")
        function, arguments = arguments[0], arguments[2]
    if not isinstance(function, Global):
        return function if isinstance(function, Opaque) else Opaque("object")
    known = _KNOWN.get(function.path)
    if known is None:
        return Opaque(_class_of(function, arguments))
    count, value_of = known
    if not isinstance(arguments, tuple) or len(arguments) < count:
        raise BrokenError(f"{function.path} lacks arguments")
    return value_of(arguments)


def _class_of(function: Global, arguments: Any) -> str:
    """The class of the object that a call makes, or else the function that makes it."""
    if function.path == "copyreg._reconstructor" and isinstance(arguments, tuple) and arguments:
        function = arguments[0] if isinstance(arguments[0], Global) else function
    return function.path.removeprefix("builtins.")[:200]


def _ordered_dict(arguments: Arguments) -> Any:
    """Empty, and filled later; Python 2 gave the items as a list of pairs."""
    items = arguments[0] if arguments else []
    if not isinstance(items, list) or not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        raise BrokenError("an OrderedDict is not made of pairs")
    return {as_key(key): value for key, value in items}


def _set(set_type: Callable[[Any], Any]) -> Callable[[Arguments], Any]:
    def value_of(arguments: Arguments) -> Any:
        items = arguments[0] if arguments else []
        return set_type(map(as_key, items)) if isinstance(items, list | tuple) else Opaque(set_type.__name__)

    return value_of


def _counter(arguments: Arguments) -> Any:
    return arguments[0] if arguments and isinstance(arguments[0], dict) else {}


def _encoded(arguments: Arguments) -> Any:
    """Bytes as written by protocols before 3: Latin-1 text."""
    try:
        return arguments[0].encode("latin-1") if type(arguments[0]) is str else Opaque("bytes")
    except UnicodeEncodeError:
        return Opaque("bytes")


def _tensor(arguments: Arguments) -> View | OddTensor:
    """(storage, offset, size, stride)."""
    return _view(arguments, None, None)


def _tensor_v2(arguments: Arguments) -> View | OddTensor:
    """(storage, offset, size, stride, requires_grad, hooks[, metadata])."""
    return _view(arguments, None, arguments[6] if len(arguments) > 6 else None)


def _tensor_v3(arguments: Arguments) -> View | OddTensor:
    """(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata]): bytes of a newer dtype."""
    return _view(arguments, _dtype(arguments[6]), arguments[7] if len(arguments) > 7 else None)


def _view(arguments: Arguments, dtype: str | None, metadata: Any) -> View | OddTensor:
    """A view with the sign that its metadata gives to the stored values."""
    storage, offset, shape, stride = arguments[:4]
    if isinstance(storage, Opaque):
        return OddTensor(f"tensor on an object ({storage.what})", "save it with torch.save", sizes_of(shape))
    view = view_of(storage, offset, shape, stride, dtype=dtype)
    flags = metadata if isinstance(metadata, dict) else {}
    if flags.get("conj"):
        return OddTensor("conjugated view", "save x.resolve_conj()", view.shape)
    if not flags.get("neg"):
        return view
    if view.dtype not in FLOATS:
        return OddTensor("negated view", "save x.resolve_neg()", view.shape)
    return View(view.storage, view.dtype, view.offset, view.shape, view.stride, negated=True)


def _dtype(value: Any) -> str:
    if not isinstance(value, Global) or value.module != "torch":
        raise BrokenError("a tensor has an invalid dtype")
    return dtype_name(value.name)


def _copied(arguments: Arguments) -> Any:
    """(tensor, dtype, device, requires_grad): a device without storages saves a copy."""
    tensor, dtype = arguments[:2]
    if isinstance(tensor, View) and tensor.dtype == _dtype(dtype):
        return tensor
    return OddTensor("tensor of another dtype than its copy", "save x.cpu()")


def _odd(kind: str, remedy: str, shape: int | None = None) -> Callable[[Arguments], OddTensor]:
    """A tensor of kind `kind`, whose shape is argument number `shape`."""
    return lambda arguments: OddTensor(kind, remedy, () if shape is None else sizes_of(arguments[shape]))


def _sparse(arguments: Arguments) -> OddTensor:
    """(layout, (indices, values, size, ...)), compressed: (layout, (starts, indices, values, size))."""
    data = arguments[1] if isinstance(arguments[1], tuple) else ()
    sizes = [item for item in data if isinstance(item, tuple)]
    return OddTensor("sparse tensor", _SPARSE, sizes_of(sizes[0]) if sizes else ())


def _subclass(arguments: Arguments) -> OddTensor:
    name = arguments[0].path[:200] if isinstance(arguments[0], Global) else "an unknown class"
    return OddTensor(f"tensor of {name}, without numbers of its own", "save a plain tensor", sizes_of(arguments[2]))


_KNOWN: dict[str, tuple[int, Callable[[Arguments], Any]]] = {
    "collections.OrderedDict": (0, _ordered_dict),
    "collections.defaultdict": (0, lambda _: {}),
    "collections.Counter": (0, _counter),
    "builtins.set": (0, _set(set)),
    "builtins.frozenset": (0, _set(frozenset)),
    "builtins.bytes": (0, lambda arguments: Opaque("bytes") if arguments else b""),
    "_codecs.encode": (1, _encoded),
    "torch.Size": (1, lambda arguments: arguments[0]),
    "torch._utils._rebuild_tensor": (4, _tensor),
    "torch._utils._rebuild_tensor_v2": (4, _tensor_v2),
    "torch._utils._rebuild_tensor_v3": (7, _tensor_v3),
    "torch._utils._rebuild_parameter": (1, lambda arguments: arguments[0]),
    "torch._utils._rebuild_parameter_with_state": (1, lambda arguments: arguments[0]),
    "torch.nn.parameter.Parameter": (1, lambda arguments: arguments[0]),
    "torch._utils._rebuild_sparse_tensor": (2, _sparse),
    "torch._utils._rebuild_sparse_csr_tensor": (2, _sparse),
    "torch._utils._rebuild_qtensor": (3, _odd("quantized tensor", _QUANTIZED, 2)),
    "torch._utils._rebuild_nested_tensor": (0, _odd("nested tensor", _NESTED)),
    "torch.nested._internal.nested_tensor._rebuild_njt": (0, _odd("nested tensor", _NESTED)),
    "torch._utils._rebuild_meta_tensor_no_storage": (
        2,
        _odd("tensor without values (device meta)", "save its values", 1),
    ),
    "torch._utils._rebuild_wrapper_subclass": (3, _subclass),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": (2, _copied),
    "torch._utils._rebuild_device_tensor_from_numpy": (0, _odd("tensor saved as a numpy array", "save x.cpu()")),
    "torch._utils._rebuild_xla_tensor": (0, _odd("tensor saved as a numpy array", "save x.cpu()")),
    "numpy.core.multiarray._reconstruct": (0, lambda _: _ARRAY),
    "numpy._core.multiarray._reconstruct": (0, lambda _: _ARRAY),
    "numpy.core.numeric._frombuffer": (0, lambda _: _ARRAY),
    "numpy._core.numeric._frombuffer": (0, lambda _: _ARRAY),
    "numpy.core.multiarray.scalar": (0, lambda _: Opaque("numpy scalar")),
    "numpy._core.multiarray.scalar": (0, lambda _: Opaque("numpy scalar")),
}
"""Function or class -> (arguments it needs, what they stand for)."""
