"""What a run document says of how it was made."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file

from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.tensors import scan
from rebasin_cli.files import sha256_of
from rebasin_cli.pipeline.method_choice import effective_options
from rebasin_cli.report.codec import from_json, read_document
from tests.checkpoints.building import write_sharded
from tests.cli.conftest import Rebasin


def test_a_document_says_how_it_was_made(rebasin: Rebasin, pair: Path) -> None:
    done = rebasin("align", "a.safetensors", "b.safetensors", "--seed", 7, "--order=random", "--freeze", "h.0")
    (call,) = from_json(done.out, "stdout").invocations
    typed = ("align", "a.safetensors", "b.safetensors", "--seed", "7", "--order=random", "--freeze", "h.0")
    assert call.command_line == ("rebasin", *typed)
    assert call.folder == str(pair)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", call.started)
    assert call.seconds > 0
    assert set(call.machine) == {"platform", "processor", "cores", "threads", "python"}
    told = {"A": "a.safetensors", "--seed": 7, "--order": "random", "--freeze": ("h.0",)}
    resolved = {"--method": "weights", "--start": "anchored", "--quality": "default", "--max-sweeps": 100}
    assert call.options.items() >= {**told, **resolved}.items()
    assert "--momentum" not in call.options, "weights do not read it"
    (kept,) = read_document(pair / "b.rebasin.json").invocations
    assert kept.command_line == call.command_line


def test_every_command_of_a_pipe_is_in_the_document(rebasin: Rebasin, pair: Path) -> None:
    first = rebasin("align", "a.safetensors", "b.safetensors")
    second = rebasin(
        "interpolate", "--steps", 3, "--data", "data.npz", "--report", "i.json", "--json", stdin=first.out.encode()
    )
    third = rebasin("report", "i.json", "--html", "i.html", "--json")
    calls = from_json(third.out, "stdout").invocations
    assert [call.command_line[1] for call in calls] == ["align", "interpolate"]
    assert calls == from_json(second.out, "stdout").invocations


def test_a_sweep_that_goes_on_is_one_command(rebasin: Rebasin, pair: Path) -> None:
    words = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--resume", "s.json")
    assert rebasin(*words, "--steps", 3).code == 0
    done = rebasin(*words, "--steps", 5)
    assert [call.command_line[-1] for call in from_json(done.out, "stdout").invocations] == ["5"]


def test_options_have_the_defaults_of_their_method() -> None:
    none = {"momentum": None, "epochs": None, "learning_rate": None, "start": None}
    assert effective_options({"method": "ste", **none}) == {
        "method": "ste", "momentum": 0.9, "epochs": 20, "learning_rate": 0.01
    }  # fmt: skip
    assert effective_options({"method": "weights", **none}) == {"method": "weights", "start": "anchored"}
    assert effective_options({"limit": None}) == {"limit": None}


def test_a_file_tells_no_folder_above_it(rebasin: Rebasin, pair: Path) -> None:
    (pair / "out").mkdir()
    words = ("interpolate", pair / "a.safetensors", "b.safetensors", "--data", pair / "data.npz", "--steps", 3)
    done = rebasin(*words, "--report", "out/i.json", "--save-permutation", "out/p.safetensors", "--json")
    text = (pair / "out/i.json").read_text()
    assert str(pair) not in text
    assert '"../b.safetensors"' in text
    kept, piped = read_document(pair / "out/i.json"), from_json(done.out, "stdout")
    assert (kept.inputs, kept.outputs) == (piped.inputs, piped.outputs)
    assert kept.invocations[0].folder == str(pair)


def test_a_moved_document_finds_its_files(rebasin: Rebasin, pair: Path) -> None:
    (pair / "old").mkdir()
    words = ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--resume")
    assert rebasin(*words, "old/s.json", "--steps", 3).code == 0
    (pair / "old").rename(pair / "new")
    done = rebasin(*words, "new/s.json", "--steps", 5)
    assert "nothing is matched again" in done.err
    assert done.document["outputs"]["permutation"] == str(pair / "new" / "s.permutation.safetensors")


def test_reports_have_names_alone(rebasin: Rebasin, pair: Path) -> None:
    words = (pair / "a.safetensors", pair / "b.safetensors", f"--data={pair / 'data.npz'}", "--steps", 3)
    assert rebasin("interpolate", *words, "--report", "i.json", "--plot", "p.png").code == 0
    for form in ("--html", "--markdown", "--text"):
        shown = rebasin("report", "i.json", form, "-").out
        assert str(pair) not in shown, form
        assert "a.safetensors" in shown.replace("\\", "")
        if form != "--text":  # which has the paths of the current folder without it
            assert pair.name in rebasin("report", "i.json", form, "-", "--paths").out.replace("\\", "")


def test_outputs_have_their_hashes(rebasin: Rebasin, pair: Path) -> None:
    state = load_file("b.safetensors")
    shards = {"one.safetensors": dict([*state.items()][:3]), "two.safetensors": dict([*state.items()][3:])}
    write_sharded(pair / "folder", shards)
    data = ("--data", "data.npz", "--steps", 2)
    documents = [
        rebasin("align", "a.safetensors", "b.safetensors").out,
        rebasin("align", "folder", "folder", "-o", "c").out,
        rebasin("interpolate", "a.safetensors", "b.safetensors", "--at", 0.5, "-o", "m.safetensors", *data).out,
        rebasin("merge", "a.safetensors", "b.safetensors", "-o", "n.safetensors").out,
        rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "o.safetensors").out,
    ]
    for document in (from_json(text, "stdout") for text in documents):
        assert document.hashes.keys() == document.outputs.keys()
        for role, place in document.outputs.items():
            with open_checkpoint(Path(place)) as checkpoint:
                assert document.hashes[role] == scan(checkpoint).sha256, role
    inputs = from_json(documents[2], "stdout").inputs
    assert inputs["data"].sha256 == sha256_of(pair / "data.npz")
    applied = from_json(documents[4], "stdout").inputs["permutation"]
    assert applied.sha256 == sha256_of(Path("b.permutation.safetensors"))
