"""Pickles that want something done: whatever they say, nothing is imported, called, opened for writing or started.

The programs are put together opcode by opcode and opened in a process of its own, in which Python's audit hook sees
every import, every process, every file and every compilation.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.errors import ContentError
from tests.checkpoints.building import run_python

# (module, name, the opcodes of its arguments)
_TEXT = b"X\x0e\x00\x00\x00touch pwned.txt"
_CALLS = [
    ("os", "system", _TEXT), ("posix", "system", _TEXT), ("nt", "system", _TEXT), ("os", "popen", _TEXT),
    ("os", "mkdir", _TEXT), ("os", "execv", _TEXT), ("os", "kill", b"K\x01"), ("os", "_exit", b"K\x07"),
    ("subprocess", "Popen", _TEXT), ("subprocess", "check_output", _TEXT), ("subprocess", "run", _TEXT),
    ("builtins", "eval", b"X\x0d\x00\x00\x00open('x','w')"), ("builtins", "exec", b"X\x09\x00\x00\x00import os"),
    ("__builtin__", "eval", b"X\x0d\x00\x00\x00open('x','w')"), ("builtins", "compile", _TEXT),
    ("builtins", "open", _TEXT), ("builtins", "__import__", b"X\x04\x00\x00\x00this"), ("builtins", "input", b""),
    ("builtins", "getattr", b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system"), ("builtins", "breakpoint", b""),
    ("builtins", "print", _TEXT), ("builtins", "exit", b""), ("builtins", "quit", b""), ("builtins", "map", b"NN"),
    ("importlib", "import_module", b"X\x04\x00\x00\x00this"), ("runpy", "run_path", _TEXT), ("pty", "spawn", _TEXT),
    ("runpy", "_run_code", _TEXT), ("imp", "load_source", _TEXT), ("code", "interact", b""), ("pdb", "run", _TEXT),
    ("timeit", "timeit", _TEXT), ("webbrowser", "open", _TEXT), ("antigravity", "x", b""), ("this", "s", b""),
    ("shutil", "rmtree", _TEXT), ("socket", "create_connection", _TEXT), ("urllib.request", "urlopen", _TEXT),
    ("ctypes", "CDLL", _TEXT), ("signal", "raise_signal", b"K\x0b"), ("time", "sleep", b"K\x63"), ("sys", "exit", b""),
    ("functools", "partial", b"cos\nsystem\n" + _TEXT), ("functools", "reduce", b"cos\nsystem\n]"),
    ("operator", "attrgetter", b"X\x06\x00\x00\x00system"), ("operator", "methodcaller", b"X\x06\x00\x00\x00system"),
    ("torch.hub", "load", _TEXT), ("torch.hub", "load_state_dict_from_url", _TEXT), ("torch", "load", _TEXT),
    ("torch.jit", "load", _TEXT), ("torch.ops", "load_library", _TEXT), ("torch.utils.cpp_extension", "load", _TEXT),
    ("torch.serialization", "load", _TEXT), ("torch._utils", "_rebuild_tensor_v2", _TEXT), ("torch", "_C", b""),
    ("numpy", "load", _TEXT), ("numpy.f2py", "compile", _TEXT), ("numpy.testing._private.utils", "runstring", _TEXT),
    ("pickle", "loads", b"C\x10cos\nsystem\n(NtR."), ("marshal", "loads", b"C\x01N"), ("types", "CodeType", b""),
    ("types", "FunctionType", b""), ("copyreg", "_reconstructor", b"cos\nsystem\nc__builtin__\nobject\nN"),
    ("copy_reg", "add_extension", b"X\x02\x00\x00\x00osX\x06\x00\x00\x00systemK\x01"), ("copyreg", "pickle", b"NN"),
    ("codecs", "decode", b"X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13"), ("_codecs", "encode", b"X\x01\x00\x00\x00xN"),
    ("logging.config", "fileConfig", _TEXT), ("pip._internal", "main", _TEXT), ("setuptools", "setup", _TEXT),
    ("rebasin_cli.cli", "main", _TEXT), ("rebasin_cli.files", "new_file", _TEXT), ("a b", "c d", b""),
    ("collections", "OrderedDict", b"N"), ("torch._tensor", "_rebuild_from_type_v2", b"cos\nsystem\ncos\nsystem\n)N"),
    ("no.such.module", "Thing", _TEXT), ("", "", b""), ("os.path", "join", _TEXT), ("builtins", "object", b""),
]  # fmt: skip


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _stacked(module: str, name: str) -> bytes:
    texts = [b"X" + struct.pack("<I", len(text)) + text.encode() for text in (module, name)]
    return texts[0] + texts[1] + b"\x93"


def _forms(module: str, name: str, args: bytes) -> dict[str, bytes]:
    """All the ways in which an opcode can call something, and set a state on what it made."""
    found = _global(module, name)
    return {
        "reduce": found + b"(" + args + b"tR",
        "stacked": _stacked(module, name) + b"(" + args + b"tR",
        "newobj": found + b"(" + args + b"t\x81",
        "newobj_ex": found + b"(" + args + b"t}\x92",
        "inst": b"(" + args + b"i" + module.encode() + b"\n" + name.encode() + b"\n",
        "obj": b"(" + found + args + b"o",
        "build": found + b")R" + b"}X\x0c\x00\x00\x00__setstate__" + found + b"sb",
        "build on the class": found + b"}X\x08\x00\x00\x00__call__" + found + b"sb",
        "slots": found + b")R" + b"N}X\x09\x00\x00\x00__class__" + found + b"s\x86b",
        "result": found + b")R" + b"(" + args + b"tR",
        "key": b"}" + found + b")R" + args[:0] + b"Ns",
        "append": found + b")R" + b"K\x01a",
        "items": found + b")R" + b"K\x01K\x02s",
        "additems": found + b")R" + b"(K\x01\x90",
        "persistent": b"(X\x07\x00\x00\x00storage" + found + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ",
    }


def _tensor(
    storage: bytes, offset: bytes = b"K\x00", size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        _global("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + offset
        + size
        + stride
        + b"\x89"
        + hooks
        + b"tR"
    )


def _storage(numel: int = 2) -> bytes:
    pid = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    return b"(" + pid + b"J" + struct.pack("<i", numel) + b"tQ"


def archive(path: Path, program: bytes, data: bytes = bytes(8)) -> Path:
    """A zip file of torch's with this program as its pickle, and one storage."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("model/data.pkl", program)
        out.writestr("model/data/0", data)
    return path


def _beside(value: bytes) -> bytes:
    """A pickle of {"w": a sound tensor, "x": value}."""
    return b"\x80\x02}(X\x01\x00\x00\x00w" + _tensor(_storage()) + b"X\x01\x00\x00\x00x" + value + b"u."


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    count = 0
    for module, name, args in _CALLS:
        for program in _forms(module, name, args).values():
            archive(tmp_path / f"{count:04}.pt", _beside(program))
            count += 1
    for opcode in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pos.system\n", b"\x97", b"N\x98"):
        archive(tmp_path / f"{count:04}.pt", _beside(opcode))
        count += 1
    archive(tmp_path / "sound.pt", _beside(b"K\x01"))
    done = run_python(
        """
        import json
        import pickle
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.checkpoints.tensors import scan
        from rebasin_cli.errors import RebasinError
        folder = Path(sys.argv[1])
        os.chdir(folder)
        modules, events, outcomes = None, [], {}
        harmless = {"os.listdir", "os.scandir", "object.__getattr__", "sys._getframe", "mmap.__new__"}
        def watch(event, args):
            if modules is None or event in harmless:
                return
            if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            events.append([event, str(args)[:100]])
        sys.addaudithook(watch)
        def attempt(path):
            try:
                with open_checkpoint(path) as checkpoint:
                    scan(checkpoint)
                    return list(checkpoint)
            except RebasinError as error:
                return [error.exit_code, error.what]
        attempt(Path("sound.pt"))
        paths = sorted(folder.glob("*.pt"))
        modules = set(sys.modules)
        for path in paths:
            outcomes[path.name] = attempt(path)
        new = sorted(set(sys.modules) - modules)
        seen = list(events)
        pickle.loads(b"cos\\ngetpid\\n)R.")  # what a reader of pickles does, and the hook must notice
        noticed, modules = len(events) > len(seen), None
        print(json.dumps({"events": seen, "noticed": noticed, "modules": new, "outcomes": outcomes}))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["noticed"]
    assert seen["events"] == []
    assert seen["modules"] == []
    assert len(seen["outcomes"]) == count + 1 > 1000
    assert seen["outcomes"].pop("sound.pt") == ["w"]
    for outcome in seen["outcomes"].values():
        assert outcome == ["w"] or outcome[0] == 3
    assert any(outcome == ["w"] for outcome in seen["outcomes"].values())
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt"}


def _frame(code: bytes, length: int, form: str) -> bytes:
    return b"\x80\x05" + code + struct.pack(form, length) + b"abc."


BOMBS = {
    "dicts": b"\x80\x02" + b"}" * 1_600_000 + b".",
    "marks": b"\x80\x02" + b"(" * 200_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "a nested tuple as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "doubled tuples as a key": b"\x80\x02})" + b"2\x86" * 100 + b"Ns.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a mapping in itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "nested calls": b"\x80\x02N" + b"q\x000cargparse\nNamespace\nh\x00\x85R" * 100_000 + b".",
    "references": b"\x80\x02}q\x00"
    + b"".join(
        b"}q%c(" % (i + 1) + b"".join(b"X\x03\x00\x00\x00%03dh%c" % (j, i) for j in range(100)) + b"u"
        for i in range(200)
    )
    + b".",
    "a long text": _frame(b"X", 2**32 - 1, "<I"),
    "a longer text": _frame(b"\x8d", 2**60, "<Q"),
    "long bytes": _frame(b"\x8e", 2**60, "<Q"),
    "a long bytearray": _frame(b"\x96", 2**60, "<Q"),
    "a long number": _frame(b"\x8b", 2**31 - 1, "<i"),
    "a negative length": _frame(b"\x8b", -5, "<i"),
    "many digits": b"I" + b"9" * 50_000 + b"\n.",
    "a line without end": b"c" + b"a" * 1_000_000,
    "a large frame": _frame(b"\x95", 2**63, "<Q"),
    "a large place in the memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02}",
    "another protocol": b"\x80\x63N.",
    "an unknown opcode": b"\x80\x02\xff.",
    "empty": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_only_costs_time_or_memory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError) as caught:
        open_checkpoint(archive(tmp_path / "model.pt", BOMBS[name]))
    assert caught.value.where
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for number, name in enumerate(("dicts", "references", "a longer text", "a long bytearray", "a long number")):
        archive(tmp_path / f"{number}.pt", BOMBS[name])
    done = run_python(
        """
        import resource
        from rebasin_cli.checkpoints.opening import open_checkpoint
        from rebasin_cli.errors import ContentError
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in Path(sys.argv[1]).iterdir():
            try:
                open_checkpoint(path)
            except ContentError:
                pass
        print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """,
        tmp_path,
    )
    before, after = map(int, done.stdout.split())
    assert after < 2.5 * before


_INT64 = b"\x8a\x08" + struct.pack("<q", 2**62)
VIEWS = {
    "size": (_tensor(_storage(), size=b"K\x03\x85"), "reaches to byte 12 of its storage, which has 8"),
    "offset": (_tensor(_storage(), offset=b"K\x01"), "reaches to byte 12"),
    "stride": (_tensor(_storage(), stride=b"K\x02\x85"), "reaches to byte 12"),
    "a huge offset": (_tensor(_storage(), offset=_INT64), "reaches to byte"),
    "a negative offset": (_tensor(_storage(), offset=b"J\xff\xff\xff\xff"), "no offset"),
    "a negative size": (_tensor(_storage(), size=b"J\xff\xff\xff\xff\x85"), "not whole numbers"),
    "a negative stride": (_tensor(_storage(), stride=b"J\xff\xff\xff\xff\x85"), "not whole numbers"),
    "a true size": (_tensor(_storage(), size=b"\x88\x85"), "not whole numbers"),
    "fewer strides": (_tensor(_storage(), stride=b")"), "other strides than axes"),
    "expanded without end": (_tensor(_storage(), size=_INT64 + b"\x85", stride=b"K\x00\x85"), "repeats 8 bytes"),
    "many axes": (_tensor(_storage(), size=b"(%bt" % (b"K\xff" * 60), stride=b"(%bt" % (b"K\0" * 60)), "any memory"),
    "a storage of more": (_tensor(_storage(3)), "has 8 bytes, and the pickle claims 12"),
    "no storage": (_tensor(b"N"), "no storage"),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_outside_their_storage_are_refused(name: str, tmp_path: Path) -> None:
    tensor, message = VIEWS[name]
    path = archive(tmp_path / "model.pt", b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s.")
    with pytest.raises(ContentError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.what.startswith("w: ")
    assert caught.value.where == str(path)
