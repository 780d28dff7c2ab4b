"""What a pickle becomes in place of what it would make: names, and records of calls that are never made."""

from __future__ import annotations

from typing import Any

PERSISTENT = ".persistent"  # the kind of a persistent id's record
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}


class PickleFault(ValueError):  # noqa: N818  (a fault of the file)
    """The pickle is damaged, or goes beyond what weights need; the message says how."""


class TooMuch(PickleFault):
    """The pickle is sound, and has what weights do not need."""


class Global:
    """A class or function by its name; never imported."""

    __slots__ = ("module", "name")

    def __init__(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleFault("a global has no name")
        self.module, self.name = _PYTHON_2.get(module, module), name

    @property
    def text(self) -> str:
        """`argparse.Namespace`."""
        return f"{self.module}.{self.name}"


PERSISTENT_ID = Global(*PERSISTENT.split("."))


class Thing:
    """What a file would have made by calling something: inert, with all that went into it.

    Attributes:
        kind: the name of what would have been called, "" if that was itself made by a call.
        args: what it would have been called with.
        state: what its `__setstate__` would have got, or its attributes.
        pairs: the items of a mapping.
        elements: the elements of a list, set or the like.
    """

    __slots__ = ("args", "elements", "kind", "pairs", "state")

    def __init__(self, kind: object, args: object) -> None:
        self.kind = kind.text if isinstance(kind, Global) else ""
        self.args: tuple[Any, ...] = args if isinstance(args, tuple) else (args,)
        self.state: Any = None
        self.pairs: dict[Any, Any] = {}
        self.elements: list[Any] = []


def stand_for(pid: Any) -> Thing:
    """The record of a persistent id."""
    return Thing(PERSISTENT_ID, pid)
