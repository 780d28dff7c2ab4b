"""Tempting symmetries that recurrent networks do not have: a spec that claims one is refuted, and named."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.subjects.recurrent import tagger
from rebasin_cli.spec import bind, find_spec
from tests.architectures.refuting import Claim, check_refuted

GRU = partial(tagger, "GRU", "gru", "fc", layers=2)
LSTM = partial(tagger, "LSTM", "lstm", "fc", layers=2)
BOTH = partial(tagger, "LSTM", "lstm", "fc", layers=2, both=True)

CLAIMS = {
    "GRU: reset and update gates move apart from the units": Claim("gru", GRU, {
        "(3 h.{k}.0)": "(2 gate.{k}) + h.{k}.0", "(3 h.0.0)": "(2 gate.0) + h.0.0",
    }, "gate"),
    "GRU: gates of a unit stand together": Claim("gru", GRU, {
        "(3 h.{k}.0)": "(h.{k}.0 3)", "(3 h.0.0)": "(h.0.0 3)",
    }, "h"),
    "LSTM: gates of a unit stand together": Claim("lstm", LSTM, {
        "(4 h.{k}.0)": "(h.{k}.0 4)", "(4 h.0.0)": "(h.0.0 4)",
    }, "h"),
    "LSTM: the state is seen in the old order": Claim("lstm", LSTM, {
        "weight_hh_l{k}: (4 h.{k}.0) h.{k}.0": "weight_hh_l{k}: (4 h.{k}.0) _",
    }, "h"),
    "LSTM: the output gate moves apart": Claim("lstm", LSTM, {
        "(4 h.{k}.0)": "(3 h.{k}.0) + o.{k}", "(4 h.0.0)": "(3 h.0.0) + o.0",
    }, "o"),
    "bidirectional: backwards before forwards": Claim("lstm", BOTH, {"h.{k-1}.{*}": "h.{k-1}.1 + h.{k-1}.0"}, "h"),
    "bidirectional: both directions share their units": Claim("lstm", BOTH, {
        "dims:\n": "dims:\n  h.{k}.1: same as h.{k}.0\n",
        "weight_ih_l{k}_reverse?: (4 h.{k}.1)": "weight_ih_l{k}_reverse?: _",
    }, "h"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)


def test_a_network_whose_outputs_are_its_units_is_refused() -> None:
    shapes = {k: tuple(v.shape) for k, v in LSTM().state.items() if not k.startswith("fc.")}
    with pytest.raises(ContentError, match="no tensor fits"):
        bind(find_spec("lstm"), shapes)


def test_a_second_linear_layer_is_not_taken_for_the_outputs() -> None:
    shapes = {k: tuple(v.shape) for k, v in LSTM().state.items()} | {"out.weight": (3, 10), "out.bias": (3,)}
    with pytest.raises(ContentError, match="out is"):
        bind(find_spec("lstm"), shapes)


@pytest.mark.parametrize(("name", "kind"), [("gru", "LSTM"), ("lstm", "GRU"), ("rnn", "GRU")])
def test_gates_are_counted(name: str, kind: str) -> None:
    shapes = {k: tuple(v.shape) for k, v in tagger(kind, "rnn", "fc").state.items()}
    with pytest.raises(ContentError):
        bind(find_spec(name), shapes)
