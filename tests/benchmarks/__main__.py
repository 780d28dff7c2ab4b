"""`make bench`: the paper's loop and ours, side by side in one run.

    python -m tests.benchmarks --cases mlp,vgg16 --json out.json
    python -m tests.benchmarks --all
    python -m tests.benchmarks assignment --sizes 2048     exact assignment against scipy
    python -m tests.benchmarks recovery                    how often a planted permutation is found
    python -m tests.benchmarks optima                      objective and barrier by method, on trained pairs
    python -m tests.benchmarks merging                     five trained models merged
    python -m tests.benchmarks startup                     commands against `import torch`
    python -m tests.benchmarks derivation                  specs derived from networks: passes and seconds

Each measurement is a process of its own with one thread, and its processor time counts: on a quiet machine that is
the time on the wall, and on a shared one it still gives the ratio. `floor` is what cannot be saved: reading both
files, one product for every side that moves and one assignment a dim. Some cases have nothing to be compared with;
of those the whole `rebasin align` is timed, from files to files.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import CASES

FAST = ("mlp", "vgg16", "resnet20", "resnet20-x4", "resnet50", "gpt2-mlps", "gpt2", "regnetx-002")
SLOW = ("resnet20-x16", "resnet20-x32", "llama-block", "sd15-unet", "two-gigabytes", "llama-7b-1", "llama-7b-2",
        "llama-7b-4", "llama-7b-8")  # fmt: skip
WEIGHTS = ("tuned", "planted", "faint", "independent")
OTHERS = ("assignment", "recovery", "optima", "merging", "startup", "derivation")
"""Benchmarks that are programs of their own."""

PHASES = ("read", "similarity", "assignment", "objective", "progress", "apply", "write")

Figures = dict[str, Any]


def run_step(step: str, case: str, weights: str, folder: Path) -> Figures:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.work", step, case, weights, str(folder)]
    done = subprocess.run(command, env=_environment(step), stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def run_command(folder: Path, options: Sequence[str]) -> Figures:
    """`rebasin align` on the two files."""
    for stale in folder.glob("aligned*"):
        stale.unlink()
    output = folder / "aligned.safetensors"
    files = [str(folder / f"{name}.safetensors") for name in "ab"]
    command = [sys.executable, "-m", "rebasin_cli", "align", *files, "-o", str(output), "-q", *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=_environment("align"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    document = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rebasin align failed: {os.waitstatus_to_exitcode(status)}")
    match = document["match"]
    return {
        "seconds": match["seconds"], "wall": time.perf_counter() - began, "cpu": usage.ru_utime + usage.ru_stime,
        "objective": match["objective"][-1], "solves": match["solves"], "peak": usage.ru_maxrss * 1024,
    }  # fmt: skip


def _environment(step: str) -> dict[str, str]:
    threads = {} if step == "make" else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **threads}


def compare(case: str, weights: str, engines: Sequence[str], rounds: int, folder: Path) -> Figures:
    """Every engine in turn, as often as asked; of each its fastest round."""
    found: Figures = {"case": case, "weights": weights}
    for _ in range(rounds):
        for engine in engines:
            figures = run_step(engine, case, weights, folder)
            if engine not in found or figures["matched"] < found[engine]["matched"]:
                found[engine] = figures
    return found


def describe(found: Mapping[str, Any], goal: float | None) -> None:
    """Print the phases of each engine, and how they compare."""
    for engine in ("paper", "ours", "floor"):
        figures = found.get(engine)
        if figures is None:
            continue
        phases = "  ".join(f"{p} {figures['seconds'][p]:.3g}" for p in PHASES if figures["seconds"].get(p))
        more = f"  peak {figures['peak'] / 1e6:.0f} MB  {figures['solves']} solves" if "peak" in figures else ""
        print(f"    {engine:6}{figures['matched']:9.3f} s:  {phases}{more}")
    ours = found.get("ours")
    parts = []
    if ours and "paper" in found:
        paper = found["paper"]
        gained = (ours["objective"] - paper["objective"]) / abs(paper["objective"])
        wanted = f" (goal {goal:g})" if goal else ""
        parts.append(f"{paper['matched'] / ours['matched']:.1f} times as fast{wanted}, objective {gained:+.3%}")
    if ours and "floor" in found:
        parts.append(f"{ours['matched'] / found['floor']['matched']:.2f} times the floor")
    print(f"{found['case']}, {found['weights']}: {'; '.join(parts)}", flush=True)


def time_command(case: str, weights: str, limit: int | None, folder: Path, options: Sequence[str]) -> Figures:
    """The whole command; prints as it goes."""
    figures = run_command(folder, options)
    phases = "  ".join(f"{name} {took:.1f}" for name, took in figures["seconds"].items() if took)
    wanted = f" (limit {limit / 1e9:g} GB)" if limit else ""
    print(
        f"{case}, {weights}: {figures['cpu']:.1f} s of processor, {figures['wall']:.1f} s; "
        f"peak {figures['peak'] / 1e9:.2f} GB{wanted}\n    matching: {phases}  {figures['solves']} solves",
        flush=True,
    )
    return {"case": case, "weights": weights, "command": figures}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        importlib.import_module(f"tests.benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", help=f"comma-separated; by default {','.join(FAST)}; slow: {','.join(SLOW)}")
    parser.add_argument("--all", action="store_true", help="the slow cases, too: an hour, 20 GB of disk")
    parser.add_argument("--weights", help=f"some of {','.join(WEIGHTS)}; by default all, for whole commands planted")
    parser.add_argument("--engines", default="paper,ours,floor", help="some of paper, ours, floor")
    parser.add_argument("--rounds", type=int, default=1, help="of each the fastest counts")
    parser.add_argument("--align", default="", help="more options for `rebasin align`: '--memory 1GB'")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    names = options.cases.split(",") if options.cases else [*FAST, *(SLOW if options.all else ())]
    if unknown := set(names) - {*FAST, *SLOW}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join((*FAST, *SLOW))}")
    results = [_measure(name, weights, options) for name in names for weights in _weights(name, options.weights)]
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _weights(name: str, asked: str | None) -> Sequence[str]:
    if asked:
        return asked.split(",")
    # How long a whole command takes to come to rest from nothing in common says nothing of memory.
    return ("planted",) if CASES[name].command else WEIGHTS


def _measure(name: str, weights: str, options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        what = run_step("make", name, weights, folder)
        if not what["command"]:
            found = compare(name, weights, options.engines.split(","), options.rounds, folder)
            describe(found, what["goal"])
            return found
        return time_command(name, weights, what["memory"], folder, options.align.split())


if __name__ == "__main__":
    main()
