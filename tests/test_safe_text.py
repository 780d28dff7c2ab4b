"""Text from elsewhere as it is shown: harmless, short, and unchanged where nothing is wrong with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_cli.safe_text import (
    LONGEST,
    LONGEST_NAME,
    block,
    escaped_json,
    first_names,
    one_line,
    printable,
    shell_word,
    shortened,
)
from tests.hostile import BENIGN, HOSTILE, SURROGATES, assert_harmless

_ANY = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("text", [*HOSTILE.values(), *SURROGATES.values()], ids=[*HOSTILE, *SURROGATES])
def test_hostile_text_is_harmless(text: str) -> None:
    assert_harmless(f"name: {one_line(text)}", LONGEST + 7)
    assert_harmless(f"error: {block(text)}", 2 * LONGEST)
    assert "\n" not in one_line(text)
    assert_harmless(shell_word(text))


@pytest.mark.parametrize("text", BENIGN)
def test_benign_text_stays(text: str) -> None:
    assert printable(text) == one_line(text) == block(text) == text
    assert shell_word(text) == shlex.quote(text)
    assert escaped_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


def test_every_character_by_itself() -> None:
    """Of all of Unicode, what Python calls printable stays as it is, but for letters and marks that show nothing."""
    every = [chr(number) for number in range(0x110000)]
    changed = [character for character in every if character.isprintable() and printable(character) != character]
    assert all(category(character) in ("Lo", "Mn") for character in changed)
    assert len([character for character in changed if ord(character) < 0xE0000]) < 12
    assert all(printable(character) != character for character in every if ord(character) < 32 and character != "\n")


@given(_ANY)
def test_nothing_acts_whatever_the_text(text: str) -> None:
    for shown in (printable(text), one_line(text), shell_word(text)):
        assert_harmless(f"name: {shown}")
        assert printable(shown) == shown
    first, *others = block(text).split("\n")
    assert printable(first) == first
    assert all(not line.strip() or line.startswith(("    ", "  - ")) for line in others)


@given(st.recursive(st.none() | st.floats(allow_nan=False) | _ANY, lambda x: st.lists(x) | st.dictionaries(_ANY, x)))
def test_json_keeps_its_value(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    escaped = escaped_json(text)
    assert_harmless(escaped)
    assert json.loads(escaped) == json.loads(json.dumps(value))


def test_a_name_is_cut_in_its_middle() -> None:
    shown = printable(f"first{'x' * 1000}last: axis 0 has 3 units")
    assert shown.startswith("first")
    assert shown.endswith("last: axis 0 has 3 units")
    assert "x…x" in shown
    assert len(shown) < LONGEST_NAME + 40
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcdef…ijk"


def test_a_long_path_is_not_cut() -> None:
    path = "/".join(["x" * 255] * 10)
    assert printable(path) == path


def test_lines_of_a_message_are_indented() -> None:
    assert block("no spec fits\n  - mlp: 2 differences\n      a.weight\nerror: x\n\n\ttabbed\n  try:   y") == (
        "no spec fits\n  - mlp: 2 differences\n      a.weight\n    error: x\n\n    tabbed\n    try:   y"
    )
    many = block("\n".join(map(str, range(5000))))
    assert many.startswith("0\n    1\n")
    assert many.endswith("\n    4999")
    assert many.count("\n") < 100


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_shell_reads_the_same_word() -> None:
    words = [text for text in [*HOSTILE.values(), *BENIGN, SURROGATES["byte of a path"]] if "\0" not in text]
    command = "printf '%s\\0' " + " ".join(map(shell_word, words))
    done = subprocess.run(["bash", "-s"], input=os.fsencode(command), stdout=subprocess.PIPE, check=True)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == words


def test_the_first_names_of_many_are_told() -> None:
    assert first_names([], 2) == ""
    assert first_names(["a", "b"], 2) == "a, b"
    assert first_names(["a", "b", "c"], 2) == "a, b, …"
    assert first_names({"a": 1, "b": 2, "c": 3, "d": 4}, 2, " and {} more") == "a, b and 2 more"
