"""What a caller can get wrong × the exit code it must give; nothing of it is a bug of ours (70) or another's code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Rebasin
from tests.small import save_pair

AB = ("a.safetensors", "b.safetensors")
DATA = ("--data", "data.npz")
ABSURD = ("100000000000000000000", "-100000000000000000000", "1e23", "nan", "inf", "-inf", "9" * 5000, "٣", "1_0", "x")
NUMBERS = [
    ("align", *AB, "--seed"),
    ("align", *AB, "--max-sweeps"),
    ("align", *AB, "--restarts"),
    ("align", *AB, "--threads"),
    ("align", *AB, "--memory"),
    ("align", *AB, "--time-budget"),
    ("align", *AB, "--epochs"),
    ("align", *AB, "--learning-rate"),
    ("align", *AB, "--momentum"),
    ("align", *AB, "--fit-batch-size"),
    ("align", *AB, *DATA, "--limit"),
    ("align", *AB, *DATA, "--sequence-length"),
    ("align", *AB, *DATA, "--image-size"),
    ("interpolate", *AB, "--steps"),
    ("interpolate", *AB, "-o", "m.safetensors", "--at"),
    ("interpolate", *AB, *DATA, "--max-barrier"),
    ("interpolate", *AB, *DATA, "--batch-size"),
    ("interpolate", *AB, *DATA, "--fit-limit"),
    ("interpolate", *AB, "--eval-command", "echo {checkpoint}", "--eval-timeout"),
    ("merge", *AB, "-o", "m.safetensors", "--steps"),
    ("repair", "a.safetensors", *DATA, "--at"),
    ("arch", "prove", "mlp", "--seed"),
]
BELOW = {  # what is a number, and less than the option takes
    "--seed": "-1", "--max-sweeps": "0", "--restarts": "0", "--threads": "0", "--memory": "-1", "--time-budget": "0",
    "--epochs": "0", "--learning-rate": "-1", "--momentum": "1.1", "--fit-batch-size": "0", "--limit": "0",
    "--sequence-length": "1", "--image-size": "0", "--steps": "1", "--at": "-0.1", "--max-barrier": "-1e10",
    "--batch-size": "0", "--fit-limit": "0", "--eval-timeout": "0",
}  # fmt: skip


@pytest.mark.parametrize("arguments", NUMBERS, ids=lambda arguments: f"{arguments[0]} {arguments[-1]}")
def test_a_number_out_of_range_is_refused(rebasin: Rebasin, pair: Path, arguments: tuple[str, ...]) -> None:
    for text in (*ABSURD, BELOW[arguments[-1]]):
        done = rebasin(*arguments, text)
        assert done.code == 2, (text, done.err)
        assert arguments[-1] in done.err
        assert " to " in done.err  # the range is told
        assert len(done.err) < 400
    assert sorted(path.name for path in pair.iterdir()) == ["a.safetensors", "b.safetensors", "data.npz"]


@pytest.mark.parametrize("text", [*ABSURD, "0", "-1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("arch", "show", "gpt2", "--set", "n_head={}"),
        ("inspect", "a.safetensors", "--set", "n={}"),
        ("interpolate", *AB, "--at", "0.5", "-o", "m.safetensors", "--weight", "fc.*={}5"),
        ("align", *AB, *DATA, "--normalise", "{0}/{0}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_number_within_a_value_is_refused(
    rebasin: Rebasin, pair: Path, arguments: tuple[str, ...], text: str
) -> None:
    done = rebasin(*(argument.format(text) for argument in arguments))
    assert done.code == 2, done.err
    assert len(done.err) < 500


EMPTY = [
    ("",), ("inspect", ""), ("align", *AB, "-o", ""), ("align", *AB, "--output="), ("align", *AB, "--report", ""),
    ("align", *AB, "--arch", ""), ("align", *AB, "--data="), ("merge", *AB, "-o", ""), ("report", ""),
    ("interpolate", *AB, "--resume", "", *DATA), ("arch", "show", ""), ("align", "", "b.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_argument_is_refused(rebasin: Rebasin, pair: Path, arguments: tuple[str, ...]) -> None:
    done = rebasin(*arguments)
    assert done.code == 2
    assert "nothing is given" in done.err
    assert len(list(pair.iterdir())) == 3


LONG = "x" * 300
PLACES = [
    ("/", 2), ("/dev/null", 2), ("folder", 2), ("file/x", 4), (LONG, 4), ("absent/x", 4), ("..", 2), (AB[0], 2),
]  # fmt: skip


@pytest.mark.parametrize(("place", "code"), PLACES)
@pytest.mark.parametrize(
    "arguments",
    [
        ("align", *AB),
        ("merge", *AB),
        ("interpolate", *AB, "--at", "0.5"),
        ("repair", "a.safetensors", *DATA, "--end", AB[0], "--end", AB[1]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_output_that_cannot_be(
    rebasin: Rebasin, pair: Path, arguments: tuple[str, ...], place: str, code: int
) -> None:
    (pair / "folder").mkdir()
    (pair / "folder" / "x").write_text("x")
    (pair / "file").write_text("x")
    before = sorted(pair.rglob("*"))
    done = rebasin(*arguments, "-o", place)
    assert done.code in (2, 4), done.err
    assert sorted(pair.rglob("*")) == before
    assert done.code == code, done.err


@pytest.mark.parametrize("option", ["--save-permutation", "--plot", "--resume"])
def test_a_file_is_not_called_like_stdout(rebasin: Rebasin, pair: Path, option: str) -> None:
    done = rebasin("interpolate", *AB, *DATA, "--steps", 3, option, "-")
    assert done.code == 2
    assert "`-` is stdout" in done.err
    assert not (pair / "-").exists()


def test_a_name_that_is_no_text(rebasin: Rebasin, pair: Path) -> None:
    """Every command reads, writes and reports files whose names are not UTF-8."""
    odd = os.fsdecode(b"n\xff")
    (pair / "b.safetensors").rename(pair / f"{odd}.safetensors")
    done = rebasin("align", "a.safetensors", f"{odd}.safetensors")
    assert done.code == 0, done.err
    assert (pair / f"{odd}.aligned.safetensors").exists()
    assert Path(done.document["inputs"]["b"]["path"]) == pair / f"{odd}.safetensors"
    assert rebasin("interpolate", "--steps", 3, stdin=done.out.encode()).code == 0
    for form in ("html", "markdown", "text"):
        assert rebasin("report", f"{odd}.rebasin.json", f"--{form}", f"{odd}.{form}").code == 0
        assert (pair / f"{odd}.{form}").stat().st_size > 100
        assert rebasin("report", f"{odd}.rebasin.json", f"--{form}", "-").code == 0


@pytest.mark.parametrize("name", ["x\0y", "\ud800"])
def test_a_document_names_no_such_file(rebasin: Rebasin, pair: Path, name: str) -> None:
    document = rebasin("align", *AB).document
    document["inputs"]["b"]["path"] = name
    text = json.dumps(document)
    done = rebasin("interpolate", "--steps", 3, stdin=text.encode())
    assert (done.code, "inputs.b.path" in done.err) == (3, True)
    (pair / "bad.json").write_text(text)
    assert rebasin("report", "bad.json").code == 3


def test_a_number_of_a_document_that_overflows(rebasin: Rebasin, pair: Path) -> None:
    text = rebasin("align", *AB).out.replace('"before": ', '"before": 1' + "0" * 400 + ", \n", 1)
    assert rebasin("report", stdin=text.encode()).code == 3
    document = json.loads(rebasin("align", *AB, "-f").out)
    document["distance"]["before"] = 10**400
    assert rebasin("report", stdin=json.dumps(document).encode()).code == 3


@pytest.mark.parametrize("ending", ["sys.exit()", "sys.exit(0)", "sys.exit('x')", "raise SystemExit(1)"])
def test_code_of_the_users_cannot_end_the_program(rebasin: Rebasin, pair: Path, ending: str) -> None:
    (pair / "leaving.py").write_text(f"import sys\ndef make(state):\n    {ending}\n")
    done = rebasin("align", *AB, "--network", "leaving:make", *DATA)
    assert done.code == 3
    assert "ended the program" in done.err
    assert not (pair / "b.aligned.safetensors").exists()


def test_a_folder_that_was_deleted(rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = save_pair(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = rebasin("align", a, b)
    assert done.code == 4
    assert "current folder" in done.err
    assert rebasin("--version").code == 0
    monkeypatch.chdir(tmp_path)


COMMANDS = [
    ("sh -c 'test -s {checkpoint} && echo 1'", 2),
    ("sh -c 'test -s \"$REBASIN_CHECKPOINT\" && echo 1'", 0),
    ("sh -c 'test -s \"$0\" && echo 1' {checkpoint}", 0),
    ("no-such-program {checkpoint}", 2),
    ("echo 1", 2),
]


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_a_path_means_nothing_to_the_commands_shell(
    rebasin: Rebasin, pair: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    odd = pair / "x; touch hit; $(touch hit) '"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    done = rebasin("interpolate", *AB, "--steps", 3, "--eval-command", command)
    assert done.code == code, done.err
    assert code or done.document["barrier"]["naive"]["loss"] == [1, 1, 1]
    assert not (pair / "hit").exists()
    assert not any(odd.iterdir())


@pytest.mark.parametrize("options", [("--fit-data", "absent.npz"), ("--fit-limit", "5")])
@pytest.mark.parametrize("command", [("interpolate", *AB), ("merge", *AB, "-o", "m.safetensors")], ids=lambda c: c[0])
def test_examples_to_fit_on_need_something_that_fits(
    rebasin: Rebasin, pair: Path, command: tuple[str, ...], options: tuple[str, ...]
) -> None:
    done = rebasin(*command, *DATA, *options)
    assert done.code == 2
    assert "nothing is fitted" in done.err
