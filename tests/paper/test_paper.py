"""`make paper`: every claim has its row, data is read in its usual formats, and the exact claims hold."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.paper.__main__ import all_claims
from tests.paper.claims.c10_counterexample import CLAIM as COUNTEREXAMPLE
from tests.paper.datasets import images
from tests.paper.lab import Lab, mlp, train
from tests.paper.networks import MAKERS, OWN
from tests.paper.outcome import LIMITED, SHOWN, Outcome
from tests.paper.report import Row, html, markdown


def test_every_claim_of_the_paper_has_a_row() -> None:
    assert [claim.number for claim in all_claims()] == list(range(1, 19))


def test_the_counterexample_is_one(tmp_path: Path) -> None:
    outcome = COUNTEREXAMPLE.run(Lab(tmp_path, quick=True))
    assert outcome.verdict == SHOWN
    assert outcome.figures.count("0.25") == 4


def test_a_run_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path, quick=True)
    recipe = mlp(64, 4, 10, data="digits", side=8, epochs=1)
    (path,) = lab.trained((recipe, 0))
    found = lab.rebasin("inspect", path)
    path.unlink()
    assert lab.rebasin("inspect", path) == found


def test_the_seed_alone_tells_two_networks_apart() -> None:
    recipe = mlp(64, 4, 10, data="digits", side=8, epochs=1)
    one, same, other = (train(recipe, seed).state_dict()["fc.0.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", OWN)
def test_networks_are_built_again_from_their_states(name: str) -> None:
    from tests.paper import networks

    options = {"vgg": {"base": 2}, "vgg11": {"base": 2}, "resnet-gn": {"width": 4}, "vit": {"width": 8, "depth": 1}}[
        name
    ]
    network = MAKERS[name](**options).eval()
    again = getattr(networks, OWN[name])(network.state_dict()).eval()
    again.load_state_dict(network.state_dict())
    inputs = torch.rand(2, 14, 14)
    assert torch.equal(network(inputs), again(inputs))


def _idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def test_idx_files_are_read_and_averaged_down(tmp_path: Path) -> None:
    for half, count in (("train", 6), ("t10k", 3)):
        pixels = np.full((count, 28, 28), 255)
        pixels[:, :14] = 0
        _idx(tmp_path / f"{half}-images-idx3-ubyte.gz", pixels)
        _idx(tmp_path / f"{half}-labels-idx1-ubyte.gz", np.arange(count))
    found = images(2, tmp_path)
    assert found.inputs.tolist() == [[[0, 0], [1, 1]]] * 6
    assert found.test_targets.tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_from_its_python_files(tmp_path: Path, classes: int) -> None:
    pixels = np.zeros((2, 3, 32, 32), np.uint8)
    pixels[1] = 255
    label = b"labels" if classes == 10 else b"fine_labels"
    batch = pickle.dumps({b"data": pixels.reshape(2, -1), label: [0, classes - 1]}, protocol=2)
    train_files = [f"data_batch_{k}" for k in range(1, 6)] if classes == 10 else ["train"]
    for name in [*train_files, "test_batch" if classes == 10 else "test"]:
        (tmp_path / name).write_bytes(batch)
    found = images(16, tmp_path)
    assert len(found.inputs) == 2 * len(train_files)
    assert found.test_inputs.shape == (2, 16, 16)
    assert found.test_inputs.flatten(1).mean(1).tolist() == [0, 1]
    assert found.test_targets.tolist() == [0, classes - 1]


def test_the_report_has_a_row_and_a_rule_for_each_claim() -> None:
    rows = [Row(claim, Outcome("1 | 2", LIMITED, (("a <picture>", "<svg/>"),)), 3.0) for claim in all_claims()]
    text, page = markdown(rows, "On a machine."), html(rows, "On a machine.")
    assert text.count("**shown with limits**") == page.count('class="verdict limits"') == 18
    assert "1 \\| 2" in text
    assert "a &lt;picture&gt;" in page
