"""Pickles as data: their content is read, and nothing in them is run.

A pickle is a program that imports, calls and sets attributes. Here its opcodes build plain Python values and inert
records: a global is its name (`Global`), and whatever would be called or made becomes a `Thing` that remembers with
what. No module is imported and no object of the file's choosing is called, hashed, compared or printed, so that there
is no list of harmless calls that has to be right. What tensors are, `stored.py` reads from these records.

The opcodes and their arguments are those of the standard library's `pickletools`, which is made for looking at pickles
that must not be run. Its loop asks for the position in the file at every step, and takes four times as long as ours.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rebasin_cli.checkpoints.inert import PERSISTENT_ID, Global, PickleFault, Thing, TooMuch
from rebasin_cli.process import collection_paused

# A tensor takes 32 steps and 3 things: 100,000 of them stay below, or 25,000 with the states of an optimizer.
MAX_STEPS = 3_500_000
MAX_THINGS = 600_000
_MAX_PROTOCOL = 5
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What a pickle says.

    Attributes:
        value: None, bool, int, float, str, bytes, list, dict and tuple as they are; everything else is a `Thing`
            (of kind `PERSISTENT` for a persistent id) or a `Global`.
        globals: the name of every class and function in it.
        persistent: every persistent id (torch's storages), in its order.
    """

    value: Any
    globals: Collection[str]
    persistent: Sequence[Any]


@collection_paused()
def unpickle(stream: IO[bytes]) -> Unpickled:
    """Read one pickle from the position of `stream` to its end.

    Raises:
        PickleFault: damaged, or with more steps than weights need.
        SystemFailure: the file cannot be read.
    """
    machine = _Machine()
    count = 0
    read = stream.read
    try:
        while count < MAX_STEPS:
            code = read(1)
            argument, step, weight = _CODES[code]
            count += weight
            step(machine, None if argument is None else argument(stream))
            if code == b".":
                return Unpickled(machine.stack.pop(), machine.globals, machine.persistent)
        raise TooMuch(f"the pickle has more than {MAX_STEPS:,} steps, which weights do not need")
    except PickleFault:
        raise
    except MemoryError:
        raise PickleFault(f"the pickle states a length that memory does not hold, at step {count:,}") from None
    except (ValueError, LookupError, EOFError, OverflowError) as error:
        raise PickleFault(f"the pickle is damaged, at step {count:,} ({type(error).__name__})") from None


class _Machine:
    """The stack, where the marks on it are, and the memo."""

    __slots__ = ("globals", "marks", "memo", "persistent", "stack", "things")

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[Any] = []
        self.globals: dict[str, None] = {}
        self.things = 0

    def make(self, kind: object, args: object) -> None:
        """Push what a call would have made."""
        self.things += 1
        if self.things > MAX_THINGS:
            raise TooMuch(f"the pickle makes more than {MAX_THINGS:,} objects, which weights do not need")
        self.stack.append(Thing(kind, args))

    def pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def named(self, module: Any, name: Any) -> Global:
        """A global, noted."""
        found = Global(module, name)
        self.globals[found.text] = None
        return found


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _text(machine: _Machine, argument: str) -> None:
    """A string of Python 2: text if it can be, else the bytes that it was (an array's)."""
    data = argument.encode("latin-1")
    try:
        machine.stack.append(data.decode("utf-8"))
    except UnicodeDecodeError:
        machine.stack.append(data)


def _tuple_of(count: int) -> _Step:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise PickleFault("the pickle is damaged: a tuple has too few elements")
        items = tuple(machine.stack[len(machine.stack) - count :])
        del machine.stack[len(machine.stack) - count :]
        machine.stack.append(items)

    return step


def _pop(machine: _Machine, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _pop_all(machine: _Machine, _: Any) -> None:
    machine.pop_mark()


def _append(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    elements = target.elements if isinstance(target, Thing) else target
    if type(elements) is not list:
        raise PickleFault("the pickle is damaged: it appends to something that is not a list")
    elements.extend(items)


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    pairs = target.pairs if isinstance(target, Thing) else target
    if type(pairs) is not dict:
        raise PickleFault("the pickle is damaged: it sets items of something that is not a mapping")
    for key, value in zip(items[::2], items[1::2], strict=True):
        pairs[_hashable(key)] = value


def _hashable(key: Any) -> Any:
    """The key, or an inert stand-in: hashes of nested tuples and of huge numbers take unbounded time and stack."""
    if isinstance(key, str | bytes | float | Global | Thing) or key is None:
        return key
    if isinstance(key, int) and -_INT64 <= key < _INT64:
        return key
    return Thing("", ())


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.stack.append({})
    _set_items(machine, items)


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")  # how pickletools joins the two lines
    machine.stack.append(machine.named(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _call(machine: _Machine, _: Any) -> None:
    args, kind = machine.stack.pop(), machine.stack.pop()
    machine.make(kind, args)


def _call_with_keywords(machine: _Machine, _: Any) -> None:
    keywords, args, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.make(kind, args)
    machine.stack[-1].state = keywords


def _instance(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.make(machine.named(module, name), tuple(machine.pop_mark()))


def _object(machine: _Machine, _: Any) -> None:
    kind, *args = machine.pop_mark()
    machine.make(kind, tuple(args))


def _build(machine: _Machine, _: Any) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Thing):
        machine.stack[-1].state = state


def _set(machine: _Machine, items: list[Any]) -> None:
    machine.make(Global("builtins", "set"), ())
    machine.stack[-1].elements = items


def _persistent(machine: _Machine, _: Any) -> None:
    pid = machine.stack.pop()
    machine.persistent.append(pid)
    machine.make(PERSISTENT_ID, pid)


def _protocol(machine: _Machine, argument: int) -> None:
    if argument > _MAX_PROTOCOL:
        raise PickleFault(f"the pickle is of protocol {argument}, which is not known")


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: _Machine, argument: int) -> None:
    machine.memo[argument] = machine.stack[-1]


def _refuse(machine: _Machine, argument: Any) -> None:
    raise TooMuch("the pickle refers to something outside the file")


_Step = Callable[[_Machine, Any], None]
_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _push),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _text),
    "BYTEARRAY8": lambda m, a: m.stack.append(bytes(a)),
    "NONE": lambda m, a: m.stack.append(None),
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "EMPTY_SET": lambda m, a: _set(m, []),
    "FROZENSET": lambda m, a: _set(m, m.pop_mark()),
    "LIST": lambda m, a: m.stack.append(m.pop_mark()),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.pop_mark())),
    "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3),
    "DICT": _dict,
    "APPEND": lambda m, a: _append(m, [m.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, a: _append(m, m.pop_mark())),
    "SETITEM": lambda m, a: _set_items(m, [m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, a: _set_items(m, m.pop_mark()),
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": _pop,
    "POP_MARK": _pop_all,
    "DUP": lambda m, a: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.stack.append(m.memo[a])),
    "GLOBAL": _global, "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "NEWOBJ_EX": _call_with_keywords,
    "INST": _instance, "OBJ": _object, "BUILD": _build,
    "BINPERSID": _persistent,
    "PROTO": _protocol,
    **dict.fromkeys(("FRAME", "STOP"), lambda m, a: None),
    **dict.fromkeys(("PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"), _refuse),
}  # fmt: skip


def _byte(stream: IO[bytes]) -> int:
    return stream.read(1)[0]


def _short_text(stream: IO[bytes]) -> str:
    return _utf8(stream, stream.read(1)[0])


def _long_text(stream: IO[bytes]) -> str:
    return _utf8(stream, int.from_bytes(stream.read(4), "little"))


def _utf8(stream: IO[bytes], size: int) -> str:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data.decode("utf-8", "surrogatepass")


# What weights consist of, read faster than by pickletools; a file that ends within one of them has no end either.
_FAST: Mapping[str, Callable[[IO[bytes]], Any]] = {
    **dict.fromkeys(("BININT1", "BINPUT", "BINGET"), _byte),
    "BININT2": lambda stream: int.from_bytes(stream.read(2), "little"),
    **dict.fromkeys(("LONG_BINPUT", "LONG_BINGET"), lambda stream: int.from_bytes(stream.read(4), "little")),
    "BININT": lambda stream: int.from_bytes(stream.read(4), "little", signed=True),
    "BINFLOAT": pickletools.float8.reader,
    "SHORT_BINUNICODE": _short_text,
    "BINUNICODE": _long_text,
}
_WEIGHT = 8  # steps that one counts for whose argument is read by pickletools: weights have few of them
_CODES: Mapping[bytes, tuple[Callable[[IO[bytes]], Any] | None, _Step, int]] = {
    opcode.code.encode("latin-1"): (
        _FAST.get(opcode.name, opcode.arg.reader if opcode.arg else None),
        _STEPS[opcode.name],
        1 if opcode.arg is None or opcode.name in _FAST else _WEIGHT,
    )
    for opcode in pickletools.opcodes
}
