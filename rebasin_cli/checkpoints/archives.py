"""The two containers of torch.save, read without torch: where the pickle and the bytes of each storage are.

The current one is a zip archive of uncompressed records. The old one is a sequence of pickles (a magic number, the
version, the machine, the value, the storages' names) and then the storages, each after its count of elements.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rebasin_cli.checkpoints.inert import PickleFault, stand_for
from rebasin_cli.checkpoints.reader import StableFile
from rebasin_cli.checkpoints.stored import Storage, storage_of
from rebasin_cli.checkpoints.unpickling import Unpickled, unpickle
from rebasin_cli.checkpoints.zips import open_zip, record_start
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import shell_word

RESAVE = "save the state dict alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
DAMAGED = "the file is damaged or incomplete: download or save it again"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


class Archive(Protocol):
    """A file of torch.save, whose pickle has been read."""

    pickle: Unpickled
    swapped: bool

    def place(self, storage: Storage) -> int:
        """Where the storage's bytes begin in the file; they are all there, or PickleFault."""
        ...


def open_archive(file: StableFile, *, zipped: bool) -> Archive:
    """Read the pickle of a file.

    Raises:
        ContentError: it is not torch's, or damaged. PickleFault: its pickle is.
    """
    return _ZipArchive(file) if zipped else _OldArchive(file)


class _ZipArchive:
    def __init__(self, file: StableFile) -> None:
        self._file = file
        self._records = _records(file)
        folder = next(iter(self._records)).partition("/")[0] + "/"  # torch, too, takes that of the first record
        self._folder = folder
        pickle = folder + "data.pkl"
        if pickle not in self._records:
            raise ContentError(f"the archive has no {pickle}", where=str(file.path), remedy=DAMAGED)
        start, size = self._find(pickle)
        self.pickle = unpickle(file.stream(start, start + size))
        self.swapped = False
        if folder + "byteorder" in self._records:
            start, size = self._find(folder + "byteorder")
            self.swapped = file.read_bytes(start, min(size, 8)) == b"big"

    def place(self, storage: Storage) -> int:
        name = f"{self._folder}data/{storage.key}"
        if name not in self._records:
            raise PickleFault(f"the pickle speaks of the record {name[:100]!r}, which is not there")
        start, size = self._find(name)
        wanted = storage.numel * storage.itemsize
        if size < wanted:
            raise PickleFault(f"the record {name} has {size} bytes, and the pickle claims {wanted}")
        return start

    def _find(self, name: str) -> tuple[int, int]:
        """Position and size of a record's bytes, by the header before them (it is padded, so that they are aligned)."""
        record = self._records[name]
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise PickleFault(f"the record {name} is compressed, as torch does not write it: unpack and save it again")
        try:
            return record_start(self._file, record), record.file_size
        except ValueError as error:
            raise PickleFault(str(error)) from None


def _records(file: StableFile) -> Mapping[str, zipfile.ZipInfo]:
    """The records by name. An archive is torch's if it has a pickle, and not code (TorchScript) or arrays (.npz)."""
    where = str(file.path)
    try:
        with open_zip(file.stream(), file.path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError):
        raise ContentError(
            "the file is truncated: it begins as a torch checkpoint and has no directory at its end",
            where=where, remedy="download or save it again",
        ) from None  # fmt: skip
    names = {record.filename.rpartition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise ContentError("this is a TorchScript program, not a state dict", where=where, remedy=RESAVE)
    if "data.pkl" not in names:
        what = "other files"
        remedy = RESAVE
        if any(name.endswith(".npy") for name in names):
            what = "NumPy arrays (.npz) and other files"
        elif "model.weights.h5" in names:
            what = "a Keras model (.keras)"
            remedy = f"unpack its weights, and name them: unzip {shell_word(where)} model.weights.h5"
        raise ContentError(f"this is a zip archive of {what}, not a checkpoint", where=where, remedy=remedy)
    by_name = {record.filename: record for record in records}
    if len(by_name) != len(records):
        raise ContentError("the archive has two records of one name", where=where, remedy=DAMAGED)
    return by_name


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    nbytes: int


class _OldArchive:
    swapped = False  # storages are written in one order on all machines

    def __init__(self, file: StableFile) -> None:
        stream = file.stream()
        try:
            header = [unpickle(stream).value for _ in range(2)]
        except PickleFault:
            header = []
        if header != [_MAGIC, _VERSION]:
            raise ContentError(
                "this pickle is not one of torch's, or is damaged; nothing was executed",
                where=str(file.path), remedy=RESAVE,
            )  # fmt: skip
        unpickle(stream)  # about the machine it was written on
        self.pickle = unpickle(stream)
        self._storages = self._locate(file, unpickle(stream).value, stream.tell())

    def place(self, storage: Storage) -> int:
        found = self._storages.get(storage.key)
        wanted = storage.numel * storage.itemsize
        if found is None:
            raise PickleFault(f"the pickle speaks of the storage {storage.key[:100]!r}, which is not there")
        if found.nbytes < wanted:
            raise PickleFault(f"the storage {storage.key} has {found.nbytes} bytes, and the pickle claims {wanted}")
        return found.start

    def _locate(self, file: StableFile, keys: Any, position: int) -> dict[str, _Found]:
        """Where each storage begins: they follow one another, each after its count of elements (8 bytes)."""
        sizes: dict[str, int] = {}
        for pid in self.pickle.persistent:
            if isinstance(pid, tuple) and pid and pid[0] in ("storage", b"storage"):
                storage = storage_of(stand_for(pid))
                sizes.setdefault(storage.key, storage.itemsize)
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in sizes for key in keys):
            raise PickleFault("the list of its storages is damaged")
        found = {}
        for key in keys:
            if position + 8 > file.size:
                raise PickleFault(f"the file is truncated: it ends before the storage {key[:100]}")
            count = int.from_bytes(file.read_bytes(position, 8), "little", signed=True)
            position += 8
            nbytes = count * sizes[key]
            if count < 0 or position + nbytes > file.size:
                raise PickleFault(f"the file is truncated: the storage {key[:100]} should have {nbytes} bytes")
            found[key] = _Found(position, nbytes)
            position += nbytes
        return found
