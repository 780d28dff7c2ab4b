"""Networks, data and evaluations of the user's own, by real processes, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Rebasin
from tests.small import READER, mlp_state, run, save, save_pair

OWN = """
import numpy as np
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, widths, act):
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(n, m) for n, m in zip(widths, widths[1:]))
        self.act = getattr(torch, act)
    def forward(self, x):
        for layer in self.fc[:-1]:
            x = self.act(layer(x))
        return {"logits": self.fc[-1](x)}

class Parts(Own):
    # the same, with its activations as modules, and one that is never called
    def __init__(self, widths):
        super().__init__(widths, "relu")
        self.acts = nn.ModuleList(nn.ReLU() for _ in self.fc[1:])
        self.spare = nn.Identity()
    def forward(self, x):
        for layer, act in zip(self.fc, self.acts):
            x = act(layer(x))
        return self.fc[-1](x)

def parts(state):
    weights = [t for k, t in state.items() if k.endswith("weight")]
    return Parts([weights[0].shape[1], *(len(w) for w in weights)])

def make(state, act="relu"):
    weights = [t for k, t in state.items() if k.endswith("weight")]
    return Own([weights[0].shape[1], *(len(w) for w in weights)], act)

def lazy(state):
    made = make(state)
    made.fc[1] = nn.LazyLinear(len(made.fc[1].weight))
    return made

def lazy_with_inputs(state):
    return lazy(state), torch.zeros(2, 32)

def wider(state):
    return Own([32, 8, 9, 16], "relu")

def deeper(state):
    return Own([32, 8, 8, 16, 16], "relu")

def raises(state):
    raise ValueError("no such thing")

def nothing(state):
    return 3

def data(split, limit):
    held = np.load("data.npz")
    for at in range(0, 60, 20):
        yield held["inputs"][at : at + 20], held["targets"][at : at + 20]

def no_data():
    return []

def margin(outputs, targets):
    two = outputs.topk(2).values
    return {"margin": (two[:, 0] - two[:, 1]).mean(), "rows": float(len(outputs))}
"""
EVALUATE = (
    READER
    + """
import sys
_, state = read(sys.argv[1])
assert all(np.isfinite(values).all() for values in state.values())
print("some talk")
print(json.dumps({"loss": abs(state["fc.0.weight"]).mean(), "accuracy": 0.5, "norm": 2.0, "note": "x"}))
"""
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small pair with a module and a script beside it."""
    save_pair(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "eval.py").write_text(EVALUATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON = shlex.quote(sys.executable)
PATH = ("interpolate", "a.safetensors", "b.safetensors", "--steps", 3)


def document(folder: Path, *arguments: object) -> Any:
    done = run(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_network_of_ones_own_gives_what_the_shipped_one_does(own: Path) -> None:
    shipped = document(own, *PATH, "--data", "data.npz")["barrier"]
    mine = document(own, *PATH, "--data", "data.npz", "--network", "mine:make")["barrier"]
    lazy = document(own, *PATH, "--data", "data.npz", "--network", "mine:lazy_with_inputs")["barrier"]
    for name in ("naive", "aligned"):
        assert mine[name]["loss"] == pytest.approx(shipped[name]["loss"], rel=1e-5)
        assert mine[name]["accuracy"] == shipped[name]["accuracy"]
        assert lazy[name]["loss"] == mine[name]["loss"]
    tanh = document(own, *PATH, "--data", "data.npz", "--network", "mine:make", "--network-option", "act=tanh")
    assert tanh["barrier"]["naive"]["loss"][0] != pytest.approx(shipped["naive"]["loss"][0], rel=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        ("align", "a.safetensors", "b.safetensors"),
        ("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors"),
    ],
    ids=lambda words: words[0],
)
def test_it_is_built_once(own: Path, words: tuple[str, ...]) -> None:
    """To prove the spec, to judge, and to compare B before and after; a factory may load gigabytes."""
    (own / "counted.py").write_text(
        "import mine\ndef make(state):\n    open('built', 'a').write('x')\n    return mine.make(state)\n"
    )
    done = run(*words, "--network", "counted:make", "--data", "data.npz", cwd=own)
    assert done.returncode == 0, done.stderr.decode()
    assert (own / "built").read_text() == "x"


def test_data_of_ones_own(own: Path) -> None:
    wanted = document(own, *PATH, "--data", "data.npz")["barrier"]
    found = document(own, *PATH, "--data", "mine:data", "--split", "train")["barrier"]
    assert found["naive"]["loss"] == pytest.approx(wanted["naive"]["loss"], rel=1e-6)
    assert (found["data"], found["split"], found["examples"]) == ("mine:data", "train", 60)


def test_taps_named_by_hand(own: Path) -> None:
    """Behind the activation they are what the next layer reads, so that nothing changes; before it they are not."""
    save(own / "b.safetensors", mlp_state(4))
    call = (*PATH, "--data", "mine:data", "--network", "mine:parts", "--method", "activations")
    derived = document(own, *call, "--save-permutation", "derived.safetensors")
    behind = document(own, *call, "--tap", "h.0=acts.0", "--tap", "h.1=acts.1", "--save-permutation", "p.safetensors")
    assert behind["barrier"] == derived["barrier"]
    one, two = (load_file(own / f"{name}.safetensors") for name in ("derived", "p"))
    assert all(torch.equal(one[dim], two[dim]) for dim in one)
    before = document(own, *call, "--tap", "h.0=fc.0")
    assert before["barrier"]["aligned"] != derived["barrier"]["aligned"]


def test_repair_works_on_a_network_of_ones_own(own: Path) -> None:
    plain = document(own, *PATH, "--no-align", "--data", "data.npz", "--repair", "repair")["barrier"]
    mine = document(own, *PATH, "--no-align", "--data", "mine:data", "--network", "mine:make", "--repair", "repair")
    name = "naive + repair"
    assert mine["barrier"]["repaired"][name]["loss"] == pytest.approx(plain["repaired"][name]["loss"], rel=1e-4)


def test_every_point_shows_built_in_and_own_metrics(own: Path) -> None:
    call = (*PATH, "--data", "data.npz", "--metric", "top5", "--metric", "mine:margin", "--metric", "macro-f1")
    found = run(*call, cwd=own)
    assert found.returncode == 0, found.stderr.decode()
    barrier = json.loads(found.stdout)["barrier"]
    for name in ("naive", "aligned"):
        metrics = barrier[name]["metrics"]
        assert list(metrics) == ["top5", "margin", "rows", "macro-f1"]
        assert all(len(values) == 3 for values in metrics.values())
        assert metrics["rows"] == [60.0] * 3
        assert metrics["top5"][0] == metrics["macro-f1"][0] == 1.0  # the labels are A's own answers
    assert barrier["naive"]["metrics"]["macro-f1"][1] < 1.0
    assert barrier["naive"]["metrics"]["margin"][1] < barrier["aligned"]["metrics"]["margin"][1]
    shown = run("report", "--markdown", "-", "--html", "r.html", cwd=own, stdin=found.stdout).stdout.decode()
    assert "## macro-f1\n\n| λ | naive | aligned |" in shown
    assert "<figcaption>macro-f1</figcaption>" in (own / "r.html").read_text()


def test_a_command_judges_every_point(own: Path) -> None:
    found = document(own, *PATH, "--eval-command", PYTHON + " eval.py {checkpoint}")["barrier"]
    a, b = (load_file(own / f"{name}.safetensors")["fc.0.weight"] for name in "ab")
    for lam, loss in zip(found["lambda"], found["naive"]["loss"], strict=True):
        assert loss == pytest.approx(float(torch.lerp(a, b, lam).abs().mean()), rel=1e-5)
    assert found["aligned"]["loss"][1] == pytest.approx(found["aligned"]["loss"][0], rel=1e-5)
    assert found["naive"]["accuracy"] == [0.5] * 3
    assert found["naive"]["metrics"] == {"norm": [2.0] * 3}
    assert (found.get("examples", 0), found["unit"]) == (0, "the command's own unit")


TAPPED = ("--data", "data.npz", "--network", "mine:parts", "--method", "activations", "--tap")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*TAPPED, "h.7=acts.0"), 2, "there is no dim that moves `h.7`; did you mean `h.1` or `h.0`?"),
        ((*TAPPED, "h.0=act.0"), 2, "there is no module `act.0`; did you mean `acts.0`?"),
        ((*TAPPED, "h.0=fc.2"), 3, "the dim has 8 units, and the module makes [1, 16] of one example"),
        ((*TAPPED, "h.0=spare"), 3, "the dim has 8 units, and the module did not run"),
        ((*TAPPED, "h.0"), 2, "expected NAME=VALUE"),
        (("--data", "data.npz", "--tap", "h.0=fc.0"), 2, "--method weights looks at no activations"),
        (
            ("--data", "data.npz", "--method", "activations", "--tap", "h.0=fc.9"),
            2,
            "did you mean `fc.2`, `fc.1` or `fc.0`?",
        ),
        (("--data", "data.npz", "--network", "mine:raises"), 3, "raised ValueError: no such thing"),
        (("--data", "data.npz", "--network", "mine:nothing"), 3, "returned int"),
        (("--data", "data.npz", "--network", "mine:lazy"), 3, "fc.1.weight has no size before the network has run"),
        (("--data", "data.npz", "--network", "mine:absent"), 2, "has no attribute 'absent'"),
        (("--data", "data.npz", "--network", "absent:make"), 2, "No module named 'absent'"),
        (("--data", "data.npz", "--network", "mine.make"), 2, "expected package.module:factory"),
        (("--data", "data.npz", "--network", "mine:wider"), 3, "[9, 8] in the network and [8, 8]"),
        (("--data", "data.npz", "--network", "mine:deeper"), 3, "2 tensors that the checkpoint has not: fc.3.weight"),
        (("--data", "data.npz", "--network", "mine:make", "--network-option", "act=x"), 3, "AttributeError"),
        (("--data", "data.npz", "--network", "mine:make", "--network-option", "z=x"), 3, "'z'"),
        (("--data", "wide.npz", "--network", "mine:make"), 3, "cannot take `inputs` of shape (4, 33)"),
        (("--data", "labels.npz", "--network", "mine:make"), 3, "labels run from 16 to 16"),
        (("--data", "mine:no_data"), 3, "no examples"),
        (("--data", "mine:absent"), 2, "has no attribute"),
        (("--metric", "top5"), 2, "--data"),
        (("--data", "data.npz", "--image-size", 8), 2, "are for images, and data.npz has none"),
        (("--data", "data.npz", "--normalise", "0.5"), 2, "expected MEAN/DEVIATION"),
        (("--data", "data.npz", "--metric", "top3"), 2, "did you mean `top5`?"),
        (("--data", "data.npz", "--metric", "mine:raises"), 3, "it was called with a Tensor of"),
        (("--eval-command", "true {checkpoint}", "--metric", "top5"), 2, "the numbers in the JSON"),
        (("--eval-command", "python eval.py"), 2, "{checkpoint}"),
        (("--eval-command", "absent-program {checkpoint}"), 2, "absent-program cannot be run"),
        (("--eval-command", PYTHON + " eval.py {checkpoint}", "--data", "data.npz"), 2, "two judges"),
        (("--eval-command", "true {checkpoint}"), 3, "printed nothing"),
        (("--eval-command", "echo well {checkpoint}"), 3, "is no figure: 'well"),
        (("--eval-command", 'sh -c \'echo "{\\"accuracy\\": 1}"; : {checkpoint}\''), 3, "no number `loss`"),
        (("--eval-command", "sh -c 'echo oh no >&2; exit 5; : {checkpoint}'"), 3, "code 5: oh no"),
        (("--eval-command", "sh -c 'sleep 60; : {checkpoint}'", "--eval-timeout", 0.5), 3, "still running after 0.5 s"),
    ],
)
def test_what_is_wrong_is_told_before_matching(
    rebasin: Rebasin, own: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    np.savez("wide.npz", inputs=np.zeros((4, 33), np.float32), targets=np.zeros(4, np.int64))
    np.savez("labels.npz", inputs=np.zeros((4, 32), np.float32), targets=np.full(4, 16))
    done = rebasin(*PATH, *arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


FLAKY = """
import sys, pathlib, time
count = pathlib.Path("count")
done = int(count.read_text()) if count.exists() else 0
count.write_text(str(done + 1))
if done == 2: time.sleep(60)
if done == 3: sys.exit("it broke")
print(1.0 + done)
"""


def test_points_that_fail_are_named_and_the_others_are_kept(own: Path) -> None:
    (own / "flaky.py").write_text(textwrap.dedent(FLAKY))
    call = (*PATH, "--eval-command", PYTHON + " flaky.py {checkpoint}", "--eval-timeout", 2)
    done = run(*call, "--at", 0.5, "-o", "m.safetensors", cwd=own)
    assert done.returncode == 3
    # calls: A, then naive at ½ and 1, then aligned at ½ and 1
    found = json.loads(done.stdout)["barrier"]
    assert found["naive"]["loss"] == [1.0, 2.0, None]
    assert found["aligned"]["loss"] == [1.0, None, 5.0]
    assert "still running after 2 s" in found["failures"]["naive, λ = 1"]
    assert "it broke" in found["failures"]["aligned, λ = 0.5"]
    assert "2 points of the path could not be measured" in done.stderr.decode()
    assert (own / "m.safetensors").exists()
    assert json.loads((own / "m.rebasin.json").read_text())["barrier"] == found


def test_what_a_command_started_ends_with_it(own: Path) -> None:
    (own / "spawn.sh").write_text("sleep 987 & echo $! > pid; wait")
    run(*PATH, "--eval-command", "sh spawn.sh {checkpoint}", "--eval-timeout", 1, cwd=own)
    pid = int((own / "pid").read_text())
    for _ in range(100):  # killed, it may still wait to be collected
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the command's child lived on")


def test_without_a_network_the_message_names_the_ways_out(rebasin: Rebasin, tmp_path: Path) -> None:
    state = {"weight_ih_l0": torch.randn(32, 5), "weight_hh_l0": torch.randn(32, 8)}
    for name in ("a", "b"):
        head = {"fc.weight": torch.randn(4, 8), "fc.bias": torch.randn(4)}
        save(tmp_path / f"{name}.safetensors", state | head | {f"bias_{k}h_l0": torch.randn(32) for k in "ih"})
    save(tmp_path / "data.safetensors", {"inputs": torch.randn(4, 5), "targets": torch.arange(4)})
    done = rebasin(
        "interpolate", *(tmp_path / f"{n}.safetensors" for n in "ab"), "--data", tmp_path / "data.safetensors"
    )
    assert done.code == 3
    assert "--network" in done.err
    assert "--eval-command" in done.err
