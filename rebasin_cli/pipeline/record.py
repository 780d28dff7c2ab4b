"""From what the solvers return, and what their figures depend on, to what the run document keeps."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

import rebasin_cli
from rebasin_cli.checkpoints.checkpoint import place_in_cache, split_address
from rebasin_cli.files import sha256_of
from rebasin_cli.pipeline.layouts import SpecChoice, proof_text
from rebasin_cli.report.document import (
    ArchitectureRecord,
    CheckedRecord,
    DimRecord,
    DistanceRecord,
    InputRecord,
    MatchRecord,
    SpecOptions,
    TrialRecord,
)
from rebasin_cli.report.measurements import BinRecord, ScoreRecord
from rebasin_cli.spec import Dim, Layout, PermutationSpec

if TYPE_CHECKING:
    from rebasin_cli.evaluation.scores import Bin, Scores
    from rebasin_cli.matching.objective import Distance
    from rebasin_cli.matching.problem import MatchResult
    from rebasin_cli.pipeline.data_request import DataRequest


def input_record(path: Path, sha256: str | None) -> InputRecord:
    """A file by its absolute path, with the network in it that was named (`FILE:KEY`); `-` stays what it is."""
    file, key = split_address(path)
    if str(file) == "-":
        return InputRecord(str(path), sha256)
    repository, commit = place_in_cache(os.path.abspath(file)) or ("", "")
    return InputRecord(os.path.abspath(file) + (f":{key}" if key else ""), sha256, key or "", repository, commit)


def role_of(i: int) -> str:
    """What the i-th model of a merge is called."""
    return f"model.{i + 1}"


def score_record(found: Scores) -> ScoreRecord:
    """What one network is worth."""
    return ScoreRecord(found.loss, found.accuracy, found.metrics, bin_records(found.reliability))


def bin_records(bins: Sequence[Bin]) -> tuple[BinRecord, ...]:
    """Answers by their confidence."""
    return tuple(BinRecord(each.count, each.confidence, each.accuracy) for each in bins)


def data_records(request: DataRequest) -> dict[str, InputRecord]:
    """The files of examples by role."""
    named, files = (("data", request.path), ("fit-data", request.fit)), request.files()
    return {
        role: input_record(path, sha256_of(path) if path.is_file() else None)
        for role, path in named
        if path is not None and path in files
    }


def architecture_record(
    layout: Layout, choice: SpecChoice, distance: Distance | None = None, checked: CheckedRecord | None = None
) -> ArchitectureRecord:
    """The spec and its dims, with what a permutation does to each if there is one.

    Args:
        checked: how it is known that B permuted is still B; None where nothing is permuted.
    """
    dims = {
        name: DimRecord(
            size=dim.size,
            moved=distance.moved.get(name) if distance else None,
            gain=distance.gains.get(name) if distance else None,
            relative=distance.relative.get(name) if distance else None,
            owner=dim.owner,
            fixed=dim.fixed,
            symmetry=symmetry_of(dim),
            turned=distance.turned.get(name, 0.0) if distance and dim.signs else None,
        )
        for name, dim in layout.dims.items()
    }
    sections = {"tensors": 0, "buffers": 0, "ignored": 0}
    for bound in layout.tensors.values():
        sections[bound.section] += 1
    return structs.replace(
        spec_record(layout.spec),
        checked=checked,
        prefix=layout.prefix,
        sizes=dict(layout.sizes),
        sections=sections,
        options=SpecOptions(
            dict(choice.sizes),
            choice.freeze,
            choice.ignore,
            "" if choice.symmetry == "permutations" else choice.symmetry,
        ),
        dims=dims,
        fixed=tuple(name for name, dim in layout.dims.items() if dim.fixed is not None),
        text=layout.spec.text,
    )


def spec_record(spec: PermutationSpec) -> ArchitectureRecord:
    """What a spec is, before anything is bound to it."""
    proof = proof_text(spec)
    return ArchitectureRecord(
        name=spec.name,
        title=spec.title,
        sha256=spec.sha256,
        proved=spec.shipped or bool(proof),
        proof=proof,
        file=None if spec.shipped else os.path.abspath(spec.path),
        stays=dict(spec.stays),
    )


def symmetry_of(dim: Dim) -> str:
    """What may be done to a dim's units beside permuting them."""
    kinds = (("signs", dim.signs), ("scales", dim.scales), ("rotations", dim.rotated))
    return " ".join(name for name, has in kinds if has)


def match_record(result: MatchResult) -> MatchRecord:
    """How the permutation was found."""
    return MatchRecord(
        method=result.method,
        seed=result.seed,
        objective=tuple(map(float, result.objective)),
        stop=result.stop,
        seconds={name: round(float(value), 4) for name, value in result.seconds.items()},
        solves=result.solves,
        solvers=dict(result.solvers),
        gap=result.gap,
        losses=tuple(map(float, result.losses)),
        trials=tuple(TrialRecord(t.name, float(t.objective), round(t.seconds, 4), t.kept) for t in result.trials),
    )


def distance_record(distance: Distance) -> DistanceRecord:
    """Distance and cosine, before and after."""
    return DistanceRecord(distance.before, distance.after, distance.cosine_before, distance.cosine_after)


def output_metadata(
    command: str, layout: Layout, choice: SpecChoice, inputs: Mapping[str, InputRecord], **more: object
) -> dict[str, str]:
    """The recipe that goes into an output's `__metadata__`, every key under `rebasin.`."""
    recipe: dict[str, object] = {
        "version": rebasin_cli.__version__,
        "command": command,
        **{f"inputs.{role}": entry.sha256 for role, entry in inputs.items() if entry.sha256},
        "spec.name": layout.spec.name,
        "spec.sha256": layout.spec.sha256,
        **more,
    }
    options: dict[str, object] = {
        "set": dict(choice.sizes), "freeze": list(choice.freeze), "ignore": list(choice.ignore),
        **({"symmetry": choice.symmetry} if choice.symmetry != "permutations" else {}),
    }  # fmt: skip
    if any(options.values()):
        recipe["options"] = json.dumps(options, sort_keys=True)
    return {f"rebasin.{name}": str(value) for name, value in recipe.items()}


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes (Linux counts in kB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Of the program and of what its figures depend on."""
    found = {"rebasin": rebasin_cli.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "safetensors"):
        found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, str]:
    """What times depend on: system, processor, cores, threads of torch if that works, Python. Neither host nor user."""
    found = {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
        "python": platform.python_version(),
    }
    torch = sys.modules.get("torch")
    return found if torch is None else found | {"threads": str(torch.get_num_threads())}


@cache
def _processor() -> str:
    """Its name; Python's own function starts a program to find it, and finds nothing on Linux."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
