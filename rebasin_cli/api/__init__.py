"""From Python: the commands as functions of modules, state dicts and paths.

A thin layer over `pipeline`, as the command line is: both build the same requests and call the same functions, so that
both give the same bytes. What is here turns Python values into requests and results into Python values. Nothing is
printed, nothing is written unless a result is saved, `resume=` names a file or `align_many` a folder, and inputs are
never changed.

What only a command needs has no keyword: `--max-barrier` is `path.barrier > x`, and `--dry-run` ends before there is a
result; `inspect` tells what headers say.
"""

from rebasin_cli.api.aligning_many import ManyAligned, align_many
from rebasin_cli.api.alignment import Alignment, align
from rebasin_cli.api.applying import Applied, apply
from rebasin_cli.api.calls import RebasinWarning
from rebasin_cli.api.inspecting import Inspection, inspect
from rebasin_cli.api.interpolating import Interpolation, interpolate
from rebasin_cli.api.lines import lerp
from rebasin_cli.api.merging import Merge, merge
from rebasin_cli.api.permutations import UnitPermutation
from rebasin_cli.api.repairing import Repaired, repair
from rebasin_cli.api.specs import Proof, Spec, derive, prove
from rebasin_cli.errors import ContentError, GateError, RebasinError, SystemFailure, UsageError

__all__ = [
    "Alignment",
    "Applied",
    "ContentError",
    "GateError",
    "Inspection",
    "Interpolation",
    "ManyAligned",
    "Merge",
    "Proof",
    "RebasinError",
    "RebasinWarning",
    "Repaired",
    "Spec",
    "SystemFailure",
    "UnitPermutation",
    "UsageError",
    "align",
    "align_many",
    "apply",
    "derive",
    "inspect",
    "interpolate",
    "lerp",
    "merge",
    "prove",
    "repair",
]
