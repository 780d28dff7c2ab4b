"""What a proof says of rotations that are right, wrong, or would part tied tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rebasin_cli.proofs.proof import Proof, Subject, prove
from rebasin_cli.spec.language.loading import parse_spec
from tests.rotated_networks import TEXTS, rotated_forward, rotated_state


def subject(name: str) -> Subject:
    def run(state: Mapping[str, Tensor], _: object) -> Mapping[str, Tensor]:
        return {"": rotated_forward(name, state)}

    return Subject(name, rotated_state(name, 1), run)


def proof(text: str, network: Subject) -> Proof:
    return prove(parse_spec(text), network, elements=3)


def test_right_rotations_are_proved() -> None:
    for name, text in TEXTS.items():
        found = proof(text, subject(name))
        assert found.holds, found.describe()
        assert "with rotations of s, qk, v drawn" in found.describe()


def test_wrong_rotations_are_refuted() -> None:
    wrong = {
        "s": TEXTS["layer"].replace(" keeping ones", ""),  # LayerNorm takes the mean away
        "qk": TEXTS["layer"].replace("k: h /qk s", "k: h qk s"),
    }
    for family, text in wrong.items():
        found = proof(text, subject("layer"))
        assert not found.holds
        assert found.rotations is not None
        assert found.rotations.breaking == (family,)
        assert f"rotations of {family} alone breaks the function" in found.describe()
    forgotten = proof(TEXTS["rms"].replace("norm.bias q k value up", "q k value"), subject("rms"))
    assert forgotten.rotations is not None
    assert "s" in forgotten.rotations.breaking


def test_a_stream_that_would_part_a_tie_is_not_claimed() -> None:
    plain = subject("layer")
    state = {**plain.state, "head": plain.state["stem"].T.contiguous()}
    text = TEXTS["layer"].replace("stem: s _", "stem: _ s")

    def run(state: Mapping[str, Tensor], _: object) -> Mapping[str, Tensor]:
        return {"": rotated_forward("layer", {**state, "stem": state["stem"].T})}

    tied = replace(plain, state={**state, "stem": state["head"]}, run=run, ties=(("stem", "head"),))
    found = proof(text, tied)
    assert found.holds, found.describe()
    assert found.rotations is not None
    assert found.rotations.families == ("qk", "v")
    assert "the rotations of s do not hold here, as they would part tied tensors" in found.describe()
