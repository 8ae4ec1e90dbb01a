"""A harmless unpickler: opcodes of every protocol -> plain containers, and names for everything else.

A pickle is a program for a stack machine. Only the opcodes that build dicts, lists, tuples, sets, numbers and text are
carried out. Those that would look up a class, call it or change an object give a name instead (Global, Opaque), unless
`calls.py` knows which data it stands for. Source: CPython's Lib/pickle.py and Lib/pickletools.py (protocols 0 to 5).

Everything is bounded: the number of steps, the objects they make, and the bytes that are held (stream.py). Long texts
and bytes, which are not needed here, are skipped.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from lfq_cli.torchfile.calls import called
from lfq_cli.torchfile.keys import as_key
from lfq_cli.torchfile.stream import Stream
from lfq_cli.torchfile.values import BrokenError, Global, Opaque

MAX_STEPS = 50_000_000
"""The most opcodes of one pickle: enough for a million tensors, in half a minute."""
MAX_OBJECTS = 10_000_000
"""The most containers of one pickle, and elements copied between them."""
MAX_TEXT = 4096
MAX_INTEGER_BYTES = 16
MAX_PROTOCOL = 5
_SET_OBJECTS = 4  # an empty set takes 216 bytes, an empty dict 64
_ITEM_OBJECTS = 4  # a dict's item takes 100 bytes and a microsecond
_UNSET = object()

FindStorage = Callable[[Any], Any]


def unpickle(stream: Stream, find_storage: FindStorage) -> Any:
    """The object of the pickle that begins at the stream's position; leaves the stream after it.

    find_storage: persistent id -> the storage that it names. Raises BrokenError if it is not a complete pickle.
    """
    return _Machine(stream, find_storage).run()


class _Machine:
    """Stack, memo and marks of one pickle that is being read."""

    def __init__(self, stream: Stream, find_storage: FindStorage) -> None:
        self.stream = stream
        self.find_storage = find_storage
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.steps = 0
        self.objects_left = MAX_OBJECTS

    def run(self) -> Any:
        """Runs to the opcode STOP."""
        take = self.stream.take
        for self.steps in range(MAX_STEPS):
            opcode = take(1)
            if opcode == STOP:
                return self.pop()
            step = STEPS.get(opcode)
            if step is None:
                raise BrokenError(f"byte {self.stream.position - 1} is not an opcode of a pickle: {opcode!r}")
            step(self)
        raise BrokenError(f"its pickle has more than {MAX_STEPS:,} opcodes")

    def pop(self) -> Any:
        if not self.stack:
            raise BrokenError("its pickle takes more from the stack than it put there")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise BrokenError("its pickle takes more from the stack than it put there")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def make(self, value: Any, cost: int = 1) -> None:
        """Pushes a new container."""
        self.charge(cost)
        self.stack.append(value)

    def charge(self, cost: int) -> None:
        self.objects_left -= cost
        if self.objects_left < 0:
            raise BrokenError(f"its pickle makes more than {MAX_OBJECTS:,} objects")

    def mark(self) -> None:
        self.charge(1)
        self.below_marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Pops everything since the last mark, and the mark."""
        if not self.below_marks:
            raise BrokenError("its pickle has no mark where it needs one")
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def remember(self, index: int) -> None:
        """Stores the top of the stack in the memo. Picklers count objects one by one, so larger indices are refused."""
        if not 0 <= index <= self.steps + 1:
            raise BrokenError(f"its pickle's memo has no place {index}")
        value, missing = self.top(), index + 1 - len(self.memo)
        if missing > 0:
            self.memo += [_UNSET] * missing
        self.memo[index] = value

    def recall(self, index: int) -> None:
        value = self.memo[index] if 0 <= index < len(self.memo) else _UNSET
        if value is _UNSET:
            raise BrokenError(f"its pickle's memo has nothing at {index}")
        self.stack.append(value)

    def call(self, function: Any, arguments: Any) -> None:
        """Pushes what a call stands for."""
        self.charge(1 + _size(arguments[0]) if isinstance(arguments, tuple) and arguments else 1)
        self.stack.append(called(function, arguments))


def _size(value: Any) -> int:
    """How many objects a copy of a value counts as."""
    if isinstance(value, str):
        return len(value) // 64
    return _ITEM_OBJECTS * len(value) if isinstance(value, tuple | list) else 0


# Numbers and text


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.push(value)


def _natural(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.stream.number(width))


def _int32(m: _Machine) -> None:
    m.push(int.from_bytes(m.stream.take(4), "little", signed=True))


def _float64(m: _Machine) -> None:
    m.push(struct.unpack(">d", m.stream.take(8))[0])


def _long(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        count = m.stream.number(width)
        if count > MAX_INTEGER_BYTES:
            m.stream.skip(count)
            m.push(Opaque("int"))
        else:
            m.push(int.from_bytes(m.stream.take(count), "little", signed=True))

    return step


def _text(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        data = _short_bytes(m, width)
        m.push(Opaque("str") if data is None else _decoded(data, "utf-8"))

    return step


def _bytes(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        data = _short_bytes(m, width)
        m.push(Opaque("bytes") if data is None else data)

    return step


def _text_of_python_2(width: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        data = _short_bytes(m, width)
        m.push(Opaque("str") if data is None else _text_or_bytes(data))

    return step


def _byte_array(m: _Machine) -> None:
    m.stream.skip(m.stream.number(8))
    m.push(Opaque("bytearray"))


def _short_bytes(m: _Machine, width: int) -> bytes | None:
    """Bytes preceded by their length; if they are long, they are skipped, and this is None."""
    count = m.stream.number(width)
    if count <= MAX_TEXT:
        return m.stream.take(count)
    m.stream.skip(count)
    return None


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as reason:
        raise BrokenError(f"a text in its pickle is not {encoding}") from reason


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


# Lines of protocol 0


def _line_text(m: _Machine) -> None:
    m.push(_decoded(m.stream.line(), "raw-unicode-escape"))


def _line_quoted(m: _Machine) -> None:
    line = m.stream.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1] != line[0]:
        raise BrokenError("a text in its pickle has no quotes around it")
    try:
        m.push(_text_or_bytes(codecs.escape_decode(line[1:-1])[0]))
    except ValueError as reason:
        raise BrokenError("a text in its pickle has broken escapes") from reason


def _line_int(m: _Machine) -> None:
    line = m.stream.line()
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _parsed(int, line.removesuffix(b"L")))


def _line_float(m: _Machine) -> None:
    m.push(_parsed(float, m.stream.line()))


def _parsed(parse: Callable[[bytes], Any], line: bytes) -> Any:
    if len(line) > 50:  # a long integer may take the square of its length
        return Opaque("int")
    try:
        return parse(line)
    except ValueError as reason:
        raise BrokenError("a number in its pickle is invalid") from reason


def _line_natural(m: _Machine) -> int:
    value = _parsed(int, m.stream.line())
    if type(value) is not int:
        raise BrokenError("its pickle's memo has no such place")
    return value


# Containers


def _empty(make: Callable[[], Any], cost: int = 1) -> Callable[[_Machine], None]:
    return lambda m: m.make(make(), cost)


def _tuple(m: _Machine) -> None:
    m.make(tuple(m.pop_mark()))


def _short_tuple(count: int) -> Callable[[_Machine], None]:
    def step(m: _Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.make(tuple(reversed(items)))

    return step


def _list(m: _Machine) -> None:
    m.make(m.pop_mark())


def _dict(m: _Machine) -> None:
    items = m.pop_mark()
    m.make({})
    _set_items(m, items)


def _frozenset(m: _Machine) -> None:
    m.make(frozenset(map(as_key, m.pop_mark())), _SET_OBJECTS)


def _append(m: _Machine) -> None:
    item = m.pop()
    _extend(m, [item])


def _extend(m: _Machine, items: list[Any]) -> None:
    """Appends items to a list. Opaque objects may be lists of another class; their items are dropped."""
    target = m.top()
    if isinstance(target, list):
        target += items
    elif not isinstance(target, Opaque):
        raise BrokenError("its pickle appends to something that is not a list")


def _set_item(m: _Machine) -> None:
    value = m.pop()
    _set_items(m, [m.pop(), value])


def _set_items(m: _Machine, items: list[Any]) -> None:
    target = m.top()
    if len(items) % 2:
        raise BrokenError("its pickle sets a key without a value")
    if isinstance(target, dict):
        target.update(zip(map(as_key, items[::2]), items[1::2], strict=True))
    elif not isinstance(target, Opaque):
        raise BrokenError("its pickle sets items of something that is not a dict")


def _add_items(m: _Machine) -> None:
    items, target = m.pop_mark(), m.top()
    if isinstance(target, set):
        target.update(map(as_key, items))
    elif not isinstance(target, Opaque):
        raise BrokenError("its pickle adds to something that is not a set")


# Objects


def _global(m: _Machine) -> None:
    module = _decoded(m.stream.line(), "utf-8")
    m.push(Global(module, _decoded(m.stream.line(), "utf-8")))


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    if type(name) is not str or type(module) is not str:
        raise BrokenError("its pickle names a class with something that is not text")
    m.push(Global(module, name))


def _extension(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(Opaque(f"copyreg extension {m.stream.number(width)}"))


def _reduce(m: _Machine) -> None:
    arguments = m.pop()
    m.call(m.pop(), arguments)


def _new_object_ex(m: _Machine) -> None:
    m.pop()
    _reduce(m)


def _instance(m: _Machine) -> None:
    items = m.pop_mark()
    module = _decoded(m.stream.line(), "utf-8")
    m.call(Global(module, _decoded(m.stream.line(), "utf-8")), tuple(items))


def _object(m: _Machine) -> None:
    items = m.pop_mark()
    if not items:
        raise BrokenError("its pickle makes an object of no class")
    m.call(items[0], tuple(items[1:]))


def _build(m: _Machine) -> None:
    """An object's attributes are dropped: `_metadata` of a state dict among them."""
    m.pop()
    m.top()


def _persistent_line(m: _Machine) -> None:
    m.push(m.find_storage(_decoded(m.stream.line(), "utf-8")))


def _persistent(m: _Machine) -> None:
    m.make(m.find_storage(m.pop()))


# Stack, memo, frames


def _pop(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _protocol(m: _Machine) -> None:
    version = m.stream.number(1)
    if version > MAX_PROTOCOL:
        raise BrokenError(f"its pickle has protocol {version}, which is unknown")


def _put(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.remember(m.stream.number(width))


def _get(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.recall(m.stream.number(width))


STOP = b"."
STEPS: dict[bytes, Callable[[_Machine], object]] = {
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _line_int,
    b"L": _line_int,
    b"F": _line_float,
    b"K": _natural(1),
    b"M": _natural(2),
    b"J": _int32,
    b"G": _float64,
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"V": _line_text,
    b"S": _line_quoted,
    b"\x8c": _text(1),
    b"X": _text(4),
    b"\x8d": _text(8),
    b"U": _text_of_python_2(1),
    b"T": _text_of_python_2(4),
    b"C": _bytes(1),
    b"B": _bytes(4),
    b"\x8e": _bytes(8),
    b"\x96": _byte_array,
    b"\x97": _constant(Opaque("buffer")),
    b"\x98": _Machine.top,
    b")": _constant(()),
    b"t": _tuple,
    b"\x85": _short_tuple(1),
    b"\x86": _short_tuple(2),
    b"\x87": _short_tuple(3),
    b"]": _empty(list),
    b"l": _list,
    b"a": _append,
    b"e": lambda m: _extend(m, m.pop_mark()),
    b"}": _empty(dict),
    b"d": _dict,
    b"s": _set_item,
    b"u": lambda m: _set_items(m, m.pop_mark()),
    b"\x8f": _empty(set, _SET_OBJECTS),
    b"\x90": _add_items,
    b"\x91": _frozenset,
    b"c": _global,
    b"\x93": _stack_global,
    b"\x82": _extension(1),
    b"\x83": _extension(2),
    b"\x84": _extension(4),
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_object_ex,
    b"i": _instance,
    b"o": _object,
    b"b": _build,
    b"P": _persistent_line,
    b"Q": _persistent,
    b"(": _Machine.mark,
    b"0": _pop,
    b"1": _Machine.pop_mark,
    b"2": lambda m: m.push(m.top()),
    b"p": lambda m: m.remember(_line_natural(m)),
    b"q": _put(1),
    b"r": _put(4),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(_line_natural(m)),
    b"h": _get(1),
    b"j": _get(4),
    b"\x80": _protocol,
    b"\x95": lambda m: m.stream.take(8),
}
"""Opcode -> its implementation. FRAME only says how much to read ahead."""
