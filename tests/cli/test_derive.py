"""Specs derived from a user's own network: by `rebasin arch derive`, and at once where --network is named."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_cli.evaluation.libraries import library
from tests.cli.conftest import Rebasin, networks_of, same_tensors

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    # no shipped spec has these names; the stream is residual
    def __init__(self, width=12):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x):
        h = self.a(x).relu()
        return self.c(h + self.b(h).relu())

class Chain(nn.Module):
    # names and shapes of an MLP, with a residual connection that they do not tell
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x):
        h = self.fc1(x).relu()
        return self.fc3(h + self.fc2(h).relu())

class Product(nn.Module):
    # an MLP by its keys, whose outputs are multiplied with each other
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 12), nn.Linear(12, 9), nn.Linear(9, 20)

    def forward(self, x):
        made = self.fc3(self.fc2(self.fc1(x).relu()).relu()).view(-1, 4, 5)
        return made.tanh() @ made.mT

class Padded(nn.Module):
    # a residual connection that pads with zeros: units of one dim in two places, which a spec cannot say
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.c((nn.functional.pad(h, (2, 2)) + self.b(h)).relu())

class Spectral(nn.Module):
    # as in a Fourier neural operator: weights are complex
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(2, 7), nn.Linear(7, 3)
        self.w = nn.Parameter(torch.randn(7, 7, 4, dtype=torch.cfloat))

    def forward(self, x):
        waves = torch.fft.rfft(self.a(x), dim=1)[:, :4]
        return self.c(torch.fft.irfft(torch.einsum("bmi,iom->bmo", waves, self.w), n=8, dim=1).tanh())

class Noisy(Net):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, training=True))

class Blind(Net):
    def forward(self, x):
        return super().forward(x).detach()

class Mute(Net):
    def forward(self, x):
        return super().forward(x).argmax()

class Broken(Net):
    def forward(self, x):
        return super().forward(x) / 0 * 0

def spectral():
    return Spectral(), torch.randn(4, 8, 2)

def make(width="12"): return Net(int(width)), torch.randn(2, 6)
def chain(): return Chain(), torch.randn(5, 6)
def product(): return Product(), torch.randn(2, 6)
def dropped(): return nn.Sequential(nn.Linear(6, 9), nn.Dropout(), nn.ReLU(), nn.Linear(9, 2)), torch.randn(5, 6)
class Flagged(Net):
    def forward(self, x, twice):
        return (2 if twice else 1) * super().forward(x)

class Branched(Net):
    # given other inputs, another head reads the stream
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(12, 4)

    def forward(self, x, other=False):
        return self.other(self.a(x).relu()) if other else super().forward(x)

def branched(): return Branched(), torch.randn(5, 6)
def flagged(): return Flagged(), {"x": torch.randn(2, 6), "twice": True}
def padded(): return Padded(), torch.randn(5, 6)
def noisy(): return Noisy(), torch.randn(5, 6)
def blind(): return Blind(), torch.randn(5, 6)
def mute(): return Mute(), torch.randn(5, 6)
def broken(): return Broken(), torch.randn(5, 6)
def misfit(): return Net(), torch.randn(5, 7)
def raises(): raise ValueError("no such thing")
def nothing(): return 7
def unmade(): return Net
"""
SPEC = """name: nets_of_derive-make
title: derived from nets_of_derive:make
tensors:
  a.weight: a _       # axis 1: inputs
  a.bias: a
  b.weight: a a
  b.bias: a
  c.weight: _ a       # axis 0: outputs
  c.bias: _
"""
MAKE = ("--network", "nets_of_derive:make")
PAIR = ("a.safetensors", "b.safetensors")


@pytest.fixture
def nets(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules and two checkpoints of each of two networks; nothing is remembered."""
    monkeypatch.delitem(sys.modules, "nets_of_derive", raising=False)
    Path("nets_of_derive.py").write_text(MODULE)
    code = networks_of(MODULE)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        save_file(code["Net"]().state_dict(), f"{name}.safetensors")
        save_file(code["Chain"]().state_dict(), f"chain_{name}.safetensors")
        save_file(code["Product"]().state_dict(), f"product_{name}.safetensors")
    return workplace


def outputs(kind: str, file: str) -> torch.Tensor:
    module = networks_of(MODULE)[kind]().double()
    module.load_state_dict(load_file(file))
    return module(torch.ones(3, 6, dtype=torch.float64).cumsum(0))


def test_a_spec_is_derived_and_printed(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("arch", "derive", "nets_of_derive:make")
    assert done.code == 0, done.err
    assert done.out == SPEC


def test_a_derived_spec_is_a_file_like_any_other(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("arch", "derive", "nets_of_derive:make", "-o", "own.yaml", "--checkpoint", "a.safetensors", "--json")
    assert done.code == 0, done.err
    assert Path("own.yaml").read_text() == SPEC
    derivation = done.document["derivation"]
    assert derivation["network"] == "nets_of_derive:make"
    assert 10 < derivation["passes"] < 100
    assert [check["passed"] for check in done.document["checks"]] == [True, True]
    assert rebasin("arch", "prove", "own.yaml", *MAKE).code == 0
    aligned = rebasin("align", *PAIR, "--arch", "own.yaml")
    assert aligned.code == 0, aligned.err
    assert "proved on nets_of_derive:make" in aligned.err
    again = rebasin("arch", "derive", "nets_of_derive:make", "-o", "own.yaml")
    assert again.code == 2
    assert "own.yaml" in again.err


def test_an_unknown_network_is_aligned_at_once(rebasin: Rebasin, nets: Path) -> None:
    """And neither `apply` nor the next command of the pipe needs the network again."""
    done = rebasin("align", *PAIR, *MAKE)
    assert done.code == 0, done.err
    assert "derived from its code and proved on it" in done.err
    architecture = done.document["architecture"]
    assert (architecture["title"], architecture["proved"]) == ("derived from nets_of_derive:make", True)
    assert architecture["checked"]["error"] < 1e-12
    torch.testing.assert_close(outputs("Net", "b.aligned.safetensors"), outputs("Net", "b.safetensors"))
    for kept in Path("cache/rebasin/derived").iterdir():
        kept.unlink()
    applied = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "again.safetensors")
    assert applied.code == 0, applied.err
    assert same_tensors("b.aligned.safetensors", "again.safetensors")
    halfway = rebasin("interpolate", "--at", "0.5", "-o", "half.safetensors", stdin=done.out.encode())
    assert halfway.code == 0, halfway.err
    given = rebasin(
        "interpolate", *PAIR, "--permutation", "b.permutation.safetensors", "--at", 0.5, "-o", "h2.safetensors"
    )
    assert given.code == 0, given.err
    assert Path("h2.safetensors").stat().st_size == Path("half.safetensors").stat().st_size


@pytest.mark.parametrize(
    "call",
    [
        ("interpolate", *PAIR, "--at", 0.5, "-o", "m.safetensors"),
        ("merge", *PAIR, "c.safetensors", "-o", "m.safetensors"),
        ("inspect", "a.safetensors"),
        ("align", *PAIR, "--dry-run"),
    ],
    ids=["interpolate", "merge", "inspect", "dry run"],
)
def test_every_command_takes_the_network(rebasin: Rebasin, nets: Path, call: tuple[object, ...]) -> None:
    done = rebasin(*call, *MAKE, "--json")
    assert done.code == 0, done.err
    assert done.document["architecture"]["title"] == "derived from nets_of_derive:make"


def test_a_network_of_a_known_name_gets_its_own_spec(rebasin: Rebasin, nets: Path) -> None:
    """Names and shapes are those of an MLP; moved like one, it would be another function."""
    pair = ("chain_a.safetensors", "chain_b.safetensors")
    done = rebasin("align", *pair, "--network", "nets_of_derive:chain")
    assert done.code == 0, done.err
    assert done.document["architecture"]["title"] == "derived from nets_of_derive:chain"
    torch.testing.assert_close(outputs("Chain", "chain_b.aligned.safetensors"), outputs("Chain", pair[1]))
    assert list(done.document["architecture"]["dims"]) == ["embed"] or len(done.document["architecture"]["dims"]) == 1


def test_a_shipped_spec_that_leaves_something_is_told(rebasin: Rebasin, nets: Path) -> None:
    pair = ("product_a.safetensors", "product_b.safetensors")
    done = rebasin("align", *pair, "--network", "nets_of_derive:product")
    assert done.code == 0, done.err
    assert done.document["architecture"]["name"] == "mlp"
    (warning,) = done.document["warnings"]
    assert "is larger than `mlp` says" in warning
    advice = re.search("`rebasin (.*)` finds all of it", warning)
    assert advice is not None
    assert rebasin(*advice[1].split(), "nets_of_derive:product", "-o", "all.yaml").code == 0
    again = rebasin("align", *pair, "--network", "nets_of_derive:product", "--arch", "all.yaml", "-f")
    assert again.code == 0, again.err
    assert not again.document["warnings"]
    assert len(again.document["architecture"]["dims"]) == 3


def test_a_derived_spec_is_kept_and_trusted_only_whole(rebasin: Rebasin, nets: Path) -> None:
    derived = "derived from its code and proved on it"
    assert derived in rebasin("align", *PAIR, *MAKE).err
    (kept,) = Path("cache/rebasin/derived").iterdir()
    again = rebasin("align", *PAIR, *MAKE, "-f")
    assert derived not in again.err
    assert "derived from its code before is used" in again.err
    kept.write_text(kept.read_text().replace("b.bias: a", "b.bias: _"))
    assert derived in rebasin("align", *PAIR, *MAKE, "-f").err
    Path("nets_of_derive.py").write_text(MODULE + "\n# another version\n")
    assert derived in rebasin("align", *PAIR, *MAKE, "-f").err


def test_options_and_inputs_reach_the_network(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("arch", "derive", "nets_of_derive:make", "--network-option", "width=8", "--json")
    assert done.document["architecture"]["dims"]["a"]["size"] == 8
    done = rebasin("arch", "derive", "nets_of_derive:Net", "--inputs", "4x6", "--json")
    assert done.code == 0, done.err
    assert done.document["derivation"]["inputs"] == "4x6"
    done = rebasin("arch", "derive", "nets_of_derive:Net", "--json")
    assert done.code == 0, done.err
    assert "the network is run on a guess, 4x6" in done.document["warnings"][0]
    assert "evaluation mode" not in done.err
    assert "evaluation mode" in rebasin("arch", "derive", "nets_of_derive:dropped").err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nets_of_derive:raises",), 3, "raised ValueError: no such thing where: "),
        (("nets_of_derive:nothing",), 3, "returned int"),
        (("nets_of_derive:unmade",), 3, "returned the class Net, not a module of it"),
        (("nets_of_derive:absent",), 2, "has no attribute 'absent'"),
        (("no_such_folder",), 2, "expected package.module:factory"),
        (("nets_of_derive:noisy",), 3, "is not deterministic"),
        (("nets_of_derive:blind",), 3, "no gradient"),
        (("nets_of_derive:mute",), 3, "no tensor of floats among the network's outputs"),
        (("nets_of_derive:broken",), 3, "is not a number at random weights"),
        (("nets_of_derive:misfit",), 3, "does not run on the inputs"),
        (("nets_of_derive:Net", "--inputs", "4x7"), 3, "with the number of examples first (4x3x32x32)"),
        (("nets_of_derive:Net", "--inputs", "absent.npz"), 2, "there is no such file"),
        (("nets_of_derive:Net", "--inputs", "0x6"), 2, "empty or too large"),
        (
            ("nets_of_derive:make", "--checkpoint", "chain_a.safetensors"),
            3,
            "has 6 tensors that the checkpoint has not",
        ),
        (("nets_of_derive:make", "-o", "absent/own.yaml"), 4, "absent"),
    ],
)
def test_what_cannot_be_derived_is_told(
    rebasin: Rebasin, nets: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    done = rebasin("arch", "derive", *arguments)
    assert done.code == code, done.err
    assert words in " ".join(done.err.split())
    assert done.out == ""


def test_the_error_of_an_unknown_network_leads_to_a_result(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR)
    assert done.code == 3
    option = re.search(r"with (--network) MODULE:FACTORY", done.err)
    assert option is not None
    assert rebasin("align", *PAIR, option[1], "nets_of_derive:make").code == 0


def test_a_folder_of_an_unknown_family_leads_to_a_result(
    rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config.json is enough for a spec, and the error of `align` says how to get it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 48, "intermediate_size": 20, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = library("transformers").ArceeConfig(**sizes, num_hidden_layers=1, vocab_size=30)
    for seed, folder in enumerate(("one", "two")):
        torch.manual_seed(seed)
        library("transformers").ArceeForCausalLM(config).save_pretrained(folder)
    refused = rebasin("align", "one", "two")
    assert refused.code == 3
    advice = re.search(r"`rebasin (arch derive FOLDER -o FILE.yaml)`", " ".join(refused.err.split()))
    assert advice is not None
    done = rebasin(*advice[1].replace("FOLDER", "one").split(), "--json")
    assert done.code == 0, done.err
    assert done.document["architecture"]["dims"]["kv.0"]["size"] == 2
    aligned = rebasin("align", "one", "two", "--arch", "FILE.yaml", "-o", "aligned")
    assert aligned.code == 0, aligned.err
    assert aligned.document["architecture"]["checked"]["error"] < 1e-6  # its norms compute in float32


def test_a_group_that_the_language_cannot_say_in_full_is_told(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("arch", "derive", "nets_of_derive:padded", "--json")
    assert done.code == 0, done.err
    assert "the symmetry is larger than the spec says" in done.err
    assert done.document["derivation"]["free"]
    assert sorted(dim["size"] for dim in done.document["architecture"]["dims"].values()) == [2, 2, 4]


def test_flags_among_the_inputs_are_passed_on(rebasin: Rebasin, nets: Path) -> None:
    """And further examples are drawn for the tensors alone."""
    done = rebasin("arch", "derive", "nets_of_derive:flagged", "--json")
    assert done.code == 0, done.err
    assert [dim["size"] for dim in done.document["architecture"]["dims"].values()] == [12]


def test_tensors_that_the_inputs_do_not_use_are_told(rebasin: Rebasin, nets: Path) -> None:
    """They are copied as they are, which the rest of the network does not tell to be wrong."""
    done = rebasin("arch", "derive", "nets_of_derive:branched")
    assert done.code == 0, done.err
    assert "warning: the outputs on these inputs do not depend on other.weight, other.bias" in " ".join(
        done.err.split()
    )


def test_a_folder_for_a_module_leads_to_a_result(rebasin: Rebasin, nets: Path) -> None:
    done = rebasin("align", *PAIR, "--network", ".")
    assert done.code == 2
    assert "`rebasin arch derive . -o FILE.yaml`" in " ".join(done.err.split())
    assert "--arch FILE.yaml" in " ".join(done.err.split())


def test_complex_weights_are_moved_and_run_as_they_are(rebasin: Rebasin, nets: Path) -> None:
    """Neither the derivation nor the check by the network takes their imaginary parts away."""
    a = {key: tensor.detach() for key, tensor in networks_of(MODULE)["Spectral"]().state_dict().items()}
    order = torch.randperm(7)
    b = a | {"a.weight": a["a.weight"][order], "a.bias": a["a.bias"][order], "w": a["w"][order]}
    torch.save(a, "sa.pt")
    torch.save(b, "sb.pt")
    done = rebasin("align", "sa.pt", "sb.pt", "--network", "nets_of_derive:spectral")
    assert done.code == 0, done.err
    assert "imaginary" not in done.err
    assert done.document["architecture"]["checked"]["error"] < 1e-12
    found = load_file("sb.aligned.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in a.items())
