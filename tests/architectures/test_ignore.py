"""What `--ignore` names moves with its dims all the same: every shipped spec, on the real networks.

`python -m tests.architectures.test_ignore` tries every key that has a moving side; the tests try a few of each spec,
together.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence

import pytest
import torch

from rebasin_cli.permutation.gather import permute_tensor, permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import SUBJECTS
from rebasin_cli.spec import Layout, Request, bind, find_spec

EACH = 3


def ignoring(name: str, subject: Subject, *keys: str) -> Layout:
    """The layout with some keys left out of the match."""
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    patterns = [glob.escape(key) for key in keys]
    return bind(find_spec(name), shapes, Request(subject.config, subject.overrides, ignore=patterns))


def moving_keys(layout: Layout) -> list[str]:
    """The tensors with a side that moves."""
    return [key for key, bound in layout.tensors.items() if set(bound.dims()) & set(layout.moving())]


def broken(name: str, subject: Subject, plain: Layout, groups: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The groups of keys of which the network becomes another function, or less moves, when they are ignored."""
    reference, found = subject.run(subject.state, None), []
    for keys in groups:
        layout = ignoring(name, subject, *keys)
        outputs = subject.run(dict(permuted(Permutation.random(layout, 1), layout, subject.state)), None)
        same = all(
            float((outputs[output] - expected).abs().max())
            <= subject.tolerance * (float(expected.abs().max()) or 1.0)
            for output, expected in reference.items()
        )  # fmt: skip
        ignored = all(layout.tensors[key].section == "ignored" for key in keys)
        if not same or layout.moving() != plain.moving() or not ignored:
            found.append(keys)
    return found


@pytest.mark.parametrize("name", list(SUBJECTS))
def test_ignored_tensors_move(name: str) -> None:
    subject = SUBJECTS[name][0]()
    plain = ignoring(name, subject)
    keys = moving_keys(plain)
    chosen = keys[:: max(1, len(keys) // EACH)][:EACH]
    assert broken(name, subject, plain, [chosen]) == []
    permutation = Permutation.random(ignoring(name, subject, chosen[0]), 1)
    moved = permute_tensor(permutation, plain, chosen[0], subject.state.__getitem__)
    assert not torch.equal(moved, subject.state[chosen[0]])


def main() -> None:
    """Try every key of every spec, one at a time."""
    tried = 0
    for name, makes in SUBJECTS.items():
        subject = makes[0]()
        plain = ignoring(name, subject)
        keys = moving_keys(plain)
        tried += len(keys)
        print(f"{name}: {len(keys)} keys, broken: {broken(name, subject, plain, [[key] for key in keys])}", flush=True)
    print(f"{tried} keys of {len(SUBJECTS)} specs")


if __name__ == "__main__":
    main()
