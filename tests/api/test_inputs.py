"""Modules, state dicts and paths: what is taken, what stays as it was, and what is refused and how."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rebasin_cli as rebasin
from rebasin_cli.api.showing import html_table, text_of
from rebasin_cli.checkpoints.held import held_checkpoint
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.tensors import scan
from tests.api.conftest import State, perceptron
from tests.hostile import HOSTILE
from tests.small import mlp_state, shuffled


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def storages(state: Mapping[str, Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in state.values()}


def test_tensors_in_memory_have_the_hash_of_their_file(tmp_path: Path, a: State) -> None:
    state: State = {**a, "half": torch.ones(3).half(), "steps": torch.tensor(7), "on": torch.tensor([True, False])}
    save_file(state, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as file:
        held = held_checkpoint("A", state)
        assert list(held) == list(file)
        assert scan(held).sha256 == scan(file).sha256


def test_a_planted_permutation_is_found_from_every_form(folder: Path, a: State, b: State) -> None:
    forms_a = (a, perceptron(a), "a.safetensors", folder / "a.safetensors")
    forms_b = (b, perceptron(b), "b.safetensors", folder / "b.safetensors")
    for one, two in zip(forms_a, forms_b[1:] + forms_b[:1], strict=True):
        found = rebasin.align(one, two, inputs=torch.randn(4, 32) if isinstance(two, nn.Module) else None)
        assert found.distance.after == 0.0
        assert all(torch.equal(found.aligned[key], a[key]) for key in a)
        assert found.gains["h.0"] > 0


def test_inputs_stay_and_results_share_nothing_with_them(a: State, b: State) -> None:
    models = perceptron(a).train(), perceptron(b).double().train()
    before = copy.deepcopy([dict(model.state_dict()) for model in models])
    found = rebasin.align(*models, inputs="4x32")
    path = rebasin.interpolate(*models, inputs="4x32", steps=3, loss=lambda m: next(m.parameters()).zero_().sum())
    merged = rebasin.merge(models, inputs="4x32")
    results = [found.aligned, path.at(0.0), path.at(0.5), path.at(1.0), merged.merged, rebasin.lerp(a, b, 0.0)]
    assert all(equal(model.state_dict(), state) for model, state in zip(models, before, strict=True))
    assert all(model.training and next(model.parameters()).requires_grad for model in models)
    given = storages(models[0].state_dict()) | storages(models[1].state_dict()) | storages(a) | storages(b)
    for result in results:
        assert not storages(result) & given
        assert len(storages(result)) == len(result)
    assert next(iter(found.aligned.values())).dtype == torch.float64


def test_what_is_done_to_inputs_later_changes_no_result(a: State, b: State, tmp_path: Path) -> None:
    expected = dict(rebasin.align(a, b).aligned)
    found = rebasin.align(a, b)
    for tensor in (*a.values(), *b.values()):
        tensor.zero_()
    assert equal(found.aligned, expected)
    for tensor in found.aligned.values():
        tensor.zero_()
    with open_checkpoint(found.save(tmp_path / "b.safetensors")) as written:
        assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_a_module_whose_names_mislead_gets_a_spec_of_its_own(a: State) -> None:
    class Two(nn.Module):
        """Its names and shapes are those of a chain, and its middle layer is residual."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc[0](x).relu()
            return self.fc[2](hidden + self.fc[1](hidden).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    one, two = Two(), Two()
    x = torch.randn(4, 5)
    found = rebasin.align(one, two, inputs=x)
    checked = found.document.architecture and found.document.architecture.checked
    assert checked is not None
    assert checked.error is not None
    assert "checked: outputs of Two" in repr(found)
    torch.testing.assert_close(found.module()(x), two(x))
    with pytest.raises(rebasin.ContentError, match="the network is another"):
        rebasin.align(one, two, inputs=x, spec="mlp")
    merged = rebasin.merge([one, two], inputs=x).module()
    assert merged(x).shape == (4, 3)
    again = rebasin.interpolate(one, two, permutation=found, steps=3, loss=lambda module: module(x).square().mean())
    assert again.permutation is not None
    assert all(torch.equal(again.permutation[dim], found.permutation[dim]) for dim in found.permutation)


def test_what_a_module_saves_besides_tensors_stays_its_own() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: object) -> None:
            raise AssertionError("there is none in the result")

    one, two = (nn.Sequential(Counting(4, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2))
    found = rebasin.align(one, two, inputs="4x4")
    assert list(found.aligned) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = torch.randn(3, 4)
    torch.testing.assert_close(found.module()(x), two(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.complex64])
def test_every_dtype_comes_back_bit_for_bit(dtype: torch.dtype, a: State) -> None:
    first = {key: (100 * tensor).to(dtype) for key, tensor in a.items()}
    found = rebasin.align(first, shuffled(first, 1)).aligned
    assert equal(found, first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_tensors_on_a_gpu_come_back_there(a: State, b: State) -> None:
    model = perceptron(b).cuda()
    found = rebasin.align(a, model, inputs="4x32")
    assert all(tensor.is_cuda for tensor in found.aligned.values())
    assert all(torch.equal(found.aligned[key].cpu(), a[key]) for key in a)
    path = rebasin.interpolate(model, a, loss=lambda module: next(module.parameters()).mean(), steps=3, inputs="4x32")
    assert all(tensor.is_cuda for tensor in path.at(0.5).values())
    assert next(found.module().parameters()).is_cuda


def test_views_and_parameters_are_plain_tensors_afterwards(a: State, b: State) -> None:
    odd = {key: nn.Parameter(t.t().contiguous().t() if t.dim() == 2 else t) for key, t in b.items()}
    found = rebasin.align(a, odd).aligned
    assert equal(found, a)
    assert all(type(tensor) is Tensor and tensor.is_contiguous() for tensor in found.values())


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.hidden = nn.Linear(9, 8, bias=False), nn.Linear(8, 8)
            self.write = nn.Linear(9, 8, bias=False)
            self.write.weight = self.read.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.hidden(self.read(x).relu()).relu() @ self.write.weight  # type: ignore[no-any-return]

    torch.manual_seed(0)
    one, two = Tied(), Tied()
    found = rebasin.align(one, two, inputs=torch.randn(4, 9))
    assert torch.equal(found.aligned["read.weight"], found.aligned["write.weight"])
    x = torch.randn(3, 9)
    torch.testing.assert_close(found.module()(x), two(x))


A = mlp_state(0)
B = shuffled(A, 1)
REFUSED: Mapping[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "list": (lambda: rebasin.align([1], B), rebasin.UsageError, "A is a list"),  # type: ignore[arg-type]
    "nothing": (lambda: rebasin.align({}, B), rebasin.ContentError, "no tensors"),
    "inside": (lambda: rebasin.align(A, {"net": B}), rebasin.ContentError, r"checkpoint\['net'\]"),  # type: ignore[dict-item]
    "numbers": (lambda: rebasin.align(A, {1: torch.ones(2)}), rebasin.ContentError, "names its tensors"),  # type: ignore[dict-item]
    "arrays": (lambda: rebasin.align(A, {"x": torch.ones(2).numpy()}), rebasin.ContentError, "from_numpy"),  # type: ignore[dict-item]
    "meta": (lambda: rebasin.align(A, perceptron(B).to("meta")), rebasin.ContentError, "meta device"),
    "lazy": (lambda: rebasin.align(A, nn.LazyLinear(3)), rebasin.ContentError, "not initialised"),
    "sparse": (lambda: rebasin.inspect({"x": torch.eye(3).to_sparse()}), rebasin.ContentError, "sparse_coo"),
    "wide": (lambda: rebasin.inspect({"x": torch.eye(3).to(torch.complex128)}), rebasin.ContentError, "complex128"),
    "other keys": (lambda: rebasin.align(A, nn.Linear(2, 2)), rebasin.ContentError, "B does not"),
    "no file": (lambda: rebasin.align("nowhere.pt", B), rebasin.SystemFailure, "there is no such file"),
    "nan": (lambda: rebasin.align(A, {**B, "fc.0.bias": torch.full((8,), float("nan"))}), rebasin.ContentError, "NaN"),
    "keyword": (lambda: rebasin.align(A, B, sede=1), TypeError, "did you mean `seed`"),  # type: ignore[call-arg]
    "choice": (lambda: rebasin.align(A, B, method="weight"), rebasin.UsageError, "did you mean `weights`"),  # type: ignore[arg-type]
    "range": (lambda: rebasin.align(A, B, threads=0), rebasin.UsageError, "from 1 to 1024"),
    "type": (lambda: rebasin.align(A, B, freeze="h.0"), rebasin.UsageError, "expected a list"),
    "unread": (lambda: rebasin.align(A, B, epochs=3), rebasin.UsageError, "does not read it"),
    "no data": (lambda: rebasin.align(A, B, method="ste"), rebasin.UsageError, "add data=PATH"),
    "no examples": (lambda: rebasin.align(A, B, limit=3), rebasin.UsageError, "limit= is for examples"),
    "class": (lambda: rebasin.align(A, B, network=nn.Linear), rebasin.UsageError, "network is a class"),  # type: ignore[arg-type]
    "no network": (lambda: rebasin.align(A, B, inputs=torch.ones(1)), rebasin.UsageError, "add network=MODULE"),
    "no module": (lambda: rebasin.align(A, B).module(), rebasin.UsageError, "load_into"),
    "other module": (lambda: rebasin.align(A, B).load_into(nn.Linear(2, 2)), rebasin.ContentError, "not in the result"),
    "permutation": (lambda: rebasin.apply({"h": 1}, B), rebasin.UsageError, "permutation is a dict"),  # type: ignore[arg-type]
    "one model": (lambda: rebasin.merge([A]), rebasin.UsageError, "two models or more"),
    "models": (lambda: rebasin.merge(A), rebasin.UsageError, "pass a list"),  # type: ignore[arg-type]
    "lerp": (lambda: rebasin.lerp(A, perceptron(A).fc[0], 0.5), rebasin.ContentError, "other tensors"),  # type: ignore[union-attr,operator]
    "lambda": (lambda: rebasin.lerp(A, B, 2), rebasin.UsageError, "between 0"),
    "format": (lambda: rebasin.align(A, B).save("x.pt"), rebasin.UsageError, "another format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_inputs_are_one_clear_error(name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "--" not in str(caught.value).replace("`rebasin", "")


def test_entries_that_are_no_tensors_are_left_out_with_a_warning(a: State, b: State) -> None:
    with pytest.warns(
        rebasin.RebasinWarning, match=r"<B>: an entry that is no tensor is left out: epoch \(int\)"
    ) as told:
        found = rebasin.align(a, {**b, "epoch": 3})  # type: ignore[dict-item]
    assert list(found.aligned) == list(b)
    assert told[0].filename == __file__


def test_outputs_are_replaced_only_by_force_and_inputs_never(folder: Path) -> None:
    found = rebasin.align("a.safetensors", "b.safetensors")
    found.save("x.safetensors")
    with pytest.raises(rebasin.UsageError, match="force=True"):
        found.save("x.safetensors")
    found.save("x.safetensors", force=True)
    with pytest.raises(rebasin.UsageError, match="both an input and"):
        found.save("b.safetensors", force=True)


def test_names_from_outside_cannot_act_in_a_notebook() -> None:
    for text in HOSTILE.values():
        shown = html_table(text, [(text, text)])
        assert "<script" not in shown
        assert "onload='" not in shown
        assert not hidden(shown)
        assert not hidden(text_of(text, [(text, text)]))
    with pytest.warns(rebasin.RebasinWarning) as told:
        rebasin.inspect({f"fc.0.{HOSTILE['colour']}": torch.ones(2)})
    assert "\x1b" not in str(told[0].message)


def hidden(text: str) -> bool:
    """Whether a text has characters that act or do not show."""
    return bool(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", text))


def test_a_module_in_training_is_judged_in_evaluation_mode(model: nn.Module, second_model: nn.Module) -> None:
    modes: list[bool] = []

    def loss(module: nn.Module) -> Tensor:
        modes.append(module.training or torch.is_grad_enabled())
        return next(module.parameters()).square().mean()

    path = rebasin.interpolate(model.train(), second_model, loss=loss, steps=3, inputs="4x32")
    assert not any(modes)
    assert path.barriers.keys() == {"naive", "aligned"}
    assert path.barrier == path.barriers["aligned"]
    assert "unchanged" in repr(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "NoneType, which is no number"), ("x", "str, which is no number"), (torch.ones(3), r"shape \[3\]")],
)
def test_a_loss_has_to_return_a_number(value: object, words: str, a: State, b: State) -> None:
    with pytest.raises(rebasin.UsageError, match=words):
        rebasin.interpolate(a, b, loss=lambda state: value, steps=3)


def test_a_loss_may_be_nan_and_what_it_raises_is_told(a: State, b: State) -> None:
    with pytest.warns(rebasin.RebasinWarning, match="not finite"):
        path = rebasin.interpolate(a, b, loss=lambda state: float("nan"), steps=3)
    assert path.barrier != path.barrier
    with pytest.raises(rebasin.UsageError, match="raised KeyError: 'absent'") as caught:
        rebasin.interpolate(a, b, loss=lambda state: state["absent"], steps=3)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "test_inputs.py" in caught.value.where
    with pytest.raises(rebasin.UsageError, match="two judges"):
        rebasin.interpolate(a, b, loss=lambda state: 1.0, data=(torch.ones(3, 32), torch.zeros(3)), steps=3)


def test_examples_in_memory_judge_as_a_file_does(folder: Path, a: State, b: State) -> None:
    import numpy as np

    data = np.load("data.npz")
    held = rebasin.interpolate(a, b, data=(data["inputs"], data["targets"]), steps=3)
    file = rebasin.interpolate(a, b, data="data.npz", steps=3)
    assert held.losses == file.losses
    assert len(held.plot().axes) == 2


def test_a_module_with_batchnorm_is_matched_by_its_loss() -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))

    one, two = network(0), network(1)
    batches = DataLoader(TensorDataset(torch.randn(40, 5), torch.arange(40) % 3), batch_size=8)
    with pytest.warns(rebasin.RebasinWarning, match="running statistics"):
        found = rebasin.align(one, two, data=batches, method="ste", epochs=1)
    assert found.document.match
    assert found.document.match.method == "ste"
    with pytest.warns(rebasin.RebasinWarning, match="running statistics"):
        again = rebasin.align(one, two, data=iter(batches), method="ste", epochs=1)
    assert equal(found.aligned, again.aligned)


def test_threads_hold_for_the_call_alone(a: State, b: State) -> None:
    before = torch.get_num_threads()
    rebasin.align(a, b, threads=before + 1)
    assert torch.get_num_threads() == before


def test_bars_are_shown_when_asked_for(a: State, b: State, capsys: pytest.CaptureFixture[str]) -> None:
    rebasin.align(a, b)
    assert capsys.readouterr() == ("", "")
    rebasin.align(a, b, progress=True)
    assert capsys.readouterr().out == ""


def test_a_plot_without_matplotlib_is_refused(a: State, b: State, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rebasin.interpolate(a, b, loss=lambda state: 1.0, steps=3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rebasin.UsageError, match=r"matplotlib, which is not installed[\s\S]*rebasin-cli\[plot\]"):
        path.plot()


def test_what_is_in_memory_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: State) -> None:
    places = [tmp_path / name for name in ("work", "temporary", "state", "cache")]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    for name, place in zip(("TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"), places[1:], strict=True):
        monkeypatch.setenv(name, str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    models = perceptron(a), perceptron(shuffled(a, 1))
    rebasin.align(*models, inputs="4x32").aligned  # noqa: B018
    rebasin.interpolate(*models, inputs="4x32", steps=3, loss=lambda module: 1.0).at(0.5)
    rebasin.merge(models, inputs="4x32").merged  # noqa: B018
    assert not [file for place in places for file in place.rglob("*")]


def test_merges_and_points_are_fitted_to_their_networks(a: State) -> None:
    other, inputs = mlp_state(4), torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    models = perceptron(a), perceptron(other)
    fit: dict[str, Any] = {"polish": "least-squares", "fit_data": inputs}
    plain, merged = rebasin.merge([a, other]).merged, rebasin.merge([a, other], **fit)
    path = rebasin.interpolate(*models, **fit)

    def error(state: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            wanted = (models[0](inputs) + models[1](inputs)) / 2
            return float((perceptron(dict(state))(inputs) - wanted).square().mean())

    assert error(merged.merged) < 0.8 * error(plain)
    assert error(path.at(0.5)) < 0.8 * error(plain)
    assert torch.equal(path.at(0.0)["fc.0.weight"], a["fc.0.weight"])
    for wrong in ({"polish": "least-squares"}, {**fit, "polish_steps": 3}, {"polish": "more"}):
        with pytest.raises(rebasin.UsageError, match="polish"):
            rebasin.merge([a, other], **wrong)
