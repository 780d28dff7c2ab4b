"""Run documents with every field in use, for the tests of this room."""

from __future__ import annotations

import math

from msgspec.structs import replace

from rebasin_cli.report.document import (
    ArchitectureRecord,
    CheckedRecord,
    CheckRecord,
    DimRecord,
    DistanceRecord,
    InputRecord,
    ListedArchitecture,
    MatchRecord,
    PlanRecord,
    RunDocument,
    SpecOptions,
    TensorRecord,
)
from rebasin_cli.report.measurements import BarrierRecord, CurveRecord, PlanePointRecord, PlaneRecord

_HASH = "0123456789abcdef" * 4
LAM = tuple(i / 8 for i in range(9))
NAIVE = CurveRecord(
    loss=tuple(0.3 + 1.2 * math.sin(math.pi * x) ** 2 for x in LAM),
    accuracy=tuple(0.9 - 0.4 * math.sin(math.pi * x) ** 2 for x in LAM),
    barrier=1.2,
    barrier_to_mean=1.2,
)
ALIGNED = CurveRecord(
    loss=tuple(0.3 + 0.01 * math.sin(math.pi * x) for x in LAM),
    accuracy=(0.9,) * 9,
    barrier=0.01,
    barrier_to_mean=0.01,
)
BARRIER = BarrierRecord(LAM, NAIVE, ALIGNED, "/data/digits.npz", "test", 360)
ARCHITECTURE = ArchitectureRecord(
    name="mlp",
    title="multilayer perceptron",
    sha256=_HASH,
    proved=True,
    prefix="fc.",
    sizes={"head_dim": 64},
    sections={"tensors": 6, "buffers": 1, "ignored": 1},
    options=SpecOptions({"n_heads": 4}, ("h.9",), ("ema.*",)),
    dims={
        "h.0": DimRecord(size=256, moved=0.98828125, gain=34.5, relative=0.65),
        "h.1": DimRecord(size=10, moved=0.0, fixed="these are the outputs"),
        "v.0": DimRecord(size=64, moved=1.0, gain=0.0, relative=1.02, owner="h.0"),
    },
    fixed=("h.1",),
    stays={"outputs": "they are named"},
)
ALIGN = RunDocument(
    command="align",
    inputs={"a": InputRecord("/models/a.safetensors", _HASH), "b": InputRecord("/models/b.safetensors", _HASH)},
    architecture=ARCHITECTURE,
    match=MatchRecord("weights", 0, (5.9, 104.5, 105.0), "converged", {"assignment": 0.2}, 28, {"scipy": 28}, 1e-6),
    distance=DistanceRecord(17.91, 11.07, 0.0358, 0.6316),
    outputs={"aligned": "/models/b.aligned.safetensors", "permutation": "/models/b.permutation.safetensors"},
    warnings=("heads could not be sized",),
    versions={"rebasin": "0.1.0"},
    peak_memory_bytes=300_000_000,
)
INTERPOLATE = RunDocument(
    command="interpolate",
    inputs=ALIGN.inputs,
    architecture=ARCHITECTURE,
    match=ALIGN.match,
    distance=ALIGN.distance,
    barrier=BARRIER,
    outputs=ALIGN.outputs,
    warnings=ALIGN.warnings,
    versions=ALIGN.versions,
    peak_memory_bytes=300_000_000,
)
INSPECT = RunDocument(
    command="inspect",
    inputs={"checkpoint": InputRecord("/models/a.safetensors")},
    tensors={
        "fc.0.weight": TensorRecord("BF16", (256, 64), "tensors", "h.{i} h.{prev i}", 8),
        "x": TensorRecord("I64", ()),
    },
)
OTHERS = RunDocument(
    command="arch check",
    architectures=(ListedArchitecture("mlp", "perceptron", _HASH, "/specs/mlp.yaml", True),),
    checks=(CheckRecord("covers the checkpoint", False, "1 difference"),),
    plan=PlanRecord(100, 50, {"aligned": "/x"}, 300, 0.5),
)
CHECKED = replace(
    ALIGN,
    architecture=replace(
        ARCHITECTURE,
        file="/specs/own.yaml",
        proof="on my_module:make on 2026-01-31",
        checked=CheckedRecord("my_module:make", 4, 9, 2.5e-16),
    ),
)
PLANE = RunDocument(
    command="plane",
    inputs=ALIGN.inputs,
    architecture=ARCHITECTURE,
    distance=ALIGN.distance,
    plane=PlaneRecord(
        x=(-1.0, 0.5, 2.0),
        y=(-1.0, 2.0),
        loss=((0.3, 0.2, 0.3), (0.9, 1.4, math.nan)),
        accuracy=((0.8, 0.9, 0.8), (0.5, 0.4, math.nan)),
        points={"A": PlanePointRecord(0.0, 0.0, 0.2, 0.9), "π(B)": PlanePointRecord(1.0, 0.0, 0.2, 0.9)},
        data="/data/digits.npz",
        split="test",
        examples=360,
        missing=1,
    ),
)
EXAMPLES = {
    "plane": PLANE,
    "align": ALIGN,
    "interpolate": INTERPOLATE,
    "inspect": INSPECT,
    "others": OTHERS,
    "checked": CHECKED,
}
