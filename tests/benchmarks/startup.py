"""How long commands take to answer, as a share of what `import torch` takes in the same run.

    python -m tests.benchmarks startup --rounds 5

Every command is a process of its own with one thread; its processor time counts, of each the fastest round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.small import environment

DATA = Path(__file__).parents[1] / "data"
PAIR = tuple(str(DATA / f"digits_mlp_{name}.safetensors") for name in "ab")
COMMANDS = {
    "--help": ("--help",),
    "arch list": ("arch", "list"),
    "inspect": ("inspect", PAIR[0]),
    "align --dry-run": ("align", *PAIR, "--dry-run", "-o", "aligned.safetensors"),
    "align": ("align", *PAIR, "-f", "-o", "aligned.safetensors"),
}


def seconds(arguments: Sequence[str], folder: str) -> float:
    """Processor time of a Python process."""
    surroundings = environment()
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has bytecode, as torch has here
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=surroundings,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed: {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks startup", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each the fastest counts")
    options = parser.parse_args(arguments)
    every = {"import torch": ("-c", "import torch")}
    every |= {f"rebasin {name}": ("-m", "rebasin_cli", *words) for name, words in COMMANDS.items()}
    with tempfile.TemporaryDirectory() as folder:
        took = {name: min(seconds(words, folder) for _ in range(options.rounds)) for name, words in every.items()}
    for name, found in took.items():
        print(f"{name:26}{found:7.2f} s of processor  {found / took['import torch']:5.2f} times `import torch`")
