"""Paths of a document: from a folder, back again, and names alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from rebasin_cli.report.codec import by_names, from_json, placed_in, seen_from, to_json
from rebasin_cli.report.document import InputRecord, InvocationRecord, RunDocument
from tests.report.examples import EXAMPLES, INTERPOLATE

CALL = InvocationRecord(
    command_line=("rebasin", "interpolate", "b/x.pth:ema", "--data=/home/me/d.npz", "--normalise", "0.5/0.5", "~/y"),
    options={"A": "b/x.pth:ema", "--metric": ("/home/me/m.py", "f1"), "--steps": 3},
    folder="/home/me",
)
CALLED = replace(
    INTERPOLATE,
    invocations=(CALL,),
    inputs={
        "a": InputRecord("/home/me/b/x.pth:ema"),
        "b": InputRecord("-"),
        "c": InputRecord("/home/me/y.pt:k/../n", key="k/../n"),
    },
)


@pytest.mark.parametrize("document", [*EXAMPLES.values(), CALLED], ids=[*EXAMPLES, "called"])
def test_paths_from_a_folder_and_back(document: RunDocument) -> None:
    folder = Path("/home/me/out")
    file = from_json(to_json(seen_from(document, folder)), "x")
    there = placed_in(file, folder)
    assert (there.inputs, there.outputs, there.plan) == (document.inputs, document.outputs, document.plan)
    assert [call.folder for call in there.invocations] == [call.folder for call in document.invocations]
    assert "/home" not in to_json(file)


def test_absolute_words_are_seen_from_where_the_command_ran() -> None:
    (call,) = seen_from(CALLED, Path("/home/me/out")).invocations
    assert call.folder == ".."
    assert call.command_line == (
        "rebasin",
        "interpolate",
        "b/x.pth:ema",
        "--data=d.npz",
        "--normalise",
        "0.5/0.5",
        "~/y",
    )
    assert call.options["--metric"] == ("m.py", "f1")


def test_a_command_stays_one_and_is_shown_by_names() -> None:
    words = ("rebasin", "interpolate", "--eval-command", "/usr/bin/python /home/me/e.py {checkpoint}")
    called = replace(CALLED, invocations=(replace(CALL, command_line=words),))
    assert seen_from(called, Path("/home/me/out")).invocations[0].command_line == words
    assert by_names(called).invocations[0].command_line[-1] == "python e.py {checkpoint}"


def test_names_alone() -> None:
    named = by_names(CALLED)
    words = ("rebasin", "interpolate", "x.pth:ema", "--data=d.npz", "--normalise", "0.5/0.5", "y")
    assert named.invocations[0].command_line == words
    assert named.invocations[0].options == {"A": "x.pth:ema", "--metric": ("m.py", "f1"), "--steps": 3}
    assert {role: entry.path for role, entry in named.inputs.items()} == {
        "a": "x.pth:ema",
        "b": "-",
        "c": "y.pt:k/../n",
    }
    assert named.barrier is not None
    assert named.barrier.data == "digits.npz"
    assert "/" not in to_json(named).replace("0.5/0.5", "").replace("k/../n", "")
