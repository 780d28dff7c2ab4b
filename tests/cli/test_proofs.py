"""`rebasin arch prove` by its exit codes, and what later runs know of it."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Rebasin, same_tensors

SPEC = """
name: own
dims:
  qk: within head
  v: within head
tensors:
  "{q,k}.weight": (head qk) _
  "{q,k}.bias": (head qk)
  v.weight: (head v) _
  v.bias: (head v)
  o.weight: _ (head v)
  o.bias: _
"""
MODULE = """
import torch
from torch import nn
from safetensors.torch import save_file

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
    def forward(self, x):
        split = lambda layer: layer(x).unflatten(-1, (3, 4)).transpose(1, 2)
        mixed = (split(self.q) @ split(self.k).transpose(-1, -2) / 2).softmax(-1) @ split(self.v)
        return self.o(mixed.transpose(1, 2).flatten(2))

def make():
    return Attention(), torch.randn(2, 5, 12)

for seed, name in enumerate("ab"):
    torch.manual_seed(seed)
    save_file(Attention().state_dict(), f"{name}.safetensors")
"""
PROVE = ("arch", "prove", "own.yaml", "--network", "attention_of_tests:make")
ALIGN = ("align", "a.safetensors", "b.safetensors", "--arch", "own.yaml", "--set", "head=3", "-f")


@pytest.fixture
def own(workplace: Path) -> Path:
    """The current folder, with a spec, a network and two checkpoints of it; and no proof remembered."""
    Path("own.yaml").write_text(SPEC)
    Path("attention_of_tests.py").write_text(MODULE)
    exec(MODULE, {})  # it writes the checkpoints
    return workplace


def test_sizes_that_nothing_tells(rebasin: Rebasin, own: Path) -> None:
    """The proof fails, and what it says to give makes it hold."""
    done = rebasin(*PROVE, "--json")
    assert done.code == 1
    assert "head, qk, v were not permuted" in done.err
    asked = re.findall(r"(--set \w+=)N", done.document["checks"][0]["detail"])
    assert asked[0] == "--set head="
    done = rebasin(*PROVE, *(asked[0] + "3").split(), "--json")
    assert done.code == 0, done.err
    assert "20 random permutations" in done.document["checks"][0]["detail"]


def test_sizes_from_a_config(rebasin: Rebasin, own: Path) -> None:
    Path("own.yaml").write_text(SPEC + "sizes:\n  head: config.heads\n")
    assert "--set head=N or --config FILE" in rebasin(*PROVE).err
    for heads, code in ((3, 0), (4, 1)):
        Path("c.json").write_text(json.dumps({"heads": heads}))
        assert rebasin(*PROVE, "--config", "c.json").code == code


@pytest.mark.parametrize(
    ("text", "code", "words"), [("{", 3, "c.json is not JSON"), ("[]", 3, "no object"), (None, 4, "cannot read c.json")]
)
def test_a_config_that_is_none(rebasin: Rebasin, own: Path, text: str | None, code: int, words: str) -> None:
    if text is not None:
        Path("c.json").write_text(text)
    done = rebasin(*PROVE, "--config", "c.json")
    assert done.code == code
    assert words in done.err


def test_a_dim_of_one_unit_is_not_proved(rebasin: Rebasin, own: Path) -> None:
    Path("attention_of_tests.py").write_text(MODULE.replace("(3, 4)", "(1, 12)").replace("/ 2", "/ 12**0.5"))
    done = rebasin(*PROVE, "--set", "head=1", "--json")
    assert done.code == 1
    assert done.document["checks"][0]["passed"]
    assert "not proved: head have a single unit" in done.err


def test_a_proof_is_remembered(rebasin: Rebasin, own: Path) -> None:
    """The warning names the command that ends it; any change of the spec but a comment brings it back."""
    before = rebasin(*ALIGN)
    assert before.document["architecture"]["proved"] is False
    advice = re.search(r"`rebasin (arch prove .*?)`", before.err)
    assert advice is not None
    words = advice[1].replace("MODULE:FUNCTION", "attention_of_tests:make") + " --set head=3"
    assert rebasin(*shlex.split(words)).code == 0
    after = rebasin(*ALIGN)
    assert after.code == 0
    assert not any("nothing has proved" in text for text in after.document["warnings"])
    assert "own.yaml is not a shipped spec; it was proved on attention_of_tests:make on 20" in after.err
    architecture = after.document["architecture"]
    assert architecture["proved"] is True
    assert architecture["proof"].startswith("on attention_of_tests:make on 20")
    Path("own.yaml").write_text("# a comment\n" + SPEC)
    assert rebasin(*ALIGN).document["architecture"]["proved"] is True
    Path("own.yaml").write_text(SPEC.replace("o.bias: _", "o.bias: x").replace("o.weight: _", "o.weight: x"))
    assert rebasin(*ALIGN).document["architecture"]["proved"] is False


def test_the_advice_names_the_sizes_that_it_takes(rebasin: Rebasin, own: Path) -> None:
    Path("own.yaml").write_text(
        SPEC.replace("qk)", "_:key)").replace("  qk: within head\n", "") + "sizes:\n  key: []\n"
    )
    Path("my specs").mkdir()
    Path("own.yaml").rename("my specs/own.yaml")
    call = [*ALIGN[:4], "my specs/own.yaml", "--set", "key=4", "-f"]
    advice = re.search(r"`rebasin (arch prove .*?)`", rebasin(*call).err)
    assert advice is not None
    assert advice[1].endswith("--set key=4")
    done = rebasin(*shlex.split(advice[1].replace("MODULE:FUNCTION", "attention_of_tests:make")))
    assert done.code == 0, done.err


def test_a_proof_that_fails_is_not_remembered(rebasin: Rebasin, own: Path) -> None:
    assert rebasin(*PROVE, "--set", "head=4").code == 1
    assert not (own / "state").exists()


STATES = {
    "no JSON": b"{",
    "a list": b"[]",
    "no object": b'{"proofs": 3}',
    "too deep": b"[" * 100_000,
    "other fields": b'{"proofs": {"HASH": {"network": "x"}}}',
    "no text": b'{"proofs": {"HASH": {"network": 3, "when": "", "version": "", "error": 0}}}',
    "escapes": b'{"proofs": {"HASH": {"network": "\\u001b[2J", "when": "", "version": "", "error": 0}}}',
    "no number": b'{"proofs": {"HASH": {"network": "x", "when": "", "version": "", "error": "0"}}}',
    "large": b'{"proofs": {}}' + b" " * (1 << 21),
}


@pytest.mark.parametrize("text", STATES.values(), ids=STATES)
def test_hostile_state_is_ignored(rebasin: Rebasin, own: Path, text: bytes) -> None:
    spec = rebasin("arch", "show", "own.yaml", "--json").document["architecture"]["sha256"]
    place = own / "state" / "rebasin" / "proofs.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(text.replace(b"HASH", spec.encode()))
    done = rebasin(*ALIGN)
    assert done.code == 0
    assert done.document["architecture"]["proved"] is False
    assert rebasin(*PROVE, "--set", "head=3").code == 0
    assert rebasin(*ALIGN).document["architecture"]["proved"] is True


def test_state_that_cannot_be_read_or_written(rebasin: Rebasin, own: Path) -> None:
    os.mkfifo(own / "pipe")
    place = own / "state" / "rebasin"
    place.parent.mkdir()
    place.write_text("a file where the folder should be")
    assert rebasin(*PROVE, "--set", "head=3").code == 0
    place.unlink()
    place.mkdir()
    (place / "proofs.json").symlink_to(own / "pipe")
    done = rebasin(*ALIGN)
    assert done.code == 0
    assert done.document["architecture"]["proved"] is False


def test_results_hold_the_spec_they_were_made_with(rebasin: Rebasin, own: Path) -> None:
    """Neither `apply` nor the next command of a pipe needs the file of the spec."""
    done = rebasin(*ALIGN)
    assert done.code == 0, done.err
    Path("own.yaml").unlink()
    applied = rebasin("apply", "b.permutation.safetensors", "b.safetensors", "-o", "again.safetensors")
    assert applied.code == 0, applied.err
    assert same_tensors("b.aligned.safetensors", "again.safetensors")
    halfway = rebasin("interpolate", "--at", "0.5", "-o", "half.safetensors", stdin=done.out.encode())
    assert halfway.code == 0, halfway.err
    assert halfway.document["architecture"]["sha256"] == done.document["architecture"]["sha256"]
