"""The wheel, installed into a clean environment: the command, the shipped specs and one alignment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `rebasin` of an environment that has the wheel, and its dependencies by path, but no source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy without what was built: an extension in place would hide a broken build
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in ("rebasin_cli", "architectures"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("rebasin_cli-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies are those of the running environment. A plain path line does not run that folder's own
    # .pth files, so that an editable install of this project stays out.
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin" / "rebasin"


def run(command: Path, *words: str, cwd: Path) -> str:
    """Run the installed command and return its stdout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([command, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_wheel_is_for_every_python_from_3_11_on(clean: Path) -> None:
    (wheel,) = clean.parents[2].glob("rebasin_cli-*.whl")
    assert "-cp311-abi3-" in wheel.name
    audit = [sys.executable, "-m", "abi3audit", "--strict", str(wheel)]
    done = subprocess.run(audit, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(wheel) as archive:
        (extension,) = (name for name in archive.namelist() if name.endswith(".so"))
        assert sys.platform != "linux" or b".symtab" not in archive.read(extension)  # stripped


def test_another_system_is_refused_in_one_message() -> None:
    code = "import os, sys, io, warnings; os.name = 'nt'; import rebasin_cli.start"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: rebasin runs on Linux and macOS"


def test_the_installed_package_is_used(clean: Path, tmp_path: Path) -> None:
    code = "import rebasin_cli; print(rebasin_cli.__file__)"
    found = subprocess.check_output([clean.parent / "python", "-c", code], cwd=tmp_path, text=True)
    assert str(clean.parent.parent) in found


def test_help_and_the_shipped_specs(clean: Path, tmp_path: Path) -> None:
    assert "align" in run(clean, "--help", cwd=tmp_path)
    listed = run(clean, "arch", "list", cwd=tmp_path)
    for spec in (ROOT / "architectures").glob("*.yaml"):
        assert spec.stem in listed


def test_an_alignment(clean: Path, tmp_path: Path) -> None:
    pair = (str(DATA / f"digits_mlp_{which}.safetensors") for which in "ab")
    out = run(clean, "align", *pair, "-o", "aligned.safetensors", cwd=tmp_path)
    assert '"name": "mlp"' in out
    assert (tmp_path / "aligned.safetensors").exists()
    page = run(clean, "report", "aligned.rebasin.json", "--html", "-", cwd=tmp_path)
    assert page.startswith("<!doctype html>")
