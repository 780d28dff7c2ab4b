"""Examples of the `datasets` library (the extra `hub`): `--data hf:NAME[:SPLIT]`, and folders of `save_to_disk`.

Columns become inputs and targets by the rules of other sources; where there is more than one way to read them, they are
refused. Images are decoded by our own reader, with its limits. What a data set might bring in code is never run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import HUB_PREFIX, HUB_REVISION, is_on_hub
from rebasin_cli.checkpoints.hub import hub_failure, online, require_hub
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.evaluation.data import Dataset, as_dataset, check_limit, unanswered
from rebasin_cli.evaluation.images import ImageBytes, Preparation, prepare_images
from rebasin_cli.evaluation.inputs import from_names
from rebasin_cli.evaluation.options import Split
from rebasin_cli.files import open_regular
from rebasin_cli.safe_text import first_names

_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"hf:(?P<repo>{_PART}(?:/{_PART})?)(?:/(?P<config>[\w.-]+))?(?:@(?P<revision>{HUB_REVISION}))?(?::(?P<split>[\w.-]+))?"
)
_FORM = "hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]"
_HALVES: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "val", "valid")}
_MARKS = ({"dataset_info.json", "state.json"}, {"dataset_dict.json"})
_LABELS = ("targets", "target", "labels", "label")
_COMMIT = re.compile(r"/([0-9a-f]{40})/[^/]+$")
_CHUNK = 1024  # rows at a time
_REMEDY = (
    "rename its columns to `inputs` (or `inputs.NAME`) and `targets`, remove the others and name the folder of "
    "save_to_disk; or write a loader of your own: --data MODULE:FUNCTION"
)


@dataclass(frozen=True, slots=True)
class DataName:
    """A data set of the hub: `OWNER/NAME`, one of its configurations, a revision, and one of its splits."""

    repo: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None

    def of(self, split: str | None) -> str:
        """The name of one of its splits, or of all of it."""
        config = f"/{self.config}" if self.config else ""
        return (
            f"{HUB_PREFIX}{self.repo}{config}"
            + (f"@{self.revision}" if self.revision else "")
            + (f":{split}" if split else "")
        )


def data_name(text: str) -> DataName:
    """What `--data hf:…` names.

    Raises:
        UsageError: it is no such name.
    """
    found = _NAME.fullmatch(text)
    if found is None or ".." in text or "--" in found["repo"]:
        raise UsageError(f"--data {text}: that is no name of a data set on the hub", remedy=f"the form is {_FORM}")
    return DataName(found["repo"], found["config"], found["revision"], found["split"])


def is_hub_data(path: Path) -> bool:
    """Whether `datasets` reads it: `hf:NAME`, or a folder of `save_to_disk`."""
    return is_on_hub(str(path)) or is_saved(path)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return path.is_dir() and any(all((path / name).is_file() for name in names) for names in _MARKS)


def load_hub_data(
    path: Path, split: Split, limit: int | None, prepare: Preparation, *, labels: bool = True
) -> tuple[Dataset, tuple[str, ...]]:
    """The examples of a data set, and the names of its classes if it has them.

    Args:
        path: `hf:NAME`, or a folder of `save_to_disk`; split: the half that is taken where none is named.
        labels: False takes one without targets, too.

    Raises:
        UsageError: `datasets` is not installed. SystemFailure: the hub does not give it. ContentError: it is not clear
            what is an input and what a target, or the data are damaged.
    """
    check_limit(limit)
    text = str(path)
    saved = is_saved(path)
    name = None if saved else data_name(text)
    with _told(text, name):
        library = require_hub("datasets", f"--data {text}")
        made = _from_disk(library, path) if name is None else _from_hub(library, name)
        rows, taken = _split_of(library, made, split, name, text)
        roles = _roles(library, rows.features, text, labels)
        rows = rows.select(range(min(len(rows), limit if limit is not None else len(rows))))
        inputs = from_names(
            {role: _inputs(library, rows, column, prepare, text) for role, column in roles.inputs.items()}
        )
        targets = unanswered(inputs) if roles.targets is None else _numbers(rows, roles.targets, text)
        feature = rows.features.get(roles.targets)
    classes = tuple(feature.names) if isinstance(feature, library.ClassLabel) else ()
    return as_dataset(inputs, targets, _fetched(text, name, rows), taken, None), classes


def _fetched(text: str, name: DataName | None, rows: Any) -> str:
    """What was read, by its name: on the hub with the commit, by which `datasets` calls the folder that it keeps."""
    found = next(filter(None, (_COMMIT.search(file["filename"]) for file in rows.cache_files)), None)
    if name is None or found is None:
        return text
    return replace(name, revision=found[1]).of(name.split)


def _from_disk(library: Any, path: Path) -> Any:
    for entry in path.rglob("*"):
        if entry.suffix in (".arrow", ".json") and not entry.is_dir():
            os.close(open_regular(entry))  # the library would wait for a pipe
    return library.load_from_disk(str(path))


def _from_hub(library: Any, name: DataName) -> Any:
    if os.path.lexists(name.repo):
        raise UsageError(
            f"--data hf:{name.repo}: there is something of that name here, which `datasets` would read instead",
            remedy="run from another folder",
        )
    library.disable_progress_bars()
    with online():
        return library.load_dataset(name.repo, name.config, revision=name.revision)


def _split_of(library: Any, made: Any, half: Split, name: DataName | None, text: str) -> tuple[Any, str | None]:
    """One split of a data set, and which of two halves it is."""
    if not isinstance(made, library.DatasetDict):
        if not isinstance(made, library.Dataset):
            raise ContentError(f"--data {text}: it is a {type(made).__name__}, which is not read", remedy=_REMEDY)
        return made, None
    named = name.split if name else None
    wanted = (named,) if named else _HALVES[half]
    found = next((split for split in wanted if split in made), None)
    if found is None and named is None and len(made) == 1:
        return next(iter(made.values())), None
    if found is None:
        there = (
            "choose the half that is there with --split" if name is None else f"name one: {name.of(next(iter(made)))}"
        )
        raise ContentError(
            f"--data {text}: there is no split {' or '.join(wanted)} among {first_names(list(made), 8)}",
            remedy=there,
        )
    return made[found], None if named else half


@dataclass(frozen=True, slots=True)
class _Roles:
    """Which column is what: the inputs by their role (`inputs`, `inputs.NAME`), and the targets."""

    inputs: Mapping[str, str]
    targets: str | None


def _roles(library: Any, features: Mapping[str, Any], text: str, labels: bool) -> _Roles:
    """What each column is for.

    Raises:
        ContentError: there is more than one way to say.
    """
    own = [name for name in features if name == "inputs" or name.startswith("inputs.")]
    numbers = {name: kind for name, kind in features.items() if _kind(library, kind) is not None}
    answers = [name for name in _LABELS if name in numbers and _kind(library, numbers[name]) == "numbers"]
    if not answers:
        answers = [name for name, kind in numbers.items() if isinstance(kind, library.ClassLabel)]
    given = own or [name for name in numbers if name not in answers]
    targets = answers[0] if len(answers) == 1 else None
    wrong = "no column of numbers or images" if not given else ""
    if len(answers) > 1:
        wrong = f"{first_names(answers, 4)} may each be the targets"
    elif targets is None and labels:
        wrong = "no column is called `targets` or `label`, or holds classes"
    elif len(given) > 1 and not own:
        wrong = f"{first_names(given, 4)} may each be the inputs"
    if wrong:
        has = first_names([f"{name} ({_called(kind)})" for name, kind in features.items()], 8)
        raise ContentError(f"--data {text}: {wrong}; it has {has}", remedy=_REMEDY)
    return _Roles({name: name for name in own} or {"inputs": given[0]}, targets)


def _kind(library: Any, feature: Any) -> Literal["numbers", "image"] | None:
    """What a column holds; None for text and whatever else is no input of a network."""
    if isinstance(feature, library.Image):
        return "image"
    while not isinstance(feature, (library.Value, library.ClassLabel, library.Image)):
        if type(feature).__name__.startswith("Array") and hasattr(feature, "dtype"):
            return "numbers"
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and len(feature) == 1 else None)
        if inner is None:
            return None
        feature = inner
    if isinstance(feature, library.Image):
        return None  # lists of images
    return None if getattr(feature, "dtype", "") in ("string", "large_string", "binary", "large_binary") else "numbers"


def _called(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)[:30]


def _inputs(library: Any, rows: Any, column: str, prepare: Preparation, text: str) -> Tensor:
    if not isinstance(rows.features[column], library.Image):
        return _numbers(rows, column, text)
    undecoded = rows.cast_column(column, library.Image(decode=False)).with_format(None)
    images = []
    for i, row in enumerate(undecoded.select_columns(column)):
        held = row[column]
        if not isinstance(held, Mapping) or not held.get("bytes"):
            raise ContentError(
                f"--data {text}: image {i} of `{column}` is not in the data, but somewhere else", remedy=_REMEDY
            )
        images.append(ImageBytes(f"{text}, image {i}", held["bytes"]))
    return prepare_images(images, prepare)


def _numbers(rows: Any, column: str, text: str) -> Tensor:
    """A column as one tensor, (N, …)."""
    parts = []
    plain = rows.select_columns(column).with_format("numpy")
    for start in range(0, len(plain), _CHUNK):
        part = plain[start : start + _CHUNK][column]
        try:
            array = part if isinstance(part, np.ndarray) and part.dtype != object else np.stack(list(part))
            parts.append(torch.from_numpy(np.ascontiguousarray(array)))
        except (ValueError, TypeError) as error:
            raise ContentError(
                f"--data {text}: the rows of `{column}` are not arrays of one shape: {error}", remedy=_REMEDY
            ) from error
    if len({part.shape[1:] for part in parts}) > 1:
        raise ContentError(f"--data {text}: the rows of `{column}` are not arrays of one shape", remedy=_REMEDY)
    return torch.cat(parts) if parts else torch.zeros(0)


@contextmanager
def _told(text: str, name: DataName | None) -> Iterator[None]:
    """Tell what `datasets` raises in three parts.

    Raises:
        RebasinError: it raised.
    """
    try:
        yield
    except (RebasinError, MemoryError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and name is not None:
            kind = type(cause).__name__
            if kind in ("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError"):
                errors = require_hub("huggingface_hub", text).errors
                assert isinstance(cause, Exception)
                raise hub_failure(cause, text, name.repo, name.revision, errors) from error
            cause = cause.__cause__ or cause.__context__
        raise _failure(error, text, name) from error


def _failure(error: Exception, text: str, name: DataName | None) -> RebasinError:
    first = next(iter(str(error).splitlines()), "")
    if name is None:
        return ContentError(
            f"the data set cannot be read: {type(error).__name__}: {first}", where=text,
            remedy="write it again: dataset.save_to_disk(FOLDER)",
        )  # fmt: skip
    return SystemFailure(
        f"{text} cannot be loaded: {type(error).__name__}: {first}",
        remedy="check the name; if it is private or gated, log in with `hf auth login`; without a network it must be "
        "in the cache, by an earlier call",
    )
