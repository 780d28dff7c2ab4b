"""`hf:OWNER/NAME[@REVISION][/PATH]`: a model of the Hugging Face hub, which becomes a folder or a file of its cache.

Asking the hub and keeping the cache is huggingface_hub's (the extra `hub`). Only what is needed is fetched: the weights
that would be read of the folder, and the small files beside them. No other module opens a connection.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from rebasin_cli.checkpoints.checkpoint import HUB_FORM, HubName, place_in_cache
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError, system_failure
from rebasin_cli.safe_text import first_names, shell_word

_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")  # configs and tokenizers, not what else lies there
_OFFLINE = "HF_HUB_OFFLINE"
_LOGIN = "log in with `hf auth login`"


def fetch(name: HubName, told: Callable[[str], None], advance: Callable[[int], None] = lambda amount: None) -> Path:
    """The file or folder of the cache that holds a model; what is missing there is fetched.

    Args:
        told: takes what the user has to know; advance: the bytes that were fetched.

    Raises:
        UsageError: huggingface_hub is not installed. SystemFailure: the hub does not give it, or cannot be reached and
            the cache does not have it. ContentError: there are no weights, or it is not clear which are meant.
    """
    hub = require_hub("huggingface_hub", str(name))
    with online(), _told(name, hub.errors):
        try:
            listed = hub.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            return _from_cache(name, hub, told, error)
        sizes = {entry.rfilename: entry.size or 0 for entry in listed.siblings}

        def get(file: str) -> Path:
            got = Path(hub.hf_hub_download(name.repo, file, revision=name.revision))
            advance(sizes.get(file, 0))
            return got

        return _fetch_files(name, sorted(sizes), get)


def require_hub(library: str, what: str) -> ModuleType:
    """Import `huggingface_hub` or `datasets`.

    Raises:
        UsageError: it is not installed.
    """
    import importlib

    try:
        found = importlib.import_module(library)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {library}, which cannot be imported: {error}", remedy="pip install 'rebasin-cli[hub]'"
        ) from error
    if library == "huggingface_hub":
        for part in ("errors", "utils", "utils.logging"):
            importlib.import_module(f"huggingface_hub.{part}")
        found.utils.disable_progress_bars()  # there are our own
        found.utils.logging.set_verbosity_error()
    return found


def stay_offline() -> None:
    """Have huggingface_hub, and what is built on it, open no connection, unless HF_HUB_OFFLINE=0 asks for it.

    Said to the library and not to the environment, where what the user said has to stay.
    """
    if not os.environ.get(_OFFLINE):
        _switch(True)


@contextmanager
def online() -> Iterator[None]:
    """As long as this lasts connections may be opened, unless the environment says HF_HUB_OFFLINE=1."""
    said = os.environ.get(_OFFLINE) or os.environ.get("HF_DATASETS_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    _switch((said or "").upper() in ("1", "ON", "YES", "TRUE"))
    try:
        yield
    finally:
        stay_offline()


def _switch(offline: bool) -> None:
    try:
        import huggingface_hub.constants
    except ImportError:
        return
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    if "datasets" in sys.modules:  # keeps a copy of it
        sys.modules["datasets"].config.HF_HUB_OFFLINE = offline


def _fetch_files(name: HubName, files: Sequence[str], get: Callable[[str], Path]) -> Path:
    """Fetch the weights that are meant and what lies beside them; `files`: all of the repository."""
    from rebasin_cli.checkpoints.sharded import INDEX_SUFFIX, choose_weights, shards_of, weights_among

    if name.path in files:
        folder = str(PurePosixPath(name.path).parent)
        chosen, wanted = PurePosixPath(name.path).name, [name.path]
        config = "config.json" if folder == "." else f"{folder}/config.json"
        wanted += [config] if config in files else []
    else:
        folder = name.path or "."
        beside = [file for file in files if str(PurePosixPath(file).parent) == folder]
        if not beside:
            raise _absent(name, files)
        by_name = {PurePosixPath(file).name: file for file in beside}
        if not any(weights_among(by_name)):
            raise _no_weights(name, files, sorted(by_name))
        chosen = choose_weights(sorted(by_name), Path(str(name)))
        wanted = [by_name[chosen]]
        wanted += [f for n, f in by_name.items() if n != chosen and any(fnmatch.fnmatch(n, p) for p in _BESIDE)]
    root = "" if folder == "." else f"{folder}/"
    got = {file: get(file) for file in wanted if not file.endswith(INDEX_SUFFIX) or file == root + chosen}
    if chosen.endswith(INDEX_SUFFIX):
        got |= {root + shard: get(root + shard) for shard in shards_of(got[root + chosen])}
    if len({place_in_cache(str(path)) for path in got.values()}) != 1:
        raise SystemFailure(f"{name} was changed while it was fetched", remedy="run again, or name a commit: @COMMIT")
    path = got[root + chosen]
    return path if name.path in files else path.parent


def _from_cache(name: HubName, hub: Any, told: Callable[[str], None], error: Exception) -> Path:
    """What an earlier call left in the cache.

    Raises:
        SystemFailure: it is not there.
    """
    try:
        folder = Path(
            hub.snapshot_download(name.repo, revision=name.revision, allow_patterns=[], local_files_only=True)
        )
    except (FileNotFoundError, ValueError):
        folder = Path()
    path = folder / name.path
    if folder == Path() or not os.path.lexists(path):
        offline = isinstance(error, hub.errors.OfflineModeIsEnabled)
        raise SystemFailure(
            f"{name} is not in the cache, and " + ("HF_HUB_OFFLINE is set" if offline else "the hub is not reached"),
            where="" if offline else f"{type(error).__name__}: {_first_line(error)}",
            remedy="unset HF_HUB_OFFLINE, or " * offline
            + f"fetch it where there is a network: hf download {name.repo}, and copy the cache (HF_HOME)",
        ) from error
    if not isinstance(error, hub.errors.OfflineModeIsEnabled):
        told(f"the hub is not reached, so {name} is the copy in the cache: commit {folder.name[:12]}")
    return path


def _absent(name: HubName, files: Sequence[str]) -> SystemFailure:
    return SystemFailure(
        f"{name.repo} has no file or folder {name.path}", where=str(name),
        remedy=f"it has {first_names([f for f in files if not f.startswith('.')], 6)}",
    )  # fmt: skip


def _no_weights(name: HubName, files: Sequence[str], beside: Sequence[str]) -> ContentError:
    from rebasin_cli.checkpoints.sharded import weights_among

    folders = sorted({str(PurePosixPath(file).parent) for file in files} - {".", name.path})
    inside = {at: [PurePosixPath(f).name for f in files if str(PurePosixPath(f).parent) == at] for at in folders}
    parts = [
        shell_word(str(HubName(name.repo, name.revision, folder)))
        for folder, names in inside.items()
        if any(weights_among(names))
    ]
    if parts:
        return ContentError(
            f"{name.repo} holds several networks", where=str(name), remedy=f"name one of them: {first_names(parts, 8)}"
        )
    return ContentError(
        f"{name.repo} has no weights that are read; it has {first_names(beside, 6)}", where=str(name),
        remedy="name one of its files, or get the safetensors of the same model",
    )  # fmt: skip


@contextmanager
def _told(name: HubName, errors: Any) -> Iterator[None]:
    """Tell what the hub answers in three parts.

    Raises:
        SystemFailure: the hub does not give what was named.
    """
    try:
        yield
    except RebasinError:
        raise
    except Exception as error:
        raise hub_failure(error, str(name), name.repo, name.revision, errors) from error


def hub_failure(error: Exception, name: str, repo: str, revision: str | None, errors: Any) -> RebasinError:
    """What huggingface_hub raises, in three parts; `errors`: its module of them."""
    kinds: Mapping[str, tuple[str, str]] = {
        "GatedRepoError": (f"{repo} is gated", f"ask for access on its page, and {_LOGIN}"),
        "RepositoryNotFoundError": (
            f"there is no {repo} on the hub, or it is private", f"check the name; if it is private, {_LOGIN}",
        ),
        "RevisionNotFoundError": (
            f"{repo} has no revision {revision}", "name a branch, a tag or a whole commit: @REVISION",
        ),
        "HFValidationError": (f"{name} is no name on the hub: {error}", f"the form is {HUB_FORM}"),
    }  # fmt: skip
    for kind, (what, remedy) in kinds.items():
        if isinstance(error, getattr(errors, kind)):
            return SystemFailure(what, where=name, remedy=remedy)
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return system_failure(error, Path(str(error.filename)), "write")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return SystemFailure(f"the hub does not let you read {repo} ({status})", where=name, remedy=_LOGIN)
    return SystemFailure(
        f"{repo} cannot be fetched: {type(error).__name__}: {_first_line(error)}", where=name,
        remedy="run again later: what has been fetched is kept",
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _is_unreachable(error: Exception) -> bool:
    """Whether nothing was answered: no network, none allowed, or a hub that is down."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OfflineModeIsEnabled", "ConnectError", "TimeoutException", "ConnectionError", "Timeout"})
