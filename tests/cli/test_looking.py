"""`rebasin inspect`, `arch` and `report`: commands that only show."""

from __future__ import annotations

import re
import sys
from math import factorial, log10
from pathlib import Path

import pytest
import torch

from rebasin_cli.spec import shipped_specs
from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save

_OWN = "name: own\ntensors:\n  fc.{i}.weight: h.{i} h.{prev i}\n  fc.{i}.bias: h.{i}\n"


def test_inspect_shows_tensors_and_dims(rebasin: Rebasin, pair: Path) -> None:
    document = rebasin("inspect", "b.safetensors", "--json").document
    assert document["architecture"]["name"] == "mlp"
    assert document["architecture"]["dims"]["h.1"]["size"] == 8
    assert document["tensors"]["fc.0.weight"] == {
        "dtype": "F32", "shape": [8, 32], "section": "tensors", "pattern": "h.0 _", "line": 7,
    } | {"line": document["tensors"]["fc.0.weight"]["line"]}  # fmt: skip
    assert "sha256" not in document["inputs"]["checkpoint"]  # headers only


def test_inspect_shows_an_unknown_architecture_too(rebasin: Rebasin, tmp_path: Path) -> None:
    path = save(tmp_path / "odd.safetensors", {"wings.left": torch.zeros(3, 4, 5)})
    done = rebasin("inspect", path, "--json")
    assert done.code == 0
    assert "architecture" not in done.document
    assert "fits this checkpoint" in done.err
    assert rebasin("inspect", path, "--arch", "mlp").code == 3


def test_arch_list(rebasin: Rebasin) -> None:
    done = rebasin("arch", "list", "--json")
    assert done.code == 0
    listed = {entry["name"]: entry for entry in done.document["architectures"]}
    assert {"mlp", "llama", "gpt2"} <= set(listed)
    assert all(entry["title"] and len(entry["sha256"]) == 64 for entry in listed.values())


def test_arch_show_without_and_with_a_checkpoint(rebasin: Rebasin, pair: Path) -> None:
    document = rebasin("arch", "show", "llama", "--json").document
    (embedding,) = [key for key in document["tensors"] if key.endswith("embed_tokens.weight")]
    assert document["tensors"][embedding]["pattern"] == "_ embed"
    assert embedding in document["architecture"]["dims"]["embed"]["tensors"]
    assert document["architecture"]["dims"]["q.{i}"]["owner"] == "kv.{i}"
    document = rebasin("arch", "show", "mlp", "a.safetensors", "--json").document
    assert document["architecture"]["dims"]["h.0"]["size"] == 8
    assert document["architecture"]["dims"]["h.0"]["tensors"] == ["fc.0.bias", "fc.0.weight", "fc.1.weight"]


def test_arch_check_is_a_gate(rebasin: Rebasin, pair: Path) -> None:
    good = rebasin("arch", "check", "mlp", "a.safetensors", "--json")
    assert good.code == 0
    assert [check["passed"] for check in good.document["checks"]] == [True, True]
    bad = rebasin("arch", "check", "llama", "a.safetensors", "--json")
    assert bad.code == 1
    assert bad.document["checks"][0]["passed"] is False
    assert "error: 1 of 1 checks failed" in bad.err


def test_a_malformed_spec_is_an_error_of_its_own(rebasin: Rebasin, pair: Path) -> None:
    Path("own.yaml").write_text(_OWN.replace("tensors:", "tensros:"))
    done = rebasin("arch", "check", "own.yaml", "a.safetensors", "--json")
    assert done.code == 3
    assert "own.yaml:2" in done.err


def test_arch_prove_on_a_network_of_ones_own(rebasin: Rebasin, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_network_of_tests.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)])\n"
        "    def forward(self, x):\n"
        "        for layer in self.fc[:-1]:\n"
        "            x = layer(x).relu()\n"
        "        return self.fc[-1](x)\n\n"
        "def build():\n"
        "    return Net(), (torch.randn(4, 5, dtype=torch.float64),)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    good = _OWN + "dims:\n  h.{last i}: fixed\n"
    Path("good.yaml").write_text(good)
    done = rebasin("arch", "prove", "good.yaml", "--network", "my_network_of_tests:build", "--json")
    assert done.code == 0, done.err
    assert "outputs unchanged" in done.document["checks"][0]["detail"]
    Path("wrong.yaml").write_text(_OWN)  # it permutes the outputs
    done = rebasin("arch", "prove", "wrong.yaml", "--network", "my_network_of_tests:build", "--json")
    assert done.code == 1
    assert "outputs change by" in done.err


@pytest.mark.parametrize(
    ("network", "code"), [("nowhere_at_all:build", 2), ("no_colon", 2), ("json:no_such_function", 2), ("os:getcwd", 3)]
)
def test_a_network_that_cannot_be_had(rebasin: Rebasin, network: str, code: int) -> None:
    done = rebasin("arch", "prove", "mlp", "--network", network, "--json")
    assert done.code == code
    assert network in done.err


def test_unknown_architecture_gets_a_suggestion(rebasin: Rebasin) -> None:
    done = rebasin("arch", "show", "lama")
    assert done.code == 2
    assert "did you mean `llama`?" in done.err


@pytest.mark.parametrize("call", [("align", "a.safetensors", "b.safetensors", "--arch"), ("arch", "check")])
def test_an_unknown_architecture_is_told_of_the_headers(rebasin: Rebasin, pair: Path, call: tuple[str, ...]) -> None:
    done = rebasin(*call, "lama", *(("a.safetensors",) if call[0] == "arch" else ()))
    assert done.code == 2
    assert re.search("where: the headers of [ab].safetensors are those of `mlp`", done.err)
    for name in "ab":
        save(pair / f"{name}.safetensors", {**mlp_state(0), "odd": torch.zeros(2, 2)})
    done = rebasin(*call, "lama", *(("a.safetensors",) if call[0] == "arch" else ()))
    assert done.code == 2
    assert re.search("where: [ab].safetensors: `mlp` fits but for 1 tensor of which it says nothing: odd", done.err)


def test_architectures_are_listed_by_kind_and_filtered(rebasin: Rebasin) -> None:
    text = rebasin("arch", "list").out
    assert text.startswith(f"{len(shipped_specs())} shipped architectures\n")
    assert text.index("\nVision\n") < text.index("resnet-basic ") < text.index("\nDiffusion\n")
    assert max(map(len, text.splitlines())) <= 80
    some = rebasin("arch", "list", "ResNet", "--json").document["architectures"]
    assert {"resnet-basic", "resnet-bottleneck", "resnet-option-a"} <= {entry["name"] for entry in some}
    assert {entry["name"] for entry in rebasin("arch", "list", "audio", "--json").document["architectures"]} == {
        "whisper", "whisper-openai",
    }  # fmt: skip
    none = rebasin("arch", "list", "resnt")
    assert none.code == 2
    assert "did you mean" in none.err


# -- report ------------------------------------------------------------------------------------------------


def test_report_in_every_form(rebasin: Rebasin, pair: Path) -> None:
    pytest.importorskip("matplotlib")
    run = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 5, "--data", "data.npz").out
    Path("run.json").write_text(run)
    done = rebasin("report", "run.json", "--html", "r.html", "--markdown", "r.md", "--plot", "r.png")
    assert (done.code, done.out) == (0, "")
    assert rebasin("report", "run.json", "--json").out == run  # passed on, for the next command
    assert Path("r.html").read_text().startswith("<!doctype html>")
    assert Path("r.md").read_text().startswith("---\nbase_model:\n- a.safetensors\n")
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    again = rebasin("report", "run.json", "--html", "r.html")
    assert again.code == 2
    assert "r.html exists already" in again.err
    assert rebasin("report", "run.json", "--html", "r.html", "--force").code == 0


def test_report_as_text_is_that_of_the_terminal(rebasin: Rebasin, pair: Path) -> None:
    run = rebasin("interpolate", "a.safetensors", "b.safetensors", "--steps", 5, "--data", "data.npz").out
    done = rebasin("report", "--text", "-", stdin=run.encode())
    assert done.code == 0
    assert done.out == rebasin("report", stdin=run.encode()).out
    assert done.out.startswith("One basin: barrier ")
    assert "o⠂⠐ naive   ⠒⠒⠒⠒⠒ aligned\n" in done.out
    assert "\x1b[" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_report_from_the_pipe_to_stdout(rebasin: Rebasin, pair: Path) -> None:
    run = rebasin("align", "a.safetensors", "b.safetensors").out
    done = rebasin("report", "--markdown", "-", stdin=run.encode())
    assert done.code == 0
    assert "\n# B aligned onto A" in done.out


def test_report_refusals(rebasin: Rebasin, pair: Path) -> None:
    run = rebasin("align", "a.safetensors", "b.safetensors").out
    Path("run.json").write_text(run)
    assert rebasin("report", "run.json", "--plot", "r.png").code == 3  # no losses
    assert rebasin("report", "a.safetensors").code == 3
    assert rebasin("report", "absent.json").code == 4
    assert rebasin("report", "run.json", "--html", "run.json", "--force").code == 2
    assert rebasin("report", "run.json", "--html", "x", "--markdown", "x").code == 2
    assert rebasin("report", "run.json", "--html", "-", "--json").code == 2
    assert rebasin("report", stdin=b"").code == 2
    assert not Path("r.png").exists()


def test_several_runs_are_compared(rebasin: Rebasin, pair: Path) -> None:
    for method, name in (("weights", "one.json"), ("frank-wolfe", "two.json")):
        done = rebasin(
            "interpolate", "a.safetensors", "b.safetensors", "--steps", 3, "--data", "data.npz", "--method", method
        )
        Path(name).write_text(done.out)
    done = rebasin("report", "one.json", "two.json")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()][-3:] == ["run", "weights", "frank-wolfe"]
    assert rebasin("report", "one.json", "two.json", "--html", "r.html", "--markdown", "-").out.startswith("# 2 runs")
    assert "2 runs compared" in Path("r.html").read_text()
    assert rebasin("report", "one.json", "-", "--text", "-", stdin=Path("two.json").read_bytes()).code == 0
    assert rebasin("report", "-", "-").code == 2
    refused = rebasin("report", "one.json", "two.json", "--json")
    assert refused.code == 2
    assert "--json prints one run document" in refused.err
    assert rebasin("report", "one.json", "two.json", "--html", "two.json", "--force").code == 2


def test_the_suffix_of_a_plot_decides_its_form(rebasin: Rebasin, pair: Path) -> None:
    pytest.importorskip("matplotlib")
    path = ("interpolate", "a.safetensors", "b.safetensors", "--steps", 3, "--data", "data.npz")
    Path("run.json").write_text(rebasin(*path, "--plot", "p.svg").out)
    assert Path("p.svg").read_bytes().startswith(b"<?xml")
    for words in ((*path, "--data", "absent.npz"), ("report", "absent.json")):
        refused = rebasin(*words, "--plot", "p.jpg")
        assert refused.code == 2
        assert "p.jpg: a plot is a .png, .svg or .pdf file" in refused.err
    assert rebasin("report", "run.json", "--plot", "p.pdf").code == 0
    assert Path("p.pdf").read_bytes().startswith(b"%PDF")


def test_names_from_files_are_no_markup(rebasin: Rebasin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a<script>.safetensors", mlp_state(0))
    save(tmp_path / "[b]|c.safetensors", mlp_state(1))
    run = rebasin("align", "a<script>.safetensors", "[b]|c.safetensors").out
    page = rebasin("report", "--html", "-", stdin=run.encode()).out
    assert "a&lt;script&gt;" in page
    assert page.count("<script") == 1
    assert r"\[b]\|c.safetensors" in rebasin("report", "--markdown", "-", stdin=run.encode()).out


def test_the_number_of_symmetries_is_counted(rebasin: Rebasin, pair: Path) -> None:
    document = rebasin("arch", "show", "mlp", "a.safetensors", "--count", "--json").document
    sizes = [dim["size"] for dim in document["architecture"]["dims"].values() if "fixed" not in dim]
    found = document["architecture"]["log10_symmetries"]
    assert found == pytest.approx(sum(log10(factorial(size)) for size in sizes))
    shown = rebasin("arch", "show", "mlp", "a.safetensors", "--count").out
    assert f"symmetries  10^{found:.1f} permutations" in shown


def test_symmetries_within_an_owner_count_for_each_of_its_units(rebasin: Rebasin, workplace: Path) -> None:
    width, heads, inner = 8, 2, 5
    save(workplace / "a.safetensors", {"w": torch.zeros(heads * inner, width), "v": torch.zeros(3, heads * inner)})
    spec = "name: own\ndims:\n  inner: within head\ntensors:\n  w: (head inner) _\n  v: _ (head inner)\n"
    (workplace / "own.yaml").write_text(spec)
    done = rebasin("arch", "show", "own.yaml", "a.safetensors", "--count", "--set", "head=2", "--json")
    assert done.code == 0, done.err
    expected = log10(factorial(heads)) + heads * log10(factorial(inner))
    assert done.document["architecture"]["log10_symmetries"] == pytest.approx(expected)


def test_counting_needs_a_checkpoint(rebasin: Rebasin) -> None:
    done = rebasin("arch", "show", "mlp", "--count")
    assert (done.code, "arch show mlp CKPT --count" in done.err) == (2, True)
