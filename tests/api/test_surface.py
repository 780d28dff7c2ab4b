"""What `import rebasin_cli` offers: light, typed, documented, and every example runs."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_cli as rebasin
from rebasin_cli import api
from rebasin_cli.api import keywords
from rebasin_cli.pipeline.method_choice import MatchChoice
from tests.api.conftest import State
from tests.small import ROOT, environment

FUNCTIONS = ("align", "align_many", "apply", "derive", "inspect", "interpolate", "lerp", "merge", "prove", "repair")
CLASSES = (
    "Alignment",
    "Applied",
    "Inspection",
    "Interpolation",
    "ManyAligned",
    "Merge",
    "Proof",
    "Repaired",
    "Spec",
    "UnitPermutation",
)


def _ours(kind: type) -> dict[str, Any]:
    return dict(vars(kind)) if kind.__module__.startswith("rebasin_cli") else {}


def documented() -> Iterator[tuple[str, Any]]:
    """Every public function, class, method and property, by its name."""
    for name in (*FUNCTIONS, *CLASSES):
        value = getattr(rebasin, name)
        yield name, value
        if name in CLASSES:
            members = {own: member for kind in value.__mro__[::-1] for own, member in _ours(kind).items()}
            for own, member in members.items():
                if not own.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{name}.{own}", member


DOCUMENTED = dict(documented())


def test_the_package_hands_on_the_whole_api() -> None:
    assert rebasin.__all__ == api.__all__
    assert set(api.__all__) <= set(dir(rebasin))
    with pytest.raises(AttributeError, match="nonsense"):
        rebasin.nonsense  # noqa: B018
    stub = (ROOT / "rebasin_cli" / "__init__.pyi").read_text()
    assert all(f"    {name} as {name}," in stub for name in api.__all__)


def test_torch_is_loaded_by_a_call_alone() -> None:
    script = (
        "import sys, rebasin_cli as rebasin\n"
        "assert len([name for name in sys.modules if name.startswith('rebasin_cli')]) == 1\n"
        "rebasin.align, rebasin.merge, rebasin.Alignment, help\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'rich', 'typer', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_users_get_types(tmp_path: Path) -> None:
    """As mypy says of a file that imports the package; what `make lint` has looked at is not looked at again."""
    (tmp_path / "user.py").write_text(
        "from torch import nn\n"
        "import rebasin_cli as rebasin\n"
        "found = rebasin.align(nn.Linear(2, 2), {}, seed=0, freeze=['h.0'])\n"
        "reveal_type(found.aligned)\n"
        "reveal_type(rebasin.interpolate('a', 'b', loss=lambda state: 1.0).barrier)\n"
        "rebasin.align('a', 'b', method='wieghts')\n"
        "rebasin.align('a', 'b', sede=1)\n"
        "rebasin.merge(['a', 'b'], weights='x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(tmp_path / "user.py")],
        env=environment(), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line[line.index("user.py") :] for line in done.stdout.splitlines() if "user.py" in line]
    assert [line.split(":")[1] for line in lines if ": note: Reveal" in line or ": error:" in line] == list("45678")
    assert 'note: Revealed type is "dict[str, torch' in lines[0].replace("builtins.", "")
    assert "float | None" in lines[1].replace("builtins.", "") or "Union[builtins.float, None]" in lines[1]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_part_is_documented(name: str) -> None:
    value = DOCUMENTED[name]
    text = inspect.getdoc(value)
    assert text, name
    if callable(value) and not inspect.isclass(value):
        assert "Example:" in text, name
        assert "Raises:" in text, name


def test_every_example_runs(a: State, b: State, folder: Path, model: nn.Module, second_model: nn.Module) -> None:
    ran = 0
    for name, value in DOCUMENTED.items():
        text = inspect.getdoc(value) or ""
        if ">>>" not in text:
            continue
        for file in folder.glob("*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

        def loss(module: nn.Module) -> float:
            return float(next(module.parameters()).square().mean())

        data = (torch.randn(20, next(iter(a.values())).shape[-1]), torch.zeros(20, dtype=torch.int64))
        known = {
            "rebasin": rebasin, "torch": torch, "Path": Path, "loss": loss,
            "a": dict(a), "b": dict(b), "model_a": model, "model_b": second_model, "data": data,
        }  # fmt: skip
        example = doctest.DocTestParser().get_doctest(text, known, name, None, None)
        told: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rebasin.RebasinWarning)
            failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append).failed
        assert not failed, "".join(told)
        ran += 1
    assert ran > 15


def test_defaults_are_those_of_the_command() -> None:
    shown = {name: parameter.default for name, parameter in inspect.signature(rebasin.align).parameters.items()}
    plain = {field.name: field.default for field in fields(MatchChoice) if field.name in shown}
    assert plain == {name: shown[name] for name in plain}
    assert shown["start"] == "anchored"
    assert shown["learning_rate"] is None, "the methods have different ones"
    assert inspect.signature(rebasin.interpolate).parameters["steps"].default == 25
    assert inspect.signature(rebasin.merge).parameters["steps"].default == 5


@pytest.mark.parametrize("command", ["align", "interpolate", "merge", "apply", "inspect", "repair"])
def test_every_option_of_a_command_is_a_keyword(command: str) -> None:
    from typer.main import get_command

    from rebasin_cli.cli import program

    options = {
        option.removeprefix("--").replace("-", "_")
        for parameter in get_command(program()).commands[command].params  # type: ignore[attr-defined]
        for option in parameter.opts
        if option.startswith("--")
    }
    others = {
        "arch": "spec", "output": "save", "report": "save", "plot": "plot", "save_permutation": "permutation.save",
        "at": "at", "weight": "at", "force": "save", "dry_run": "", "json": "", "quiet": "", "verbose": "",
        "format": "", "color": "", "no_align": "align",
        "from": "align_many", "together": "align_many", "summary": "align_many",
        "debug": "", "resume": "", "end": "ends", "max_barrier": "barrier",
        "max_loss": "document.verdict", "at_least_as_good": "document.verdict", "allow_non_finite": "", "help": "",
    }  # fmt: skip
    known = inspect.signature(getattr(rebasin, command)).parameters
    assert options - set(known) <= set(others), "an option that no keyword stands for"


def test_keywords_in_the_place_of_options() -> None:
    told = {
        "add --data FILE or --network MODULE:FACTORY": "add data=FILE or network=MODULE:FACTORY",
        "--method ste looks at examples": "method='ste' looks at examples",
        "`rebasin align A B --quality high` may help": "`rebasin align A B --quality high` may help",
        "--epochs 3: unread": "epochs=3: unread",
        "replace it with --force, or name another with -o": "replace it with force=True, or name another with path",
        "hf download x --local-dir y": "hf download x --local-dir y",
        "name a spec with --arch that moves both": "name a spec with spec that moves both",
    }
    assert {text: api.calls.as_keywords(text) for text in told} == told
    assert keywords.choices()["method"][:2] == ("weights", "frank-wolfe")
