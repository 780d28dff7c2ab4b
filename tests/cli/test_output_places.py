"""Names and places of outputs are judged before all that takes time; a plan is shown whatever room there is."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cli.conftest import Rebasin
from tests.small import mlp_state, save, shuffled

A, B, P = "a.safetensors", "b.safetensors", "p.safetensors"
DATA = ("--network", "net:make", "--data", "rows.npz")


@pytest.fixture
def nets(tmp_path: Path, rebasin: Rebasin, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two networks, a permutation, and a module that says when it is asked for a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    state = mlp_state(0, (8, 12, 12, 4))
    save(tmp_path / A, state)
    save(tmp_path / B, shuffled(state, 1))
    assert rebasin("align", A, B, "-o", "x.safetensors", "--save-permutation", P, "--report", "-").code == 0
    np.savez(tmp_path / "rows.npz", x=np.zeros((4, 8), np.float32), y=np.zeros(4, np.int64))
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\ndef make():\n    Path('built').touch()\n    raise RuntimeError('built')\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("align", A, B, *DATA, "-o", "y.pt"),
        ("align", A, B, *DATA, "-o", "absent/y.safetensors"),
        ("align", A, B, *DATA, "-o", "y.safetensors", "--save-permutation", "absent/p.safetensors"),
        ("align", A, B, "x.safetensors", *DATA, "-o", P),
        ("align", A, B, "x.safetensors", *DATA, "--together", "-o", "absent/y"),
        ("interpolate", A, B, *DATA, "--at", "0.5", "-o", "y.pt"),
        ("interpolate", A, B, *DATA, "--at", "best", "-o", "y.ckpt"),
        ("interpolate", A, B, *DATA, "-o", "y.safetensors"),
        ("interpolate", A, B, *DATA, "-o", "absent/points"),
        ("interpolate", A, B, *DATA, "--plot", "absent/y.png"),
        ("plane", A, B, *DATA, "--plot", "absent/y.png"),
        ("merge", A, B, *DATA, "-o", "y.pt"),
        ("merge", A, B, *DATA, "-o", "absent/y.safetensors"),
        ("repair", A, *DATA, "-o", "y.pt"),
        ("repair", A, *DATA, "--report", "absent/y.json"),
        ("apply", P, B, "-o", "y.pt"),
        ("apply", P, B, "-o", "absent/y.safetensors"),
        ("arch", "derive", "net:make", "--inputs", "4x8", "-o", "absent/y.yaml"),
    ],
    ids=lambda words: " ".join(word for word in words if word not in (A, B, P, *DATA)),
)
def test_bad_outputs_are_refused_before_a_network_is_read(rebasin: Rebasin, nets: Path, words: tuple[str, ...]) -> None:
    before = sorted(os.listdir(nets))
    done = rebasin(*words)
    assert done.code in (2, 4), done.err
    assert "y" in done.err or P in done.err
    assert any(said in done.err for said in ("under the name of", "there is no folder", "is a file", "names a file"))
    assert [name for name in sorted(os.listdir(nets)) if name != "__pycache__"] == before


@pytest.mark.parametrize(
    "words",
    [
        ("align", A, B, "-o", "y.safetensors"),
        ("align", A, B, "x.safetensors", "-o", "y"),
        ("interpolate", A, B, "--at", "0.5", "-o", "y.safetensors"),
        ("interpolate", A, B, "-o", "y", "--steps", "3"),
        ("merge", A, B, "-o", "y.safetensors"),
        ("apply", P, B, "-o", "y.safetensors"),
    ],
    ids=lambda words: " ".join(word for word in words if word not in (A, B, P)),
)
def test_a_plan_is_shown_where_the_disk_has_no_room(
    rebasin: Rebasin, nets: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=1000))
    planned = rebasin(*words, "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.document["plan"]["writes"] > 0
    assert "free on the disk" in planned.err
    assert any("free on the disk" in warning for warning in planned.document["warnings"])
    refused = rebasin(*words)
    assert refused.code == 4
    assert "free on the disk" in refused.err
