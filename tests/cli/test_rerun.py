"""`rebasin rerun`: a run is repeated into a folder of its own, and compared; a document may be a stranger's."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest

from rebasin_cli.cli.repeating import _CODE, READ, REPEATED, WRITTEN
from tests.cli.conftest import Outcome, Rebasin
from tests.small import mlp_state, save

AB = ("a.safetensors", "b.safetensors")


def checks(done: Outcome) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in done.document["checks"]}


def edited(path: Path, edit: Callable[[Any], object]) -> Path:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def test_align_comes_out_the_same(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin("align", *AB, "--order", "random", "--seed", 3).code == 0
    before = {path: path.read_bytes() for path in pair.iterdir()}
    done = rebasin("rerun", "b.rebasin.json", "--json")
    assert done.code == 0, done.err
    assert checks(done) == {"aligned": True, "permutation": True, "match": True, "distance": True}
    assert {path: path.read_bytes() for path in pair.iterdir() if path.is_file()} == before
    assert (pair / "b.rerun/b.aligned.safetensors").read_bytes() == (pair / "b.aligned.safetensors").read_bytes()
    assert "exists already" in rebasin("rerun", "b.rebasin.json").err


def test_data_of_the_hub_are_those_of_the_run(rebasin: Rebasin, pair: Path) -> None:
    """What is there now may be another commit; the connection is asked for first."""
    assert rebasin("interpolate", *AB, "--steps", 3, "--data", "data.npz", "--report", "run.json").code == 0

    def fetched(document: Any) -> None:
        words = document["invocations"][0]["command_line"]
        words[words.index("data.npz")] = "hf:me/digits:test"
        document["barrier"]["data"] = f"hf:me/digits@{'a1' * 20}:test"

    edited(pair / "run.json", fetched)
    refused = rebasin("rerun", "run.json")
    assert refused.code == 2
    assert f"asks the hub for --data=hf:me/digits@{'a1' * 20}:test" in refused.err


def test_a_pipe_is_repeated_from_another_folder(
    rebasin: Rebasin, pair: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = ("--at", 0.5, "-o", "m.safetensors", "--save-permutation", "p.safetensors", "--plot", "p.png")
    first = rebasin("align", *AB)
    assert rebasin("interpolate", "--steps", 3, "--data", "data.npz", *out, stdin=first.out.encode()).code == 0
    moved = tmp_path_factory.mktemp("other") / "place"
    pair.rename(moved)
    monkeypatch.chdir(moved.parent)
    done = rebasin("rerun", "place/m.rebasin.json", "--into", "again", "--json")
    assert done.code == 0, done.err
    same = checks(done)
    assert all(same.values())
    assert same.keys() >= {"aligned", "permutation", "merged", "plot", "match", "naive curve", "aligned curve"}
    assert {path.name for path in Path("again").iterdir()} == {"1-align", "2-interpolate"}
    pair.mkdir()


def test_what_differs_is_said_and_the_code_is_1(rebasin: Rebasin, pair: Path) -> None:
    assert rebasin("align", *AB).code == 0
    edited(pair / "b.rebasin.json", lambda d: d["hashes"].update(aligned="0" * 64))
    done = rebasin("rerun", "b.rebasin.json", "--json")
    assert done.code == 1
    assert checks(done)["aligned"] is False
    assert checks(done)["permutation"] is True
    assert "the run came out differently: aligned" in done.err


@pytest.mark.parametrize("which", ["a.safetensors", "data.npz"])
def test_inputs_that_changed_are_refused(rebasin: Rebasin, pair: Path, which: str) -> None:
    assert rebasin("interpolate", *AB, "--steps", 2, "--data", "data.npz", "--report", "i.json").code == 0
    if which == "data.npz":
        (pair / which).write_bytes((pair / which).read_bytes() + b"x")
    else:
        save(pair / which, mlp_state(9))
    done = rebasin("rerun", "i.json")
    assert done.code == 3
    assert f"{which} has changed since the run document was made" in done.err
    assert not (pair / "i.rerun").exists()


def test_code_is_run_only_for_who_trusts_it(rebasin: Rebasin, pair: Path) -> None:
    (pair / "judge.py").write_text("import sys; open('ran', 'a').write('x'); print(0.5)")
    words = ("--steps", 2, "--report", "i.json", "--eval-command", "python judge.py {checkpoint}")
    assert rebasin("interpolate", *AB, *words).code == 0
    (pair / "ran").unlink()
    refused = rebasin("rerun", "i.json")
    assert refused.code == 2
    assert "the run document runs code: --eval-command python judge.py {checkpoint}" in refused.err
    assert not (pair / "ran").exists()
    assert rebasin("rerun", "i.json", "--trust").code == 0
    assert (pair / "ran").exists()


HOSTILE: dict[str, tuple[list[str], int, str]] = {
    "no command": ([], 3, "is not repeated"),
    "a shell": (["rebasin", "sh", "-c", "touch owned"], 3, "`rebasin sh` is not repeated"),
    "itself": (["rebasin", "rerun", "b.rebasin.json", "--trust"], 3, "is not repeated"),
    "another program": (["touch", "owned"], 3, "`rebasin owned` is not repeated"),
    "an option that there is not": (["rebasin", "align", *AB, "--owned"], 2, "there is no option `--owned`"),
    "outputs elsewhere": (["rebasin", "align", *AB, "-o", "../owned", "--report=/report.json", "-f"], 0, ""),
    "an output that leads up": (["rebasin", "align", *AB, "-o", "x/../.."], 3, "names no file for an output"),
    "a pipe": (["rebasin", "align", "-", AB[1]], 3, "came through a pipe"),
    "a network": (["rebasin", "align", *AB, "--network", "owned:make"], 2, "runs code: --network owned:make"),
    "a metric": (["rebasin", "interpolate", *AB, "--metric=owned:f"], 2, "runs code: --metric owned:f"),
    "a loss": (["rebasin", "align", *AB, "--loss", "owned:f"], 2, "runs code: --loss owned:f"),
    "data": (["rebasin", "align", *AB, "--data", "owned:f"], 2, "runs code: --data owned:f"),
    "help": (["rebasin", "align", *AB, "--help"], 2, "there is no option `--help`"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_document_stays_in_one_folder(rebasin: Rebasin, pair: Path, name: str) -> None:
    words, code, says = HOSTILE[name]
    (pair / "owned.py").write_text("open('owned', 'w').write('x')")
    assert rebasin("align", *AB).code == 0
    edited(pair / "b.rebasin.json", lambda d: d["invocations"][0].update(command_line=words))
    around = {*pair.rglob("*"), *pair.parent.iterdir()}
    done = rebasin("rerun", "b.rebasin.json", "--into", "again")
    assert done.code == code, done.err
    assert says in done.err
    new = {*pair.rglob("*"), *pair.parent.iterdir()} - around
    assert all(pair / "again" in (path, *path.parents) for path in new), new


def test_a_document_without_commands_cannot_be_repeated(rebasin: Rebasin, pair: Path) -> None:
    (pair / "old.json").write_text('{"schema_version": 1, "command": "align"}')
    done = rebasin("rerun", "old.json")
    assert done.code == 3
    assert "does not say how it was made" in done.err


@pytest.mark.parametrize("name", REPEATED)
def test_every_path_and_every_code_of_a_command_is_known(name: str) -> None:
    """A new option that names a file or code has to be told `rerun`, which would pass it on as it is."""
    for parameter in signature(import_module(f"rebasin_cli.cli.commands.{name}").command).parameters.values():
        kind, *more = get_args(parameter.annotation) or (parameter.annotation,)
        if "Path" in str(kind):
            assert parameter.name in READ | WRITTEN, parameter.name
        told = [f"{option.metavar} {option.help}" for option in more]
        if any("MODULE" in text.replace("DIM=MODULE", "") or "COMMAND" in text for text in told):
            assert parameter.name in _CODE, parameter.name
