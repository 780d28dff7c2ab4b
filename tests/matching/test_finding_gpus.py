"""`--device auto` asks torch only where it may see a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rebasin_cli.matching.resources import resolve_device

_CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"


@pytest.mark.parametrize(
    ("version", "asks"),
    [
        (_CPU, False),
        ("cuda = None\nhip = None\n", False),
        ("__version__ = '2.4.0'\ncuda: Optional[str] = '12.4'\nhip: Optional[str] = None\n", True),
        ("cuda = '11.8'\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.2.41133'\n", True),
        (None, True),
    ],
)
def test_torch_is_asked_if_it_was_built_for_gpus(
    version: str | None, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    if version is not None:
        (package / "version.py").write_text(version)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch")
    assert resolve_device("auto") == ("cuda" if asks else "cpu")
    assert ("torch" in sys.modules) == asks
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("cuda") == "cuda"
