"""The judge refuses every spec that is wrong, and every one whose group is smaller than the network's."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
import torch

from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.candidate import candidate
from rebasin_cli.derivation.derive import derive
from rebasin_cli.derivation.late import with_inner_permutations
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.soundness import sound_judge
from rebasin_cli.derivation.unsaid import LATE, unsaid
from rebasin_cli.errors import RebasinError
from rebasin_cli.proofs.proof import prove
from tests.derivation.changing import changed_wirings, order, preserves
from tests.derivation.test_derive import NETWORKS

CHANGES = 20
JUDGED = (
    *("glu", "dense", "experts", "other widths", "chain"),
    *("grouped rotary", "stacked experts", "actor and critic", "perceiver", "pixel shuffle"),
)


@pytest.mark.parametrize("name", JUDGED)
def test_changed_specs_are_refused(name: str) -> None:
    torch.manual_seed(0)
    module, inputs = NETWORKS[name]()
    right = derive(module, inputs, name)
    seen: Counter[str] = Counter()
    tried = []
    with borrowed(module):
        judge = sound_judge(Network(module, inputs), 1)
        whole = order(right.proof.layout)
        for kind, wiring in itertools.islice(changed_wirings(right.wiring, 1), 200):
            if wiring in tried:
                continue
            tried.append(wiring)
            try:
                made = candidate(judge, wiring, kind)
                proof = prove(made.spec, judge.subject(name), 3)
            except RebasinError:  # no spec at all
                seen["not a spec"] += 1
                continue
            shared = with_inner_permutations(judge, wiring).owners.keys() - wiring.owners.keys()
            passed = proof.holds and not unsaid(judge, made.layout, 3).free and not shared
            wrong = not preserves(judge, made.layout)
            same = not wrong and order(made.layout) == whole
            assert passed is same, (kind, wrong, order(made.layout), whole, proof.describe(), made.spec.lines)
            seen["the same" if same else "wrong" if wrong else "smaller"] += 1
            if seen["wrong"] + seen["smaller"] == CHANGES:
                break
    assert seen["wrong"] + seen["smaller"] == CHANGES, seen


def test_what_is_not_compared_in_time_is_undecided() -> None:
    torch.manual_seed(0)
    module, inputs = NETWORKS["chain"]()
    right = derive(module, inputs)
    with borrowed(module):
        judge = sound_judge(Network(module, inputs), 1)
        late, whole = (unsaid(judge, right.proof.layout, seconds=seconds) for seconds in (0.0, 600.0))
    assert late.undecided == (LATE,)
    assert not whole.undecided


def test_the_time_of_a_long_search_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = NETWORKS["chain"]()
    said: list[str] = []

    def told(share: float | None, text: str) -> None:
        said.extend([text] if share is None else ())

    derive(module, inputs, told=told)
    assert not said
    monkeypatch.setattr("rebasin_cli.derivation.derive._LONG", 0.0)
    found = derive(module, inputs, told=told)
    (text,) = said
    tensors, runs = map(int, re.findall(r"[0-9]+", text)[:2])
    assert tensors == sum(tensor.is_floating_point() for tensor in module.state_dict().values())
    assert found.passes / 4 < runs < 4 * found.passes
