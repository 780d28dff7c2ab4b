"""Methods that look at data, on the pair that ships, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.small import DATA, run

A, B, DIGITS = (DATA / name for name in ("digits_mlp_a.safetensors", "digits_mlp_b.safetensors", "digits.npz"))


SINKHORN = ("sinkhorn", "--objective", "midpoint")


FEW = ("--epochs", 2)


@pytest.mark.parametrize(
    "how",
    [("activations",), ("activations", "--mix", 0.5), ("ste", *FEW), (*SINKHORN, *FEW)],
    ids=lambda how: "-".join(map(str, how[:3])),
)
def test_align_by_data_and_judge_it(rebasin: Rebasin, tmp_path: Path, how: tuple[object, ...]) -> None:
    method = how[0]
    out = tmp_path / "b.safetensors"
    done = rebasin("align", A, B, "--method", *how, "--data", DIGITS, "--fit-batch-size", 100, "-o", out)
    assert done.code == 0, done.err
    assert done.document["match"]["method"] == method
    assert {k: t.shape for k, t in load_file(out).items()} == {k: t.shape for k, t in load_file(B).items()}
    dims, objective = done.document["architecture"]["dims"].values(), done.document["match"]["objective"]
    assert sum(dim.get("gain", 0.0) for dim in dims) == pytest.approx(objective[-1] - objective[0])
    judged = rebasin("interpolate", "--data", DIGITS, "--steps", 5, stdin=done.out.encode()).document["barrier"]
    assert judged["naive"]["barrier"] > 0.5
    assert judged["aligned"]["barrier"] < 0.15
    assert judged["aligned"]["loss"][-1] == pytest.approx(judged["naive"]["loss"][-1], abs=1e-5)
    if method != "activations":
        assert len(done.document["match"]["losses"]) == 3
        assert "held apart" in done.err
    else:
        assert "losses" not in done.document["match"]


def test_interpolate_matches_by_data_too(tmp_path: Path) -> None:
    done = run(
        "interpolate", A, B, "--data", DIGITS, "--method", "activations", "--similarity", "covariance", "--steps", 3,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b'"activations"' in done.stdout


def test_fit_data_alone_is_enough_to_match_by(rebasin: Rebasin, tmp_path: Path) -> None:
    """The path is judged by nothing, or by a command."""
    call = ("interpolate", A, B, "--method", "activations", "--fit-data", DIGITS, "--steps", 2)
    done = rebasin(*call)
    assert done.code == 0, done.err
    assert "barrier" not in done.document
    judged = rebasin(*call, "--eval-command", "sh -c 'echo 1.5; : {checkpoint}'")
    assert judged.code == 0, judged.err
    assert judged.document["barrier"]["aligned"]["loss"] == [1.5, 1.5]
    assert judged.document["architecture"] == done.document["architecture"]
    without = rebasin(*call[:5], "--eval-command", "true {checkpoint}")
    assert without.code == 2
    assert "add --fit-data" in without.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("align", "--method", "activations"), 2, "add --data"),
        (("align", "--method", "ste"), 2, "add --data"),
        (("align", "--method", *SINKHORN), 2, "--objective midpoint looks at examples"),
        (("align", "--method", "ste", "--network", "json:loads"), 2, "add --data"),
        (("interpolate", "--method", "ste"), 2, "add --data"),
        (("align", "--momentum", 0.3), 2, "--method weights does not read it"),
        (("align", "--method", "activations", "--data", "absent.npz"), 4, "absent.npz"),
        (("align", "--method", "ste", "--data", DIGITS, "--limit", 1), 3, "holds examples apart"),
    ],
)
def test_refusals(rebasin: Rebasin, tmp_path: Path, arguments: tuple[object, ...], code: int, words: str) -> None:
    command, *rest = arguments
    done = rebasin(command, A, B, *rest, *(("-o", tmp_path / "o.safetensors") if command == "align" else ()))
    assert done.code == code, done.err
    assert words in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mix", "0.5"), "--mix 0.5: --method weights does not read it"),
        (("--method", "ste", "--mix", "0.5"), "--mix 0.5: --method ste does not read it"),
        (
            ("--method", "activations", "--mix", "0.5", "--similarity", "covariance"),
            "a covariance has a scale of its own",
        ),
        (("--method", "activations", "--mix", "1.5"), "a number from 0 to 1"),
        (("--method", "activations", "--mix", "0.5"), "looks at examples, and there are none"),
    ],
)
def test_a_mix_is_one_of_weights_and_activations(
    rebasin: Rebasin, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = rebasin("align", A, B, *arguments, "-o", tmp_path / "b.safetensors")
    assert done.code == 2
    assert said in " ".join(done.err.split())
