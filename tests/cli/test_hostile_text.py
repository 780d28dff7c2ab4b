"""Hostile names from files, paths, specs and arguments, through whole commands: what a terminal gets of them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rebasin_cli.cli.session import Session
from rebasin_cli.errors import ContentError
from rebasin_cli.pipeline import architectures
from rebasin_cli.report.codec import from_json, read_document
from tests.cli.conftest import Outcome, Rebasin
from tests.hostile import FORGED, HOSTILE, SURROGATES, assert_harmless, assert_inert
from tests.small import mlp_state, save, shuffled

_LONGEST = 20_000  # characters of an error
_OPENED = 400  # characters that a tensor's name may have
_EVERY = {**HOSTILE, **SURROGATES}
_KINDS = (
    "colour", "carriage return", "nul", "CSI of C1", "next line", "overrides", "separators", "zero width", "line",
    "line in list", "rich end", "long", "long words", "many lines",
)  # fmt: skip
_PATHS = ("colour", "carriage return", "line", "rich end", "CSI of C1", "overrides", "byte of a path", "code")
_MESSAGES = re.compile(r"^(?:error|warning|note):.*$", re.MULTILINE)


@pytest.fixture(params=[*_KINDS, *SURROGATES])
def hostile(request: pytest.FixtureRequest) -> str:
    return _EVERY[request.param]


@pytest.fixture(params=_KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


def _check(done: Outcome, *codes: int) -> None:
    assert done.code in (codes or (1, 2, 3, 4)), done.err
    assert_harmless(done.err, _LONGEST)
    assert_harmless(done.out)
    assert "Traceback" not in done.err


def _check_reports(rebasin: Rebasin, document: str) -> None:
    for form in ("--text", "--markdown", "--html"):
        done = rebasin("report", form, "-", stdin=document.encode())
        assert done.code == 0, done.err
        assert done.err == ""
        (assert_inert if form == "--text" else assert_harmless)(done.out)  # a column of names breaks them at words


# -- messages ----------------------------------------------------------------------------------------------


def test_an_error(rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch, hostile: str) -> None:
    for error in (ContentError(hostile, where=hostile, remedy=hostile), ZeroDivisionError(hostile), OSError(hostile)):
        monkeypatch.setattr(architectures, "list_architectures", _raising(error))
        done = rebasin("arch", "list")
        assert_harmless(done.err, _LONGEST)
        assert len(_MESSAGES.findall(done.err)) == 1
        done = rebasin("arch", "list", "--debug")
        assert_harmless(done.err, 3 * _LONGEST)
        assert "Traceback" in done.err


def test_warnings_and_notes(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    session = Session(verbose=True)
    for say in (session.warn, session.remark, session.detail):
        say(hostile)
        said = capsys.readouterr().err
        assert_harmless(said, _LONGEST)
        assert len(_MESSAGES.findall(said)) == 1


def test_a_very_long_message_keeps_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    Session().warn("first " + ", ".join(f"layer.{i}.weight" for i in range(100_000)) + " last")
    said = capsys.readouterr().err
    assert len(said) < 5000
    assert said.startswith("warning: first layer.0.weight, ")
    assert said.endswith(" last\n")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch, hostile: str) -> None:
    shown = _Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with Session().phase(f"reading {hostile}", 10) as advance:
        advance(10)
    drawn = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", shown.getvalue())  # the bar's own movements
    assert_inert(drawn)
    assert not re.search(r"^ *(?:error|warning): ", drawn, re.MULTILINE)


def test_an_argument(rebasin: Rebasin, pair: Path, hostile: str) -> None:
    _check(rebasin("arch", "show", f"none{hostile}"))
    _check(rebasin("align", "a.safetensors", "b.safetensors", "--ignore", f"none{hostile}"), 2)
    _check(rebasin("align", "a.safetensors", "b.safetensors", "--set", f"x={hostile}"), 2)
    _check(rebasin("align", "a.safetensors", "b.safetensors", f"--{hostile}"), 2)


# -- checkpoints -------------------------------------------------------------------------------------------


def test_names_of_tensors(rebasin: Rebasin, pair: Path, name: str) -> None:
    odd = f"name {name}"
    save(pair / "b.safetensors", {**mlp_state(1), odd: torch.zeros(3, 2)})
    opened = len(odd) <= _OPENED
    inspected = rebasin("inspect", "b.safetensors", "--arch", "mlp", "--ignore", "name *", "--json")
    _check(inspected, 0 if opened else 3)
    assert not opened or odd in inspected.document["tensors"]
    _check(rebasin("align", "a.safetensors", "b.safetensors"), 3)
    _check(rebasin("arch", "check", "mlp", "b.safetensors"), 1 if opened else 3)


def test_names_of_tensors_in_both(rebasin: Rebasin, pair: Path, name: str) -> None:
    for number, file in enumerate(("a.safetensors", "b.safetensors")):
        save(pair / file, {f"{name}{i}": torch.zeros(3, 2 + number) for i in range(20)})
    _check(rebasin("align", "a.safetensors", "b.safetensors", "--arch", "mlp"), 3)


def test_all_names_in_a_run_that_succeeds(rebasin: Rebasin, pair: Path) -> None:
    state = mlp_state(0)
    odd = {f"name {name}"[:_OPENED]: torch.full((2, 2), float(i)) for i, name in enumerate(HOSTILE.values())}
    metadata = {name: name for name in HOSTILE.values()}
    save(pair / "a.safetensors", state, metadata)
    save(pair / "b.safetensors", {**shuffled(state, 1), **odd}, metadata)
    done = rebasin("align", "a.safetensors", "b.safetensors", "--ignore", "name *", "-v")
    _check(done, 0)
    assert odd.keys() <= load_file("b.aligned.safetensors").keys()
    _check_reports(rebasin, done.out)
    inspected = rebasin("inspect", "b.aligned.safetensors", "--ignore", "name *", "--json")
    _check(inspected, 0)
    _check_reports(rebasin, inspected.out)


@pytest.mark.parametrize("which", ["key", "class", "class beside", "value"])
def test_names_in_a_pickle(rebasin: Rebasin, tmp_path: Path, which: str, name: str) -> None:
    path = tmp_path / "x.pt"
    if which.startswith("class"):  # the class stands where the state dict should be, or beside something
        made = _text(f"lib.{name}") + _text(name) + b"\x93)\x81"
        path.write_bytes(b"\x80\x04" + (made if which == "class" else b"}" + _text("a") + made + b"s") + b".")
        _check(rebasin("inspect", path), 3)
        return
    state = {f"net {name}": mlp_state(0), f"other {name}": mlp_state(1)}
    torch.save(state if which == "key" else {"state_dict": mlp_state(0), "args": {"n_heads": name}, name: 1}, path)
    _check(rebasin("inspect", path), 3 if which == "key" else 0)
    _check(rebasin("inspect", f"{path}:none{name}"))


@pytest.mark.parametrize(
    "header", ['{"\\u001b[31m":{"dtype":"\\u001b]0;x\\u0007"}}', '{"a":1,\x1b\n' + FORGED, "\x1b[2J"]
)
def test_a_damaged_header(rebasin: Rebasin, tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    _check(rebasin("inspect", path), 3)


def test_values_of_config_json(rebasin: Rebasin, tmp_path: Path, hostile: str) -> None:
    save(tmp_path / "model.safetensors", mlp_state(0))
    config = json.dumps({"model_type": hostile, "architectures": [hostile], "n_head": hostile, hostile: hostile})
    (tmp_path / "config.json").write_text(config)
    _check(rebasin("inspect", tmp_path, "--arch", "mlp"), 0)
    (tmp_path / "config.json").write_text(f"[{config}")
    _check(rebasin("inspect", tmp_path), 3)


# -- specs -------------------------------------------------------------------------------------------------


def test_a_hostile_spec(rebasin: Rebasin, pair: Path, name: str) -> None:
    text = json.dumps(name)
    Path("own.yaml").write_text(
        f"name: {text}\ntitle: {text}\ntensors:\n  fc.{{i}}.weight: h.{{i}} h.{{prev i}}\n  fc.{{i}}.bias: h.{{i}}\n"
        f"  {json.dumps(name + '.{i}?')}: h.{{i}}\nstays:\n  {text}: {text}\n"
    )
    for arguments in (("show", "own.yaml"), ("check", "own.yaml", "a.safetensors")):
        _check(rebasin("arch", *arguments), 0, 1, 3)
    _check(rebasin("align", "a.safetensors", "b.safetensors", "--arch", "own.yaml", "--dry-run"), 0, 3)


def test_mistakes_in_a_hostile_spec(rebasin: Rebasin, pair: Path, name: str) -> None:
    text = json.dumps(name)
    for line in (f"{text}: x", f"tensors:\n  a: {text}", f"tensors:\n  {text}: {text}", f"dims:\n  {text}: {text}"):
        Path("own.yaml").write_text(f"{line}\n")
        _check(rebasin("arch", "check", "own.yaml", "a.safetensors"))
    Path("own.yaml").write_bytes(f"name: {name}".encode())  # what YAML itself says of such characters
    _check(rebasin("arch", "check", "own.yaml", "a.safetensors"))


# -- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", _PATHS)
def test_paths(rebasin: Rebasin, pair: Path, kind: str) -> None:
    named = _EVERY[kind].replace("/", "")
    b = Path(f"{named}.safetensors")
    os.rename("b.safetensors", b)
    done = rebasin("align", "a.safetensors", b)
    _check(done, 0)
    assert done.document["inputs"]["b"]["path"] == os.path.abspath(b)
    assert read_document(Path(f"{named}.rebasin.json")) == from_json(done.out, "stdout")
    _check_reports(rebasin, done.out)
    _check(rebasin("interpolate", "--steps", 3, stdin=done.out.encode()), 0)
    again = rebasin("align", "a.safetensors", b)
    _check(again, 2)
    assert "exists already" in again.err
    _check(rebasin("inspect", f"none-{b}"), 4)
    _check(rebasin("align", "a.safetensors", b, "-o", f"no {named}/out.safetensors"), 4)
    os.rename("a.safetensors", f"{named}.yaml")
    _check(rebasin("arch", "show", f"{named}.yaml"), 3)


def test_a_folder_of_a_hostile_name_can_be_made(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "-o", "a folder/x.safetensors")
    assert f"mkdir -p '{pair}/a folder'\n" in done.err
    done = rebasin("align", "a.safetensors", "b.safetensors", "-o", "a\x1b[2J\n/x.safetensors")
    assert rf"mkdir -p $'{pair}/a\033[2J\012'" in done.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize("kind", ["colour", "line", "CSI of C1", "overrides", "code", "attribute", "format"])
def test_recommended_options_can_be_copied(rebasin: Rebasin, pair: Path, kind: str) -> None:
    save(pair / "b.safetensors", {**mlp_state(1), f"odd.{HOSTILE[kind]}": torch.zeros(3, 2), "odd.b": torch.zeros(1)})
    save(pair / "a.safetensors", {**mlp_state(0), "odd.b": torch.zeros(1)})
    command = ("align", "a.safetensors", "b.safetensors", "--arch", "mlp")
    refused = rebasin(*command)
    _check(refused, 3)
    options = refused.err[refused.err.index("--ignore") :].removesuffix("\n").removesuffix(", or extend the spec")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {options}"], stdout=subprocess.PIPE, check=True).stdout
    _check(rebasin(*command, *(os.fsdecode(word) for word in words.split(b"\0")[:-1])), 0)


def _text(text: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _raising(error: Exception) -> object:
    def act(word: str) -> None:
        raise error

    return act
