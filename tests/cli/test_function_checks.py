"""B and π(B) are compared wherever a network can be run, and what is assumed is said to be."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.evaluation.libraries import library
from tests.cli.conftest import Outcome, Rebasin, networks_of

MODULE = """
import torch
from torch import nn

class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc4 = nn.Linear(8, 16), nn.Linear(16, 4)
        self.fc2, self.fc3 = nn.Linear(16, 16), nn.Linear(16, 16)
    def forward(self, x):
        return self.fc4(self.fc3(self.fc2(self.fc1(x).relu()).relu()).relu())

class Residual(Chain):
    def forward(self, x):
        x = self.fc1(x).relu()
        x = x + self.fc2(x).relu()
        return self.fc4(x + self.fc3(x).relu())

class Half(Chain):
    # only the first layers are joined: the third is free
    def forward(self, x):
        x = self.fc1(x).relu()
        return self.fc4(self.fc3(x + self.fc2(x).relu()).relu())

class Random(Chain):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, training=True))

class Deep(Chain):
    # float32 only, and a long way for rounding
    def forward(self, x):
        x = self.fc1(x.float()).relu()
        for _ in range(30):
            x = 3 * nn.functional.normalize(x, dim=-1) + 0 * self.fc1.weight.sum()
        return self.fc4(self.fc3(self.fc2(x).relu()).relu())

class Picky(Chain):
    def forward(self, x):
        assert len(x) > 4 or x[0, 0] != torch.randn(4, 8, generator=torch.Generator().manual_seed(0))[0, 0]
        return super().forward(x)

def chain(state): return Chain()
def picky(state): return Picky()
def residual(state): return Residual()
def half(state): return Half()
def random(state): return Random()
def deep(state): return Deep()
def alone(): return Residual(), torch.randn(3, 8)
def chain_alone(): return Chain(), torch.randn(3, 8)
"""
RESIDUAL = """
name: residual
tensors:
  fc1.weight: s _
  fc{2,3}.weight: s s
  fc{1,2,3}.bias: s
  fc4.weight: _ s
  fc4.bias: _
"""
PAIR = ("a.safetensors", "b.safetensors")
DATA = ("--data", "d.npz")


@pytest.fixture
def nets(workplace: Path) -> Path:
    """The current folder: three checkpoints whose names and shapes are a chain's, modules that read them, and data."""
    Path("nets_of_tests.py").write_text(MODULE)
    code = networks_of(MODULE)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        save_file(code["Chain"]().state_dict(), f"{name}.safetensors")
    generator = np.random.default_rng(0)
    np.savez("d.npz", inputs=generator.standard_normal((60, 8)).astype(np.float32), targets=np.arange(60) % 4)
    return workplace


def network(name: str) -> tuple[str, str]:
    return ("--network", f"nets_of_tests:{name}")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "__pycache__"}


WRONG = {
    "align": ("align", *PAIR, *DATA),
    "align by activations": ("align", *PAIR, *DATA, "--method", "activations"),
    "interpolate": ("interpolate", *PAIR, *DATA, "--steps", 3, "--at", 0.5, "-o", "m.safetensors"),
    "merge": ("merge", *PAIR, "c.safetensors", *DATA, "-o", "m.safetensors"),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_another_network_of_the_same_shapes_is_refused(
    rebasin: Rebasin, nets: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[object, ...]
) -> None:
    """Before any matching, which here would fail; nothing is written."""
    monkeypatch.setattr("rebasin_cli.pipeline.interpolate_run.match_pair", lambda *_: pytest.fail("matched"))
    monkeypatch.setattr("rebasin_cli.pipeline.merge_run.match_models", lambda *_: pytest.fail("matched"))
    monkeypatch.setattr("rebasin_cli.pipeline.match.match_pair", lambda *_: pytest.fail("matched"))
    before = files(nets)
    done = rebasin(*call, *network("residual"), "--arch", "mlp")
    assert done.code == 3, done.err
    assert "names and shapes fit the spec `mlp`, but the network is another" in done.err
    assert "first seen in what fc3 makes; permuting h.1, h.2, h.3 alone breaks it" in done.err
    assert "--freeze" not in done.err
    assert files(nets) == before


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_the_right_network_passes(rebasin: Rebasin, nets: Path, call: tuple[object, ...]) -> None:
    done = rebasin(*call, *network("chain"))
    assert done.code == 0, done.err
    checked = done.document["architecture"]["checked"]
    assert checked["error"] < 1e-12
    assert checked["network"] == "nets_of_tests:chain"
    assert checked["examples"] == 4
    assert "why" not in checked
    assert checked["permutations"] == (11 if call[0] == "merge" else 9)


def test_inputs_may_come_with_the_network(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, *network("alone"), "--arch", "mlp")
    assert done.code == 3
    assert "nets_of_tests:alone, 3 examples; first seen in what fc3 makes" in done.err
    done = rebasin("align", *PAIR, *network("chain_alone"))
    assert done.code == 0, done.err
    assert done.document["architecture"]["checked"]["examples"] == 3
    done = rebasin("align", *PAIR, *network("chain"), "-f")
    assert done.code == 0, done.err
    assert "on a guess of its inputs, 4x8" in done.document["architecture"]["checked"]["network"]


def test_a_network_without_inputs_takes_those_of_data(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, *network("picky"))
    assert done.code == 2
    assert "nothing to run it on" in done.err
    assert rebasin("align", *PAIR, *network("picky"), *DATA, "-f").code == 0  # what it says to add


def test_a_permutation_of_an_earlier_run_is_compared_too(rebasin: Rebasin, nets: Path) -> None:
    aligned = rebasin("align", *PAIR)
    assert aligned.code == 0
    call = ("--steps", 3, *DATA, *network("residual"))
    for done in (
        rebasin("interpolate", *call, stdin=aligned.out.encode()),
        rebasin("interpolate", *PAIR, "--permutation", "b.permutation.safetensors", *call),
    ):
        assert done.code == 3
        assert "the network is another" in done.err
    left = rebasin("interpolate", *PAIR, "--no-align", *call)
    assert left.code == 0  # nothing is permuted, and so nothing is claimed
    assert "checked" not in left.document["architecture"]


def test_what_the_error_says_to_do_works(rebasin: Rebasin, nets: Path) -> None:
    """A spec of its own, derived or written and proved with the commands as they are printed, and named with --arch."""
    done = rebasin("align", *PAIR, *network("alone"), "--arch", "mlp")
    advice = " ".join(done.err.split())
    derive, prove, name = re.findall(r"`rebasin (arch derive .*?|arch prove .*?)`|name it with (--arch)", advice)
    Path("FILE.yaml").write_text(RESIDUAL)
    for words in (prove[0].replace("FILE", "FILE.yaml"), derive[0] + " -f"):
        assert rebasin(*shlex.split(words.replace("MODULE:FUNCTION", "nets_of_tests:alone"))).code == 0
        done = rebasin("align", *PAIR, *network("alone"), name[1], "FILE.yaml", "-f")
        assert done.code == 0, done.err
        architecture = done.document["architecture"]
        assert architecture["proved"] is True
        assert architecture["checked"]["error"] < 1e-12


def test_dims_that_can_be_frozen_are_named(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, *DATA, *network("half"), "--arch", "mlp")
    assert done.code == 3
    freeze = re.search(r"leave out what breaks it: (.*)", done.err)
    assert freeze is not None
    assert freeze[1] == "--freeze h.1 --freeze h.2"
    done = rebasin("align", *PAIR, *DATA, *network("half"), *freeze[1].split())
    assert done.code == 0, done.err
    assert done.document["architecture"]["checked"]["error"] < 1e-12
    half: dict[str, type[torch.nn.Module]] = {}
    exec(MODULE, half)
    x, outputs = torch.randn(5, 8), []
    for name in ("b.safetensors", "b.aligned.safetensors"):
        module = half["Half"]()
        module.load_state_dict(load_file(name))
        outputs.append(module(x))
    torch.testing.assert_close(*outputs)


def test_a_network_in_float32_is_judged_by_its_rounding(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, *DATA, *network("deep"))
    assert done.code == 0, done.err
    assert 1e-9 < done.document["architecture"]["checked"]["error"] < 1e-4


def test_outputs_that_are_random_cannot_be_compared(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, *DATA, *network("random"))
    assert done.code == 0, done.err
    assert "B was not compared before and after: nets_of_tests:random gives other outputs at every run" in done.err
    assert "error" not in done.document["architecture"]["checked"]


def test_examples_that_do_not_fit_are_refused(rebasin: Rebasin, nets: Path) -> None:
    np.savez("wide.npz", inputs=np.zeros((4, 9), np.float32), targets=np.zeros(4, np.int64))
    for named in ((), network("chain")):
        done = rebasin("align", *PAIR, "--data", "wide.npz", *named)
        assert done.code == 3, done.err
        assert "does not run on b.safetensors" in done.err
        assert not Path("b.aligned.safetensors").exists()


def test_large_checkpoints_are_not_run_and_that_is_said(
    rebasin: Rebasin, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebasin_cli.pipeline.function_check.LARGEST", 1000)
    done = rebasin("align", *PAIR, *DATA, *network("residual"))
    assert done.code == 0
    assert "B was not compared before and after: the checkpoints are of" in done.err
    assert "are compared" in done.document["architecture"]["checked"]["why"]


@pytest.mark.parametrize("call", [WRONG["align"], WRONG["interpolate"]], ids=["align", "interpolate"])
def test_where_the_network_cannot_take_b_it_is_run_on_a(rebasin: Rebasin, nets: Path, call: tuple[object, ...]) -> None:
    """Heads of other classes, left out of the match; the spec is the same."""
    state = load_file("b.safetensors")
    save_file({**state, "fc4.weight": torch.randn(9, 16), "fc4.bias": torch.randn(9)}, "b.safetensors")
    done = rebasin(*call, "--ignore", "fc4.*", *network("residual"), "--arch", "mlp")
    assert done.code == 3, done.err
    assert "the network is another" in done.err
    done = rebasin(*call, "--ignore", "fc4.*", *network("chain"))
    assert done.code == 0, done.err
    assert done.document["architecture"]["checked"]["error"] < 1e-12


def shown(rebasin: Rebasin, done: Outcome) -> str:
    text = rebasin("report", "--text", "-", stdin=done.out.encode()).out
    return " ".join(text.split())


def test_what_is_assumed_is_said_in_the_summary(rebasin: Rebasin, nets: Path) -> None:
    alone = rebasin("align", *PAIR)
    assert "error" not in alone.document["architecture"]["checked"]
    assert "function assumed to be kept, as names and shapes fit; no network was run" in shown(rebasin, alone)
    shipped = rebasin("align", *PAIR, *DATA, "-f")
    assert "looks at weights alone" in shipped.err
    assert "function kept: the built-in mlp unchanged to" in shown(rebasin, shipped)
    assert "that this is your network is assumed" in shown(rebasin, shipped)
    own = rebasin("align", *PAIR, *DATA, *network("chain"), "-f")
    assert "function kept: nets_of_tests:chain unchanged to" in shown(rebasin, own)
    assert "assumed" not in shown(rebasin, own)
    applied = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "o.safetensors")
    assert "function assumed to be kept" in shown(rebasin, applied)
    merged = rebasin("merge", *PAIR, "-o", "m.safetensors")
    assert "function assumed to be kept" in shown(rebasin, merged)
    piped = rebasin("interpolate", "--steps", 3, stdin=own.out.encode())  # what was seen before stays known
    assert piped.document["architecture"]["checked"] == own.document["architecture"]["checked"]
    for document in (alone, shipped, own, applied, merged):
        assert "checked" in json.loads(document.out)["architecture"]


def gpt2_pair(folder: Path, heads: int) -> None:
    transformers = library("transformers")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=41, n_embd=24, n_layer=1, n_head=heads, n_positions=16, bos_token_id=0, eos_token_id=0,
            initializer_range=0.5,
        )  # fmt: skip
        transformers.GPT2LMHeadModel(config).save_pretrained(folder / name)


def test_a_folder_of_transformers_is_run_without_being_asked(rebasin: Rebasin, nets: Path) -> None:
    """On random tokens: heads of another number than config.json has are refused."""
    gpt2_pair(nets, heads=2)
    done = rebasin("align", "a", "b")
    assert done.code == 0, done.err
    checked = done.document["architecture"]["checked"]
    assert (checked["network"], checked["examples"]) == ("GPT2LMHeadModel", 4)
    assert checked["error"] < 1e-9
    wrong = rebasin("align", "a", "b", "--set", "head=3", "-o", "o")
    assert wrong.code == 3
    assert "the network is another" in wrong.err
    assert not (nets / "o").exists()


def test_what_stands_beside_the_logits_may_be_in_any_order(rebasin: Rebasin, nets: Path) -> None:
    """T5 returns its encoder's hidden states too; by itself, and returned by a factory."""
    transformers = library("transformers")
    for seed, name in enumerate(("t5a", "t5b")):
        torch.manual_seed(seed)
        config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=4)
        transformers.T5ForConditionalGeneration(config).save_pretrained(name)
    done = rebasin("align", "t5a", "t5b")
    assert done.code == 0, done.err
    assert done.document["architecture"]["checked"]["network"] == "T5ForConditionalGeneration"
    Path("t5_of_tests.py").write_text(
        "import torch\nfrom transformers import T5ForConditionalGeneration as T5\n"
        "def make():\n    ids = torch.randint(0, 40, (3, 7))\n"
        "    return T5.from_pretrained('t5a'), {'input_ids': ids, 'decoder_input_ids': ids}\n"
    )
    done = rebasin("align", "t5a", "t5b", "--network", "t5_of_tests:make", "-f")
    assert done.code == 0, done.err
    assert done.document["architecture"]["checked"]["network"] == "t5_of_tests:make"


def test_transformers_is_not_imported_for_plain_files(nets: Path) -> None:
    from tests.cli.test_light_start import loaded

    modules, _, code = loaded("align", *PAIR)
    assert code == 0
    assert "transformers" not in modules
