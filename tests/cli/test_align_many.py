"""`rebasin align A B1 B2 … -o FOLDER`: many checkpoints onto one."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save, shuffled

NAMES = ("m1.safetensors", "m2.safetensors", "m3.safetensors")


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.safetensors and three networks of the same form: one is A shuffled."""
    save(tmp_path / "a.safetensors", mlp_state(0))
    save(tmp_path / NAMES[0], shuffled(mlp_state(0), 5), {"note": "its own"})
    save(tmp_path / NAMES[1], mlp_state(1))
    save(tmp_path / NAMES[2], mlp_state(2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_are_those_of_each_aligned_alone(rebasin: Rebasin, seeds: Path, threads: int) -> None:
    done = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--threads", threads)
    assert done.code == 0, done.err
    for name in NAMES:
        alone = rebasin("align", "a.safetensors", name, "-o", "alone.safetensors", "-f")
        assert alone.code == 0, alone.err
        assert (seeds / "out" / name).read_bytes() == Path("alone.safetensors").read_bytes()
        permutation = seeds / "out" / name.replace(".safetensors", ".permutation.safetensors")
        assert permutation.read_bytes() == Path("alone.permutation.safetensors").read_bytes()
        told = next(m for m in done.document["members"]["members"] if m["input"]["path"].endswith(name))
        assert told["distance"] == alone.document["distance"]
        assert told["hashes"] == alone.document["hashes"]
    assert len(held(seeds / "out")) == 2 * len(NAMES)
    assert done.document["architecture"]["checked"] == alone.document["architecture"]["checked"]
    first, kept = load_file("a.safetensors"), load_file(seeds / "out" / NAMES[0])
    assert all(torch.equal(first[key], kept[key]) for key in first)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _narrow(path: Path) -> None:
    save(path, mlp_state(1, (32, 6, 8, 16)))


def _infinite(path: Path) -> None:
    save(path, {**mlp_state(1), "fc.0.bias": torch.full((8,), float("inf"))})


@pytest.mark.parametrize("together", [(), ("--together",)], ids=["alone", "together"])
@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (_torn, 3, "m2.safetensors"),
        (_narrow, 3, "8 units in a and 6"),
        (_infinite, 3, "infinite"),
        (Path.unlink, 4, "no such file"),
    ],
)
def test_a_bad_member_is_named_and_others_are_done(
    rebasin: Rebasin, seeds: Path, spoil: object, code: int, said: str, together: tuple[str, ...]
) -> None:
    spoil(seeds / NAMES[1])  # type: ignore[operator]
    done = rebasin("align", "a.safetensors", *NAMES, "-o", "out", *together)
    assert done.code == code, done.err
    assert "1 of 3 checkpoints could not be aligned: m2.safetensors: " in done.err
    assert said in " ".join(done.err.split()).lower()
    assert {path.name for path in (seeds / "out").iterdir()} == {
        "m1.safetensors", "m1.permutation.safetensors", "m3.safetensors", "m3.permutation.safetensors",
    }  # fmt: skip
    told = done.document["members"]["members"]
    assert [bool(m.get("failure")) for m in told] == [False, True, False]
    assert told[1]["code"] == code


def test_resuming_keeps_what_is_finished(rebasin: Rebasin, seeds: Path) -> None:
    (seeds / NAMES[2]).rename("later.safetensors")
    first = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--resume", "run.json")
    assert first.code == 4
    before = {path.name: path.stat().st_mtime_ns for path in (seeds / "out").iterdir()}
    (seeds / "later.safetensors").rename(NAMES[2])
    save(seeds / NAMES[1], mlp_state(7))  # has changed meanwhile
    again = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--resume", "run.json")
    assert again.code == 0, again.err
    after = {path.name: path.stat().st_mtime_ns for path in (seeds / "out").iterdir()}
    same = {name for name in before if before[name] == after[name]}
    assert same == {"m1.safetensors", "m1.permutation.safetensors"}
    fresh = rebasin("align", "a.safetensors", *NAMES, "-o", "fresh")
    assert held(seeds / "out") == held(seeds / "fresh")
    hashes = [[m["hashes"] for m in done.document["members"]["members"]] for done in (again, fresh)]
    assert hashes[0] == hashes[1]


def test_an_output_changed_by_hand_is_not_replaced(rebasin: Rebasin, seeds: Path) -> None:
    assert rebasin("align", "a.safetensors", *NAMES, "-o", "out").code == 0
    save(seeds / "out" / NAMES[0], mlp_state(9))
    kept = (seeds / "out" / NAMES[0]).read_bytes()
    again = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--resume", "out.rebasin.json")
    assert again.code != 0
    assert "m1.safetensors exists already" in again.err
    assert (seeds / "out" / NAMES[0]).read_bytes() == kept


@pytest.mark.parametrize("together", [(), ("--together",)], ids=["alone", "together"])
def test_the_advice_to_go_on_works(rebasin: Rebasin, seeds: Path, together: tuple[str, ...]) -> None:
    call = ("align", "a.safetensors", *NAMES, "-o", "out", *together)
    assert rebasin(*call).code == 0
    written = held(seeds / "out")
    refused = rebasin(*call)
    assert refused.code == 2
    advice = re.search(r"(--resume \S+);", refused.err)
    assert advice is not None
    assert rebasin(*call, *shlex.split(advice[1])).code == 0
    assert held(seeds / "out") == written


def test_together_is_the_order_of_a_merge(rebasin: Rebasin, seeds: Path) -> None:
    done = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--together")
    assert done.code == 0, done.err
    assert rebasin("merge", "a.safetensors", *NAMES, "-o", "mean.safetensors").code == 0
    for number, name in enumerate(NAMES, 2):
        own = load_file(seeds / "out" / name.replace(".safetensors", ".permutation.safetensors"))
        merged = load_file(f"mean.{number}.permutation.safetensors")
        assert all(torch.equal(own[key], merged[key]) for key in merged), name
    mean = load_file("mean.safetensors")
    models = [load_file("a.safetensors"), *(load_file(seeds / "out" / name) for name in NAMES)]
    for key, tensor in mean.items():
        torch.testing.assert_close(tensor, torch.stack([model[key] for model in models]).mean(0))
    assert done.document["members"]["together"] is True


def test_summary_is_the_mean_and_variance(rebasin: Rebasin, seeds: Path) -> None:
    done = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--summary", "sum.safetensors")
    assert done.code == 0, done.err
    found = load_file("sum.safetensors")
    models = [load_file(seeds / "out" / name) for name in NAMES]
    assert len(found) == 2 * len(models[0])
    for key in models[0]:
        stack = torch.stack([model[key].double() for model in models])
        torch.testing.assert_close(found[f"mean.{key}"], stack.mean(0))
        torch.testing.assert_close(found[f"variance.{key}"], stack.var(0, unbiased=False))
    assert done.document["outputs"]["summary"].endswith("sum.safetensors")


def test_equal_names_keep_their_folders(rebasin: Rebasin, seeds: Path) -> None:
    for number, name in enumerate(NAMES[:2]):
        (seeds / f"run{number}").mkdir()
        (seeds / name).rename(seeds / f"run{number}" / "model.safetensors")
    done = rebasin("align", "a.safetensors", "run0/model.safetensors", "run1/model.safetensors", "-o", "out")
    assert done.code == 0, done.err
    assert {name for name in held(seeds / "out") if "permutation" not in name} == {
        "run0/model.safetensors", "run1/model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("piped", [True, False])
def test_a_list_names_more_checkpoints(rebasin: Rebasin, seeds: Path, piped: bool) -> None:
    listing = "\n".join(NAMES) + "\n\n"
    Path("list.txt").write_text(listing)
    named = ("--from", "-") if piped else ("--from", "list.txt")
    done = rebasin("align", "a.safetensors", *named, "-o", "out", stdin=listing.encode() if piped else b"")
    assert done.code == 0, done.err
    assert len(done.document["members"]["members"]) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (NAMES, "name it with -o FOLDER"),
        ((), "there is no B"),
        ((*NAMES, "-o", "a.safetensors"), "is a file"),
        ((*NAMES, "-o", "out", "--save-permutation", "p.safetensors"), "--save-permutation names one file"),
        ((*NAMES, "-o", "out", "--on-interrupt", "save"), "--on-interrupt save"),
        ((*NAMES, "-o", "."), "is both an input and the"),
        ((NAMES[0], NAMES[0], "-o", "out"), "name each checkpoint once"),
        ((NAMES[0], "--together"), "name it with -o FOLDER"),
        (("--from", "-", "-o", "out"), "no path in it"),
        ((*NAMES, "-o", "out", "--together", "--method", "ste", "--data", "d.npz"), "--together"),
        ((*NAMES, "-o", "out", "--resume", "r.json", "--report", "s.json"), "leave --report away"),
        (("m1.safetensors", "m2.safetensors", "-o", "out.safetensors"), "name a folder: -o out"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(rebasin: Rebasin, seeds: Path, more: tuple[str, ...], said: str) -> None:
    before = held(seeds)
    done = rebasin("align", "a.safetensors", *more)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())
    assert held(seeds) == before


def test_a_dry_run_of_many_writes_nothing(rebasin: Rebasin, seeds: Path) -> None:
    _narrow(seeds / NAMES[1])
    before = held(seeds)
    done = rebasin("align", "a.safetensors", *NAMES, "-o", "out", "--dry-run")
    assert done.code == 3
    assert held(seeds) == before
    assert (
        done.document["plan"]["writes"]
        == 2 * rebasin("align", "a.safetensors", NAMES[0], "--dry-run").document["plan"]["writes"]
    )


def test_text_folds_many_checkpoints(rebasin: Rebasin, seeds: Path) -> None:
    for number in range(20):
        save(seeds / f"s{number:02}.safetensors", mlp_state(number))
    many = sorted(path.name for path in seeds.glob("s*.safetensors"))
    done = rebasin("align", "a.safetensors", *many, "-o", "out", "--format", "text")
    assert done.code == 0, done.err
    assert "20 checkpoints aligned onto A: median cosine" in done.out
    assert "12 more (--verbose lists all)" in done.out
    assert "median" in done.out
    shown = rebasin("report", "out.rebasin.json", "--markdown", "-")
    assert "s19.safetensors" in shown.out


def test_a_document_of_many_is_rerun(rebasin: Rebasin, seeds: Path) -> None:
    assert rebasin("align", "a.safetensors", *NAMES, "-o", "out").code == 0
    again = rebasin("rerun", "out.rebasin.json", "--into", "again")
    assert again.code == 0, again.err
    assert held(seeds / "out") == held(seeds / "again" / "out")


def test_paths_in_the_document_move_with_it(rebasin: Rebasin, seeds: Path) -> None:
    assert rebasin("align", "a.safetensors", *NAMES, "-o", "out").code == 0
    kept = json.loads(Path("out.rebasin.json").read_text())
    assert kept["members"]["members"][0]["input"]["path"] == "m1.safetensors"
    assert kept["members"]["members"][0]["outputs"]["aligned"] == "out/m1.safetensors"
