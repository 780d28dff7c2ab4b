"""`align_many`: many checkpoints in A's order, in files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import AlignManyKeywords
from rebasin_cli.api.models import each_of, given_model
from rebasin_cli.api.showing import Row, Shown, spec_row
from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.members import MembersRequest, align_members
from rebasin_cli.report.document import MemberRecord, RunDocument

if TYPE_CHECKING:
    from rebasin_cli.api.models import Model


@dataclass(frozen=True, eq=False, repr=False)
class ManyAligned(Shown):
    """What `align_many` wrote.

    Attributes:
        document: the run document, as it lies beside the folder.
    """

    document: RunDocument

    @property
    def members(self) -> tuple[MemberRecord, ...]:
        """Every checkpoint, in the order in which they were named: `outputs`, `distance`, `moved`, and `failure`, which
        is empty where it was aligned."""
        return self.document.members.members if self.document.members else ()

    @property
    def failed(self) -> tuple[MemberRecord, ...]:
        """Those that could not be aligned, each with its `failure`."""
        return self.document.members.failed if self.document.members else ()

    def _title(self) -> str:
        return f"{len(self.members) - len(self.failed)} of {len(self.members)} checkpoints aligned"

    def _rows(self) -> list[Row]:
        return [spec_row(self.document), *((os.path.basename(m.input.path), _worth(m)) for m in self.members)]


def _worth(member: MemberRecord) -> str:
    if member.distance is None:
        return member.failure
    return f"cosine {member.distance.cosine_before:.4f} → {member.distance.cosine_after:.4f}"


@public(AlignManyKeywords)
def align_many(
    a: Model,
    models: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    **options: Unpack[AlignManyKeywords],
) -> ManyAligned:
    """Align many checkpoints onto A and write them, as `rebasin align A B1 B2 … -o FOLDER` does.

    Each is aligned as `align` aligns it alone, several at a time, and written with its permutation as soon as it is
    there; memory does not grow with their number. One that cannot be aligned is in `failed`, with a `RebasinWarning`,
    and the others are finished.

    Args:
        a: a module, a state dict, or a path.
        models: paths; `FILE:models.*` names all networks of a file.
        folder: where they go, under their own names; the run document lies beside it.
        options: those of `align`, and
            together: bring all into one common order, and not each onto A alone.
            resume: a run document to go on from, and to keep: what it has finished stays.
            summary: a file for the mean and the variance of every weight.
            cluster: "tcp://HOST:PORT", a scheduler file, or "local:4": workers of Dask do it.
            force: replace outputs that exist.

    Returns:
        What was written: `members`, `failed`, `document`.

    Raises:
        UsageError: keywords that cannot be carried out, or outputs that exist. ContentError, SystemFailure: A cannot be
            used, or the folder not be written.

    Example:
        >>> from safetensors.torch import save_file
        >>> for name, state in (("a", a), ("m1", a), ("m2", b)):
        ...     save_file(state, f"{name}.safetensors")
        >>> done = rebasin.align_many("a.safetensors", ["m1.safetensors", "m2.safetensors"], "seeds")
        >>> [member.distance.cosine_after > 0.99 for member in done.members]
        [True, True]
        >>> done.failed
        ()
    """
    talk = Talk(bars=options.get("progress", False))
    first = given_model("A", a, talk)
    if isinstance(models, str | os.PathLike):
        raise UsageError("models is one path", remedy="pass a list of paths, or align one with align()")
    named = [_path(i, one) for i, model in enumerate(models, 1) for one in each_of(_path(i, model))]
    choice = requests.matching(options)
    request = MembersRequest(
        first.source, tuple(given_model("a model", one, talk).source for one in named), Path(folder),
        requests.spec_choice(options), together=options.get("together", False), resume=_optional(options.get("resume")),
        summary=_optional(options.get("summary")), choice=choice, data=requests.fitted(options, (first,), choice),
        force=options.get("force", False),
    )  # fmt: skip
    done = ManyAligned(align_members(request, talk))
    for member in done.failed:
        talk.warn(f"{os.path.basename(member.input.path)} was not aligned: {member.failure}")
    return done


def _path(number: int, model: object) -> str:
    """A model as a path.

    Raises:
        UsageError: it is none, and has no name in the folder.
    """
    path = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise UsageError(
            f"model {number} is a {type(model).__name__}, and has no name in the folder",
            remedy="pass paths of checkpoints; align() takes networks in memory",
        )
    return path


def _optional(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
