"""Proofs of specs that do not ship, remembered between runs: which spec, on which network, when.

They lie in `rebasin/proofs.json` under XDG_STATE_HOME, or under ~/.local/state. What they say changes words, never a
result: a file that is absent, damaged or cannot be written is as good as none.
"""

from __future__ import annotations

import datetime
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rebasin_cli
from rebasin_cli.errors import RebasinError
from rebasin_cli.files import read_json
from rebasin_cli.spec import PermutationSpec

_LARGEST = 1 << 20  # bytes of the file that are read: thousands of proofs
_KEPT = 1000  # proofs; the oldest are forgotten
_LONGEST = 200  # characters of a name that is shown


@dataclass(frozen=True, slots=True)
class RememberedProof:
    """A proof that held.

    Attributes:
        network: as it was named; when: the day, as 2026-01-31; version: of the program; error: of the outputs.
    """

    network: str
    when: str
    version: str
    error: float

    @staticmethod
    def now(network: str, error: float) -> RememberedProof:
        """One of today."""
        return RememberedProof(network, datetime.date.today().isoformat(), rebasin_cli.__version__, error)

    def __str__(self) -> str:
        return f"on {self.network} on {self.when}"


def proof_of(spec: PermutationSpec) -> RememberedProof | None:
    """The proof of a spec with the same canonical form, if there is one."""
    return _entry(_stored().get(_name(spec)))


def remember(spec: PermutationSpec, proof: RememberedProof) -> None:
    """Keep a proof; where that cannot be done, nothing happens."""
    from rebasin_cli.checkpoints.outputs import replacing_file

    stored = {key: value for key, value in _stored().items() if _entry(value) is not None and key != _name(spec)}
    stored = dict([*stored.items(), (_name(spec), asdict(proof))][-_KEPT:])
    with suppress(OSError, RebasinError):
        place = _place()
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(place) as out:
            out.write((json.dumps({"proofs": stored}, indent=1) + "\n").encode())


def _name(spec: PermutationSpec) -> str:
    """What is proved: its hash, and those of signs, scales and rotations where it has any."""
    scales = f"+scales {spec.scales_sha256}" if spec.scales else ""
    scales += f"+rotations {spec.rotations_sha256}" if spec.rotations else ""
    return f"{spec.sha256}+{spec.signs_sha256}{scales}" if spec.signs else f"{spec.sha256}{scales}"


def user_folder(variable: str, otherwise: str) -> Path:
    """Where the program keeps things of the user: under the folder that a variable names, if it is absolute.

    Args:
        otherwise: the folder below the home directory.
    """
    named = os.environ.get(variable, "")
    home = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~")) / otherwise
    return home / "rebasin"


def _place() -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state") / "proofs.json"


def _stored() -> dict[str, Any]:
    """What the file holds, by the hash of the spec; nothing if it is not ours."""
    try:
        found = read_json(_place(), _LARGEST)["proofs"]
    except (RebasinError, TypeError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _entry(value: object) -> RememberedProof | None:
    if not isinstance(value, dict) or set(value) != {"network", "when", "version", "error"}:
        return None
    words = (value["network"], value["when"], value["version"])
    if not all(isinstance(word, str) and word.isprintable() and len(word) <= _LONGEST for word in words):
        return None
    error = value["error"]
    if not isinstance(error, int | float) or isinstance(error, bool):
        return None
    return RememberedProof(*words, float(error))
