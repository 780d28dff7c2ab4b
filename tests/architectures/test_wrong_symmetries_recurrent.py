"""Tempting symmetries that recurrent networks do not have: a spec that claims one is refuted, and named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects.recurrent import tagger
from rebasin_cli.spec import PermutationSpec, bind, find_spec, load_spec, shipped_specs

GRU = partial(tagger, "GRU", "gru", "fc", layers=2)
LSTM = partial(tagger, "LSTM", "lstm", "fc", layers=2)
BOTH = partial(tagger, "LSTM", "lstm", "fc", layers=2, both=True)

CLAIMS = {
    "GRU: reset and update gates move apart from the units": (GRU, {
        "(3 h.{k}.0)": "(2 gate.{k}) + h.{k}.0", "(3 h.0.0)": "(2 gate.0) + h.0.0",
    }, "gate"),
    "GRU: gates of a unit stand together": (GRU, {"(3 h.{k}.0)": "(h.{k}.0 3)", "(3 h.0.0)": "(h.0.0 3)"}, "h"),
    "LSTM: gates of a unit stand together": (LSTM, {"(4 h.{k}.0)": "(h.{k}.0 4)", "(4 h.0.0)": "(h.0.0 4)"}, "h"),
    "LSTM: the state is seen in the old order": (LSTM, {
        "weight_hh_l{k}: (4 h.{k}.0) h.{k}.0": "weight_hh_l{k}: (4 h.{k}.0) _",
    }, "h"),
    "LSTM: the output gate moves apart": (LSTM, {
        "(4 h.{k}.0)": "(3 h.{k}.0) + o.{k}", "(4 h.0.0)": "(3 h.0.0) + o.0",
    }, "o"),
    "bidirectional: backwards before forwards": (BOTH, {"h.{k-1}.{*}": "h.{k-1}.1 + h.{k-1}.0"}, "h"),
    "bidirectional: both directions share their units": (BOTH, {
        "dims:\n": "dims:\n  h.{k}.1: same as h.{k}.0\n",
        "weight_ih_l{k}_reverse?: (4 h.{k}.1)": "weight_ih_l{k}_reverse?: _",
    }, "h"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_a_wrong_symmetry_is_refuted_and_named(name: str, tmp_path: Path) -> None:
    make, exchange, dim = CLAIMS[name]
    proof = prove(exchanged("gru" if make is GRU else "lstm", exchange, tmp_path), make())
    assert not proof.holds
    assert proof.error > 100 * proof.tolerance
    assert dim in proof.breaking


def exchanged(name: str, exchange: Mapping[str, str], folder: Path) -> PermutationSpec:
    text = shipped_specs()[name].read_text()
    for old, new in exchange.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_spec(path)


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
