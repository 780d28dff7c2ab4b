"""Bad input: the code, what, where, what to do; nothing written, and told before any matching."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.pipeline import match
from tests.cli.conftest import Outcome, Rebasin
from tests.small import WIDTHS, mlp_state, save, save_data

Prepare = Callable[[Path], None]

UNREAD = (
    ("--momentum", "0.9"), ("--similarity", "correlation"), ("--objective", "distance"), ("--tap", "h.0=fc.0"),
    ("--network-option", "activation=gelu"), ("--limit", "5"), ("--image-size", "8"), ("--normalise", "imagenet"),
    ("--split", "test"), ("--sequence-length", "8"), ("--fit-batch-size", "10"), ("--loss", "mse"),
    ("--method", "activations", "--start", "identity"),
)  # fmt: skip
"""Options that neither weight matching nor a run without examples reads."""


@pytest.fixture
def refused(rebasin: Rebasin, pair: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Call the program; it must end before it matches, in our form, with every file as it was."""

    def no_matching(*_: object, **__: object) -> None:
        raise RuntimeError("matching began")

    monkeypatch.setattr(match, "run_method", no_matching)

    def call(code: int, *arguments: object, stdin: bytes = b"") -> Outcome:
        before = {path: path.read_bytes() for path in pair.rglob("*") if path.is_file()}
        done = rebasin(*arguments, stdin=stdin)
        assert done.code == code, done.err
        assert "error: " in done.err
        assert "Traceback" not in done.err
        assert done.out == ""
        assert {path: path.read_bytes() for path in pair.rglob("*") if path.is_file()} == before
        return done

    return call


def _edit(name: str, **changes: torch.Tensor | None) -> None:
    state = load_file(name)
    for key, tensor in changes.items():
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    save(Path(name), state)


# -- headers -----------------------------------------------------------------------------------------------


def test_another_width(refused: Callable[..., Outcome], pair: Path) -> None:
    save(pair / "b.safetensors", mlp_state(1, (WIDTHS[0], 8, 12, WIDTHS[-1])))
    done = refused(3, "align", "a.safetensors", "b.safetensors")
    assert "fc.1.bias: axis 0 has 8 units in A and 12 in B" in done.err
    assert "mlp.yaml:" in done.err
    assert "dim h.1" in done.err
    assert "rebasin inspect" in done.err


def test_a_layer_on_one_side(refused: Callable[..., Outcome], pair: Path) -> None:
    save(pair / "b.safetensors", mlp_state(1, widths=(32, 8, 8, 16, 16)))
    done = refused(3, "align", "a.safetensors", "b.safetensors")
    assert "2 tensors (fc.3.bias, fc.3.weight) in B and not in A" in done.err
    assert "--ignore 'fc.3.*'" in done.err


def test_another_rank(refused: Callable[..., Outcome], pair: Path) -> None:
    _edit("a.safetensors", **{"fc.1.bias": torch.zeros(8, 1)})
    refused(3, "align", "a.safetensors", "b.safetensors")


def test_a_tensor_that_no_section_covers(refused: Callable[..., Outcome], pair: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        _edit(name, **{"fc.wings": torch.zeros(2, 2)})
    done = refused(3, "align", "a.safetensors", "b.safetensors")
    assert "wings" in done.err
    assert "--ignore" in done.err


def test_unknown_architecture_shows_the_nearest(refused: Callable[..., Outcome], pair: Path) -> None:
    for name in ("x.safetensors", "y.safetensors"):
        save(pair / name, {"encoder.wings": torch.zeros(3, 4)})
    done = refused(3, "align", "x.safetensors", "y.safetensors")
    assert "fits this checkpoint" in done.err


def test_a_spec_with_an_unknown_key(refused: Callable[..., Outcome], pair: Path) -> None:
    Path("own.yaml").write_text("name: own\nbufers: {}\ntensors:\n  fc.0.weight: a b\n")
    done = refused(3, "align", "a.safetensors", "b.safetensors", "--arch", "own.yaml")
    assert "own.yaml:2" in done.err
    assert "did you mean" in done.err


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.safetensors", b""),
        ("short.safetensors", b"\x10"),
        ("text.safetensors", b"hello, this is no checkpoint at all"),
        ("header.safetensors", (5).to_bytes(8, "little") + b"{nope"),
    ],
)
def test_damaged_files(refused: Callable[..., Outcome], pair: Path, name: str, data: bytes) -> None:
    (pair / name).write_bytes(data)
    assert name in refused(3, "align", "a.safetensors", name).err


def test_a_truncated_file(refused: Callable[..., Outcome], pair: Path) -> None:
    whole = (pair / "b.safetensors").read_bytes()
    (pair / "b.safetensors").write_bytes(whole[:-4])
    assert "b.safetensors" in refused(3, "align", "a.safetensors", "b.safetensors").err


def test_an_index_that_leaves_its_folder(refused: Callable[..., Outcome], pair: Path) -> None:
    (pair / "m").mkdir()
    index = {"metadata": {}, "weight_map": dict.fromkeys(mlp_state(0), "../a.safetensors")}
    (pair / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ".." in refused(3, "align", "a.safetensors", "m").err


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("exploded", "w"))  # type: ignore[return-value]


def test_a_pickle_that_would_run_code(refused: Callable[..., Outcome], pair: Path) -> None:
    torch.save({"fc.0.weight": _Bomb()}, pair / "bomb.pt")
    refused(3, "align", "a.safetensors", "bomb.pt")
    (pair / "bomb.bin").write_bytes(pickle.dumps(_Bomb()))
    refused(3, "align", "a.safetensors", "bomb.bin")
    assert not Path("exploded").exists()


def test_an_absent_file(refused: Callable[..., Outcome]) -> None:
    assert "nowhere.safetensors" in refused(4, "align", "a.safetensors", "nowhere.safetensors").err


# -- contents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(refused: Callable[..., Outcome], pair: Path, value: float) -> None:
    bad = load_file("b.safetensors")["fc.1.weight"].clone()
    bad[2, 3:5] = value
    _edit("b.safetensors", **{"fc.1.weight": bad})
    assert "fc.1.weight (2 of 64)" in refused(3, "align", "a.safetensors", "b.safetensors").err


# -- outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["b.aligned.safetensors", "b.permutation.safetensors", "b.rebasin.json"])
def test_an_output_that_exists(refused: Callable[..., Outcome], rebasin: Rebasin, pair: Path, taken: str) -> None:
    (pair / taken).write_bytes(b"mine")
    done = refused(2, "align", "a.safetensors", "b.safetensors")
    assert f"{taken} exists already" in done.err
    assert "--force" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("align", "a.safetensors", "b.safetensors", "-o", "b.safetensors", "--force"),
        ("align", "a.safetensors", "b.safetensors", "-o", "./x/../a.safetensors", "--force"),
        ("align", "a.safetensors", "b.safetensors", "--report", "a.safetensors", "--force"),
        ("align", "a.safetensors", "b.safetensors", "--save-permutation", "b.aligned.safetensors"),
        ("align", "a.safetensors", "b.safetensors", "-o", "x.pt"),
        ("align", "a.safetensors", "b.safetensors", "-o", "."),
        ("align", "-", "-"),
        ("align", "a.safetensors", "b.safetensors", "--set", "n_heads"),
        ("align", "a.safetensors", "b.safetensors", "--set", "n_heads=many"),
        ("align", "a.safetensors", "b.safetensors", "--set", "n_heads=4", "--set", "n_heads=5"),
        ("align", "a.safetensors", "b.safetensors", "--set", "wings=4"),
        ("align", "a.safetensors", "b.safetensors", "--freeze", "wings"),
        ("align", "a.safetensors", "b.safetensors", "--ignore", "wings.*"),
        ("align", "a.safetensors", "b.safetensors", "--max-sweeps", "0"),
        ("align", "a.safetensors", "b.safetensors", "--json", "-o", "-"),
        *(("align", "a.safetensors", "b.safetensors", *unread) for unread in UNREAD),
        *(("interpolate", "a.safetensors", "b.safetensors", *unread) for unread in UNREAD),
        ("align", "a.safetensors"),
        ("align", "a.safetensors", "b.safetensors", "c.safetensors"),
        ("align", "a.safetensors", "b.safetensors", "--wings"),
        ("alain", "a.safetensors"),
        ("interpolate", "a.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "--at", "0.5"),
        ("interpolate", "a.safetensors", "b.safetensors", "--at", "1.5", "-o", "x.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "--at", "nan", "-o", "x.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "--steps", "1"),
        ("interpolate", "a.safetensors", "b.safetensors", "-o", "-"),
        ("interpolate", "a.safetensors", "b.safetensors", "-o", "x.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "-o", "x", "--steps", "20000"),
        ("interpolate", "a.safetensors", "b.safetensors", "--max-barrier", "1"),
        ("interpolate", "a.safetensors", "b.safetensors", "--plot", "x.png"),
        ("interpolate", "a.safetensors", "b.safetensors", "--plot", "data.npz", "--data", "data.npz", "--force"),
        ("interpolate", "a.safetensors", "b.safetensors", "--no-align", "--permutation", "p.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--network-option", "wings=2"),
        ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--network-option", "wings"),
        ("apply", "p.safetensors", "b.safetensors"),
    ],
    ids=lambda arguments: " ".join(arguments[3:]) or " ".join(arguments),
)
def test_calls_that_cannot_be_carried_out(
    refused: Callable[..., Outcome], pair: Path, arguments: tuple[str, ...]
) -> None:
    (pair / "x").mkdir(exist_ok="-o x" not in " ".join(arguments))
    done = refused(2, *arguments)
    assert "  try:   " in done.err


def test_options_of_the_spec_belong_to_align(refused: Callable[..., Outcome]) -> None:
    text = b'{"schema_version": 1, "command": "align"}'
    assert "give them to `rebasin align`" in refused(2, "interpolate", "--arch", "mlp", stdin=text).err


def test_no_folder_for_the_output(refused: Callable[..., Outcome]) -> None:
    done = refused(4, "align", "a.safetensors", "b.safetensors", "-o", "no/such/x.safetensors")
    assert "mkdir -p" in done.err


def test_cuda_where_there_is_none(refused: Callable[..., Outcome]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    refused(2, "align", "a.safetensors", "b.safetensors", "--device", "cuda")


# -- data --------------------------------------------------------------------------------------------------


def test_data_of_another_width(refused: Callable[..., Outcome], pair: Path) -> None:
    save_data(pair / "d.npz", features=9)
    done = refused(3, "interpolate", "a.safetensors", "b.safetensors", "--data", "d.npz")
    assert "9 numbers" in done.err
    assert f"takes {WIDTHS[0]}" in done.err


def test_labels_that_the_network_does_not_have(refused: Callable[..., Outcome], pair: Path) -> None:
    save_data(pair / "d.npz", classes=WIDTHS[-1] + 1)
    assert (
        "labels run from 0 to 16" in refused(3, "interpolate", "a.safetensors", "b.safetensors", "--data", "d.npz").err
    )


def test_data_that_is_none(refused: Callable[..., Outcome], pair: Path) -> None:
    np.savez(pair / "d.npz", wings=np.zeros(3))
    refused(3, "interpolate", "a.safetensors", "b.safetensors", "--data", "d.npz")
    refused(4, "interpolate", "a.safetensors", "b.safetensors", "--data", "absent.npz")


def test_a_target_that_is_a_temporary_folder_stays_as_it_was(rebasin: Rebasin, pair: Path) -> None:
    """`-o DIR` with a file of the user's own in it: needs --force only where names collide."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes.txt").write_text("mine")
        done = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 2, "-o", folder)
        assert done.code == 0, done.err
        assert (Path(folder) / "notes.txt").read_text() == "mine"
        assert rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 2, "-o", folder).code == 2
    Path(folder + ".rebasin.json").unlink()
