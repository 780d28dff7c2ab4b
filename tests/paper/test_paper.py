"""`make paper`: every claim has its row, data is read in its usual formats, and the exact claims hold."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.paper.__main__ import all_claims
from tests.paper.claims.c10_counterexample import CLAIM as COUNTEREXAMPLE
from tests.paper.datasets import available, has_text, images, mnist1d, text
from tests.paper.defaults import WAYS, Found
from tests.paper.defaults import markdown as table_of
from tests.paper.lab import Costs, Lab, mlp, train
from tests.paper.networks import MAKERS, OWN
from tests.paper.outcome import LIMITED, SHOWN, Outcome
from tests.paper.report import Row, html, markdown


def test_every_claim_of_the_paper_has_a_row() -> None:
    numbers = [claim.number for claim in all_claims()]
    assert numbers[:18] == list(range(1, 19))
    assert len(set(numbers)) == len(numbers)


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


def test_a_run_on_another_file_of_a_claim_is_made(tmp_path: Path) -> None:
    recipe = mlp(64, 4, 10, data="digits", side=8, epochs=0)
    distances = set()
    for seed in (0, 1):
        lab = Lab(tmp_path, quick=True, seed=seed)
        a, *others = lab.trained((recipe, 0), (recipe, 2), (recipe, 4))
        own = lab.scratch("copy.safetensors")
        for other in others:
            own.write_bytes(other.read_bytes())
            out = lab.scratch("aligned.safetensors")
            distances.add(lab.rebasin("align", a, own, "-o", out, "--force")["distance"]["before"])
    assert len(distances) == 4


def test_defaults_leave_out_a_way_that_an_architecture_has_not() -> None:
    recipe = mlp(4, 4)
    like = {way: Found(10.0, 0.3, 1.0) for way in WAYS}
    without = {way: found for way, found in like.items() if way != "frank-wolfe"}
    text = table_of({("one", (0, 1), recipe): like, ("two", (0, 1), recipe): without}, "Made up.")
    assert "| frank-wolfe | 1 | 100.00 % |" in text
    assert "| two | 1 | 30.0 % | 30.0 % | 30.0 % | 30.0 % | 30.0 % | – | 30.0 % |" in text


def test_the_seed_alone_tells_two_networks_apart() -> None:
    recipe = mlp(64, 4, 10, data="digits", side=8, epochs=1)
    one, same, other = (train(recipe, seed).state_dict()["fc.0.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", OWN)
def test_networks_are_built_again_from_their_states(name: str) -> None:
    from tests.paper import networks

    options = {
        "vgg": {"base": 2}, "vgg11": {"base": 2}, "resnet-gn": {"width": 4}, "vit": {"width": 8, "depth": 1},
        "gpt": {"width": 8, "depth": 1},
    }[name]  # fmt: skip
    network = MAKERS[name](**options).eval()
    again = getattr(networks, OWN[name])(network.state_dict()).eval()
    again.load_state_dict(network.state_dict())
    inputs = torch.arange(20).view(2, 10) if name == "gpt" else torch.rand(2, 14, 14)
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
    batch = pickle.dumps({b"data": pixels.reshape(2, -1), label: [0, 9]}, protocol=2)
    train_files = [f"data_batch_{k}" for k in range(1, 6)] if classes == 10 else ["train"]
    for name in [*train_files, "test_batch" if classes == 10 else "test"]:
        (tmp_path / name).write_bytes(batch)
    found = images(16, tmp_path)
    assert len(found.inputs) == 2 * len(train_files)
    assert found.test_inputs.shape == (2, 16, 16)
    assert found.test_inputs.flatten(1).mean(1).tolist() == [0, 1]
    assert found.test_targets.tolist() == [0, 9]


def test_of_a_hundred_classes_the_first_ten_are_taken(tmp_path: Path) -> None:
    batch = pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [3, 10, 99]}, protocol=2)
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(batch)
    assert images(8, tmp_path).targets.tolist() == [3]
    assert "its first 10 classes" in available(tmp_path)


def test_imagenet_is_read_from_its_folders(tmp_path: Path) -> None:
    for half, count in (("train", 2), ("val", 1)):
        for kind in range(12):
            folder = tmp_path / half / f"n{kind:08}"
            folder.mkdir(parents=True)
            for number in range(count):
                size = (40, 30) if kind % 2 else (30, 50)
                Image.new("RGB", size, (255, 255, 255) if kind == 3 else (0, 0, 0)).save(folder / f"{number}.JPEG")
    found = images(8, tmp_path)
    assert found.inputs.shape == (20, 8, 8)
    assert sorted(found.test_targets.tolist()) == list(range(10))
    assert found.test_inputs.flatten(1).mean(1)[found.test_targets == 3].tolist() == pytest.approx([1.0])
    assert found.test_inputs.sum() == pytest.approx(64)
    assert available(tmp_path).startswith("ImageNet in ")


def test_a_text_is_cut_into_pieces(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("to be or not to be, that is the question. " * 100)
    found = text(path)
    assert found.inputs.shape[1] == found.targets.shape[1] == 64
    assert torch.equal(found.inputs[:, 1:], found.targets[:, :-1])
    assert len(found.inputs) > 8 * len(found.test_inputs)
    assert 0 < int(found.inputs.max()) < 64


def test_a_text_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("to be or not to be, that is the question. " * 100)
    monkeypatch.setenv("PAPER_TEXT", str(path))
    text.cache_clear()
    assert has_text()
    assert torch.equal(text().inputs, text(path).inputs)
    text.cache_clear()


def test_mnist1d_is_made_without_a_download() -> None:
    found = mnist1d()
    assert (tuple(found.inputs.shape), tuple(found.test_inputs.shape)) == ((4000, 40), (1000, 40))
    assert found.targets.bincount().min() > 300


def test_the_report_has_a_row_and_a_rule_for_each_claim() -> None:
    rows = [Row(claim, Outcome("1 | 2", LIMITED, (("a <picture>", "<svg/>"),)), 3.0) for claim in all_claims()]
    text, page = markdown(rows, "On a machine."), html(rows, "On a machine.")
    assert text.count("**shown with limits**") == page.count('class="verdict limits"') == len(rows)
    assert "1 \\| 2" in text
    assert "a &lt;picture&gt;" in page


def test_the_report_says_which_seeds_have_another_verdict() -> None:
    claims = all_claims()
    rows = [
        Row(claims[0], Outcome("1", SHOWN), 3.0, {10: SHOWN, 20: SHOWN}),
        Row(claims[1], Outcome("1", SHOWN), 3.0, {10: SHOWN, 20: LIMITED}),
    ]
    assert [row.seeds() for row in rows] == ["10, 20: the same", "10: the same; 20: shown with limits"]
    for form in (markdown, html):
        assert "With seeds 10, 20, too, 1 of 2 have the same verdict each time." in form(rows, "On a machine.")


def test_what_was_made_before_counts_in_full(tmp_path: Path) -> None:
    lab = Lab(tmp_path, quick=True)
    recipe = mlp(64, 4, 10, data="digits", side=8, epochs=1)
    (path,) = lab.trained((recipe, 0))
    spent = float(path.with_suffix(".seconds").read_text())
    assert lab.costs.total() >= spent > 0
    lab.costs = Costs()
    lab.trained((recipe, 0))
    lab.trained((recipe, 0))
    assert lab.costs.total() == pytest.approx(spent, abs=0.5)
    assert lab.costs.used[path] == spent


def test_defaults_say_where_objective_and_barrier_part() -> None:
    recipe = mlp(4, 4)
    like = {way: Found(10.0, 0.3, 1.0) for way in WAYS}
    table = {
        ("one", (0, 1), recipe): like | {"high": Found(11.0, 0.5, 2.0)},
        ("two", (0, 1), recipe): like | {"high": Found(11.0, 0.1, 2.0)},
    }
    text = table_of(table, "Made up.")
    others = len(WAYS) - 2  # activations are left out
    assert f"of {2 * others} comparisons" in text
    assert f", {others} have the higher barrier there" in text
    assert "`high` has the higher objective and a barrier that is 20.0 %" in text
    assert "| default | 2 | 90.91 % | 30.0 % | 30.0 % | 1 |" in text
