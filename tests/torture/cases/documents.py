"""What the program itself wrote, edited: run documents and permutation files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.torture.cases import JSONS, NAMES, NUMBERS, Case, of_bytes

_WRONG = (
    None, True, -1, 10**400, 1.5, "", "x", [], {}, [[]], [None], {"x": None}, "\x1b[31m\nerror: forged",
    "<script>alert(1)</script>", "[/]", "\ud800", [1] * 5000,
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for at, data in enumerate(JSONS):
        yield of_bytes(f"document/json-{at}", "document", "x.json", data)
    for at in range(300):
        yield Case(f"document/edited-{at}", "document", "x.json", _edited(at))
    for at in range(len(NAMES)):
        yield Case(f"document/names-{at}", "document", "x.json", _named(NAMES[at]))
    for at, number in enumerate(NUMBERS):
        yield Case(f"document/numbers-{at}", "document", "x.json", _numbered(number))
    for at, edit in enumerate(_sizes()):
        yield Case(f"document/sizes-{at}", "document", "x.json", _json_edit(edit))
    for at, change in enumerate(_permutations()):
        yield Case(f"permutation/{at}", "permutation", "x.safetensors", change)


def _edited(number: int) -> Callable[[Path], None]:
    """The stock's document with one value replaced; each place has its turn with each wrong value."""

    def make(path: Path) -> None:
        document = json.loads((path.parent / "run.json").read_text())
        places = list(_places(document))
        place = places[(number * 37) % len(places)]
        holder: Any = document
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = _WRONG[number % len(_WRONG)]
        path.write_text(json.dumps(document))

    return make


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from _places(inner, (*place, key))


def _named(name: str) -> Callable[[Path], None]:
    """Every text that is no hash is this name, and so is a key of every mapping of names."""

    def replace(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            kept = {k: replace(v, k) for k, v in value.items()}
            return (
                {**kept, name: next(iter(kept.values()))}
                if key in ("dims", "inputs", "outputs", "stays", "versions") and kept
                else kept
            )
        if isinstance(value, list):
            return [replace(each) for each in value]
        return name if isinstance(value, str) and key not in ("command", "sha256") else value

    def make(path: Path) -> None:
        document = json.loads((path.parent / "run.json").read_text())
        document["warnings"] = [name]
        document = replace(document)
        document["inputs"] |= (
            {role: {**document["inputs"][role], "path": f"{role}.safetensors"} for role in "ab"}
            if number_of(name) % 2
            else {}
        )
        path.write_text(json.dumps(document))

    return make


def number_of(name: str) -> int:
    """A number that a name has in every process."""
    return sum(map(ord, name))


def _numbered(number: str) -> Callable[[Path], None]:
    """Every number of the document's losses and distances is this one."""

    def make(path: Path) -> None:
        document = json.loads((path.parent / "run.json").read_text())
        text = json.dumps(_marked(document, "mark"))
        path.write_text(text.replace('"mark"', number))

    return make


def _marked(value: Any, mark: str) -> Any:
    if isinstance(value, dict):
        return {k: v if k == "schema_version" else _marked(v, mark) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(each, mark) for each in value]
    return mark if isinstance(value, float) else value


def _json_edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        document = copy.deepcopy(json.loads((path.parent / "run.json").read_text()))
        edit(document)
        path.write_text(json.dumps(document))

    return make


def _sizes() -> Iterator[Callable[[dict[str, Any]], object]]:
    curve = {"loss": [], "accuracy": [], "barrier": 0.0, "barrier_to_mean": 0.0}
    yield lambda d: d["barrier"].update({"lambda": []})
    yield lambda d: d["barrier"].update({"lambda": [0.0]})
    yield lambda d: d["barrier"].update({"lambda": [1.0, 0.5, 0.0]})
    yield lambda d: d["barrier"].update({"lambda": [5.0, 5.0, 5.0]})
    yield lambda d: d["barrier"].update({"naive": curve})
    yield lambda d: d["barrier"].update({"naive": None, "aligned": None})
    yield lambda d: d["barrier"].update({"lambda": [], "naive": curve, "aligned": curve})
    yield lambda d: d["barrier"]["aligned"].update({"loss": [1.0]})
    yield lambda d: d["barrier"]["aligned"].update({"loss": [None] * 3, "accuracy": [None] * 3})
    yield lambda d: d["barrier"]["aligned"].update({"loss": [1e308, -1e308, 1e308]})
    yield lambda d: d["barrier"].update(
        {
            "lambda": [at / 1e5 for at in range(100_000)],
            "naive": None,
            "aligned": {**curve, "loss": [1.0] * 100_000, "accuracy": [1.0] * 100_000},
        }
    )
    yield (
        lambda d: (
            d["barrier"]["repaired"].update({str(at): curve for at in range(2_000)})
            if "repaired" in d["barrier"]
            else d["barrier"].update(repaired={str(at): curve for at in range(2_000)})
        )
    )
    yield lambda d: d["architecture"].update({"dims": {}})
    yield lambda d: d["architecture"].update(
        {"dims": {f"h.{at}": {"size": 1, "moved": 0.5, "gain": 1.0, "relative": 1.0} for at in range(50_000)}}
    )
    yield lambda d: d.update(warnings=["x" * 5_000] * 1_000)
    yield lambda d: d.update(warnings=["x" * (4 << 20)])
    yield lambda d: d.update(command="\x1b[31m\nerror: forged")
    yield lambda d: d.update(inputs={})
    yield lambda d: d.update(outputs={"permutation": "/dev/zero"})
    yield lambda d: d.update(outputs={"permutation": "../../pwned"})
    for words in (
        "align a.safetensors b.safetensors -o ../../up.safetensors --report /up.json -f", "sh -c ls", "align --help",
        "align a.safetensors b.safetensors --network pwned:make", "apply p.safetensors a.safetensors -o .. --force",
        "merge /dev/zero b.safetensors -o m.safetensors", "align - b.safetensors -o x/..", "rerun x.json --trust",
    ):  # fmt: skip
        yield lambda d, w=words: d["invocations"][0].update(command_line=["rebasin", *w.split()])
    yield lambda d: d["invocations"][0].update(folder="/dev/fd", command_line=["rebasin", "align", "0", "1"])
    yield lambda d: d.update(device="\x1b[31m")
    yield lambda d: d["inputs"]["a"].update(path="/dev/zero")
    yield lambda d: d["inputs"]["a"].update(path="http://127.0.0.1/x")
    yield lambda d: d["inputs"]["a"].update(sha256="x")


def _permutations() -> Iterator[Callable[[Path], None]]:
    indices = (
        [-1, 0, 1, 2, 3, 4, 5, 6], [0] * 8, [8, 0, 1, 2, 3, 4, 5, 6], [2**62] * 8, [-(2**63)] * 8, list(range(7)),
        list(range(9)), [], [1, 2, 3, 4, 5, 6, 7, 8], list(range(8)),
    )  # fmt: skip
    for values in indices:
        yield _permutation(lambda t, m, v=values: t.update({"h.0": torch.tensor(v, dtype=torch.int64)}))
    for dtype in (torch.float32, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float16):
        yield _permutation(lambda t, m, d=dtype: t.update({"h.0": t["h.0"].to(d)}))
    for shape in ((), (1, 8), (8, 1), (2, 4), (0,), (0, 8), (8, 0), (1,) * 20):
        yield _permutation(
            lambda t, m, s=shape: t.update(
                {"h.0": torch.arange(max(1, torch.Size(s).numel()))[: torch.Size(s).numel()].reshape(s)}
            )
        )
    yield _permutation(lambda t, m: t.pop("h.0"))
    yield _permutation(lambda t, m: t.clear())
    yield _permutation(lambda t, m: t.update({f"h.{at}": torch.arange(8) for at in range(2_000)}))
    for name in NAMES:
        if "\ud800" <= name[:1] <= "\udfff":
            continue
        yield _permutation(lambda t, m, n=name: t.update({n: torch.arange(8)}))
        yield _permutation(lambda t, m, n=name: m.update({"spec.name": n, "inputs": n}))
        yield _permutation(lambda t, m, n=name: m.update({"spec.sha256": n, "format": n}))
    for text in (
        "",
        "{",
        "[]",
        "null",
        "1",
        '{"a": 1}',
        '{"a": {}}',
        "[" * 100_000,
        '{"b": "\\u001b[31m"}',
        '{"b":' + "9" * 5_000 + "}",
    ):
        yield _permutation(lambda t, m, x=text: m.update({"inputs": x}))
    yield _permutation(lambda t, m: m.clear())


def _permutation(change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with safe_open(path.parent / "p.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = dict(file.metadata())
        change(tensors, metadata)
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata)

    return make
